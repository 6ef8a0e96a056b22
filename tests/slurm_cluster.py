"""A real Slurm for tests: munged, slurmctld and a slurmd for each node, in a folder of its own."""

import os
import platform
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")


def missing() -> str:
    "Why no cluster can be started here, '' when one can."
    if gone := [
        n for n in NEEDED if not shutil.which(n, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    ]:
        return f"{', '.join(gone)} not installed: make system-deps"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def _free_ports(n: int) -> list[int]:
    taken = [socket.socket() for _ in range(n)]
    for s in taken:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in taken]
    for s in taken:
        s.close()
    return ports


@contextmanager
def cluster(folder: Path, nodes: int = 1, cpus: int = 2):
    """Start it; yields when its nodes are idle, with SLURM_CONF set in the environment.

    Several nodes are several slurmd here, which Debian's Slurm can do.
    """
    folder, host = Path(folder), platform.node().split(".")[0]
    (folder / "state").mkdir(parents=True)
    names, ports = [f"n{i}" for i in range(1, nodes + 1)], _free_ports(nodes + 1)
    lines = [
        f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={p} CPUs={cpus} "
        "RealMemory=1000 State=UNKNOWN"
        for n, p in zip(names, ports[1:])
    ]
    text = (Path(__file__).parent / "slurm.conf").read_text()
    for k, v in {
        "@DIR@": folder,
        "@HOST@": host,
        "@PORT1@": ports[0],
        "@NODES@": "\n".join(lines),
    }.items():
        text = text.replace(k, str(v))
    (folder / "slurm.conf").write_text(text)
    (folder / "munge.key").write_bytes(os.urandom(256))
    (folder / "munge.key").chmod(0o400)
    env = {
        **os.environ,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
    }
    munge = [f"--{k}-file={folder}/munge.{k}" for k in ("key", "log", "pid", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D", "-i"],
        *(["slurmd", "-D", "-N", n] for n in names),
    )
    before, processes = os.environ.get("SLURM_CONF"), []
    try:
        for i, c in enumerate(commands):
            with open(folder / f"{c[0]}-{i}.out", "w") as out:
                processes.append(subprocess.Popen(c, env=env, stdout=out, stderr=subprocess.STDOUT))
            time.sleep(0.5)
        os.environ["SLURM_CONF"] = env["SLURM_CONF"]
        deadline = time.time() + 40
        while (
            subprocess.run(
                ["sinfo", "-h", "-o", "%T %D"], capture_output=True, text=True
            ).stdout.strip()
            != f"idle {nodes}"
        ):
            if time.time() > deadline or any(p.poll() is not None for p in processes):
                raise RuntimeError(
                    "no cluster:\n"
                    + "\n".join(
                        f"{f.name}: {f.read_text(errors='replace')[-1500:]}"
                        for f in sorted([*folder.glob("*.out"), *folder.glob("*.log")])
                    )
                )
            time.sleep(0.3)
        yield folder
        subprocess.run(["scancel", "--user", "root"], capture_output=True, timeout=20)
    finally:
        for p in reversed(processes):
            p.terminate()
            try:
                p.wait(15)
            except subprocess.TimeoutExpired:
                p.kill()
        if before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = before
