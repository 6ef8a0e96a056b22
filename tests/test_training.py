"""Runs that are killed, resumed, damaged, asked to stop, out of disk; one process and two."""

import json
import math
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from softvq_lab import train as train_module
from softvq_lab.checkpoints import (
    best_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    steps_of,
)
from softvq_lab.commands import read_settings
from softvq_lab.core import ConfigError, write_json
from softvq_lab.experiments.execute import resume_job
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.hub.models import load_tokenizer, save
from softvq_lab.locks import owner
from softvq_lab.ranks import StepMean
from softvq_lab.runs import Run, open_run, read_metrics
from softvq_lab.settings.parse import flatten, parse
from softvq_lab.settings.sections import EngineConfig, OptimConfig, TokenizerConfig
from softvq_lab.settings.workflows import TrainConfig, TrainGeneratorConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.train import PREEMPTED, images_of, launch, load_config, main, prepare, train_here
from softvq_lab.training.loop import StopVote, fit
from softvq_lab.training.state import State
from softvq_lab.training.task import Task

FEW = dict(
    tokens=4,
    steps=40,
    batch_size=16,
    warmup_steps=4,
    checkpoint_every=4,
    log_every=1,
    eval_every=20,
    tracker="none",
)


TRAIN = [sys.executable, "-m", "softvq_lab.train"]


def prepared(folder, **settings) -> Run:
    config = parse(TrainConfig, {**FEW, **settings})
    return prepare(config, folder, images_of(config))


def train(folder, kill_when=None, how=signal.SIGKILL):
    "Train in a process of its own; signal it as soon as `kill_when(run)` holds."
    run = Run(folder) if (folder / "config.json").exists() else prepared(folder)
    p = subprocess.Popen(
        [sys.executable, "-m", "softvq_lab.train", str(run.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.time() + 120
    while p.poll() is None:
        if kill_when and kill_when(run):
            os.kill(p.pid, how)
            break
        assert time.time() < deadline, "training hangs"
        time.sleep(0.002)
    out = p.communicate()[0]
    assert kill_when or p.returncode == 0, out
    return p.returncode


def last(folder):
    return load_file(newest_checkpoint(folder / "checkpoints") / "raw.safetensors"), load_file(
        newest_checkpoint(folder / "checkpoints") / "model.safetensors"
    )


def same(a, b):
    return all(x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x) for x, y in zip(a, b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


@pytest.mark.slow
def test_sigkill_and_resume_end_in_the_same_bits(whole, tmp_path):
    folder = tmp_path / "run"
    kills = [
        lambda r: len(read_metrics(r)) >= 7,  # in mid-training
        lambda r: any(r.checkpoints.glob(".aside-*")) and len(read_metrics(r)) >= 16,
    ]  # while a checkpoint is written
    for when in kills:
        assert train(folder, when) == -signal.SIGKILL
        assert Run(folder).status["state"] == "interrupted"
    (folder / ".status.json.0badc0de.tmp").write_text("{")
    train(folder)
    assert same(last(folder), last(whole)) and Run(folder).status["state"] == "done"
    assert not list(folder.rglob(".*")), "what was being written at the kill is cleared away"
    assert [m["step"] for m in read_metrics(Run(folder))] == [
        m["step"] for m in read_metrics(Run(whole))
    ]


@pytest.mark.slow
def test_twenty_kills_at_random_moments(whole, tmp_path):
    """With every loss on, so that the discriminator, its averages and the projector are among what
    must come back.
    """
    everything = dict(percep="reference", adv="reference", align="reference")
    prepared(tmp_path / "calm", **everything), prepared(tmp_path / "run", **everything)
    train(tmp_path / "calm")
    draw, killed, writing = random.Random(7), 0, 0
    while killed < 20:
        folder = tmp_path / "run"
        done = max((m["step"] for m in read_metrics(Run(folder))), default=0)
        if done >= 38:
            (
                shutil.rmtree(folder),
                prepared(folder, **everything),
            )  # nearly through: from the start again
        if killed % 4 == 3:

            def when(r):
                return any(r.checkpoints.glob(".aside-*"))
        else:
            after = draw.uniform(0, 4.0)
            began = []

            def when(r, after=after, began=began):  # some seconds after the process began to train
                if not began and r.status["state"] == "running" and r.status["pid"] != os.getpid():
                    began.append(time.time())
                return began and time.time() - began[0] > after

        if train(folder, when) == -signal.SIGKILL:
            killed, writing = killed + 1, writing + (killed % 4 == 3)
    assert writing >= 4
    train(tmp_path / "run")
    assert same(last(tmp_path / "run"), last(tmp_path / "calm"))
    for name in ("others", "opponent_optimizer"):
        assert same(
            *(
                [load_file(newest_checkpoint(tmp_path / r / "checkpoints") / f"{name}.safetensors")]
                for r in ("run", "calm")
            )
        )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_asked_to_stop_it_saves_and_says_so(whole, tmp_path, how):
    folder = tmp_path / "run"
    assert train(folder, lambda r: len(read_metrics(r)) >= 9, how) == PREEMPTED
    status = Run(folder).status
    assert (
        status["state"] == "preempted"
        and newest_checkpoint(folder / "checkpoints").name == f"step-{status['step']:06d}"
    )
    train(folder)
    assert same(last(folder), last(whole))


@pytest.mark.slow
def test_an_interrupt_saves_and_the_status_says_where(tmp_path):
    folder = tmp_path / "run"
    assert train(folder, lambda r: len(read_metrics(r)) >= 3, signal.SIGINT)
    status = Run(folder).status
    assert (
        status["state"] == "stopped"
        and newest_checkpoint(folder / "checkpoints").name == f"step-{status['step']:06d}"
        and f"stopped after step {status['step']}" in status["error"]
    )


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_is_not_the_end_of_its_readers(tmp_path):
    "Slurm and service managers signal the whole group, the loader's workers too."
    for i in range(40):
        path = tmp_path / "images" / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i, 200 - i, 40)).save(path)
    run = prepared(
        tmp_path / "run",
        dataset="folder",
        data_path=str(tmp_path / "images"),
        image_size=16,
        batch_size=8,
        workers=2,
        steps=1000,
        checkpoint_every=1000,
        eval_every=1000,
    )
    p = subprocess.Popen([*TRAIN, str(run.path)], start_new_session=True)
    while len(read_metrics(run)) < 3:
        assert p.poll() is None
        time.sleep(0.01)
    readers = psutil.Process(p.pid).children()
    for how in (signal.SIGHUP, signal.SIGUSR2, signal.SIGTERM):
        os.killpg(p.pid, how)
    assert p.wait(120) == PREEMPTED and len(readers) == 2
    assert newest_checkpoint(run.checkpoints).name == f"step-{run.status['step']:06d}"
    assert not any(psutil.pid_exists(r.pid) for r in readers)


def test_nohup_stays_what_it_is():
    code = (
        "import os, signal; from softvq_lab.signals import Requests; r = Requests().__enter__(); "
        "os.kill(os.getpid(), signal.SIGHUP); print([r.asked])"
    )

    def ignored():
        return signal.signal(signal.SIGHUP, signal.SIG_IGN)

    for how, said in ((ignored, "['']"), (None, "['SIGHUP']")):
        done = subprocess.run([sys.executable, "-c", code], preexec_fn=how, capture_output=True)
        assert done.stdout.decode().strip() == said


@pytest.mark.slow
def test_a_training_that_was_taken_over_writes_nothing_more(tmp_path):
    run = prepared(tmp_path / "run", steps=100_000, checkpoint_every=100_000, eval_every=100_000)
    p = subprocess.Popen([*TRAIN, str(run.path)], stderr=subprocess.PIPE, text=True)
    while len(read_metrics(run)) < 3:
        assert p.poll() is None
        time.sleep(0.01)
    assert owner(run.lock)["pid"] == p.pid and main([str(run.path)]) == 2
    run.lock.unlink()  # as --take-over does on another machine
    assert p.wait(60) == 1 and "was taken over by another process, or deleted" in p.stderr.read()
    assert run.status["state"] == "interrupted" and not steps_of(run.checkpoints)


def test_what_fails_before_the_first_step_is_in_the_status(tmp_path):
    run = prepared(tmp_path / "run", image_size=16, adv="patchgan")
    assert run.status["state"] == "prepared"
    with pytest.raises(ValueError, match="at least 24 pixels"):
        train_here(run)
    assert run.status["state"] == "failed" and "at least 24 pixels" in run.status["error"]
    assert owner(run.lock) is None


def test_a_signal_before_the_first_step_ends_it_at_once(tmp_path, monkeypatch):
    run = prepared(tmp_path / "run")
    monkeypatch.setattr(
        "softvq_lab.train.make_task", lambda *a: os.kill(os.getpid(), signal.SIGTERM)
    )
    assert main([str(run.path)]) == PREEMPTED and run.status["state"] == "preempted"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_ranks_agree_on_the_step_after_which_they_stop(tmp_path):
    "A signal to one of three, in the middle of steps that take each of them another time."

    def rank(r: int):
        os.environ.update(RANK=str(r), WORLD_SIZE="3", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        torch.distributed.init_process_group("gloo")
        vote, step = StopVote(3), 0
        while not (asked := vote("SIGTERM" if r == 2 and step == 5 else "")):
            step += 1
            time.sleep(0.001 * r)
        vote.barrier()
        (tmp_path / str(r)).write_text(f"{step} {asked}")

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    pids = []
    for r in range(3):
        if not (pid := os.fork()):
            try:
                rank(r)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert [(tmp_path / str(r)).read_text() for r in range(3)] == ["6 1"] * 3


@pytest.mark.slow
def test_two_ranks_stop_between_two_lines_of_the_log_and_go_on(whole, tmp_path):
    settings = dict(processes=2, log_every=1000, steps=300, checkpoint_every=1000, eval_every=1000)
    run = prepared(tmp_path / "two", **settings)
    code = (
        "import sys; from softvq_lab.train import launch; from softvq_lab.runs import Run; "
        "launch(Run(sys.argv[1]))"
    )
    p = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stderr=subprocess.PIPE)
    while run.status["state"] != "running" or run.status.get("steps") != 300:
        assert p.poll() is None
        time.sleep(0.05)
    time.sleep(3)
    p.send_signal(signal.SIGTERM)
    assert b"Preempted" in p.communicate(timeout=100)[1]
    stopped = run.status
    assert stopped["state"] == "preempted" and 0 < stopped["step"] < 300
    assert newest_checkpoint(run.checkpoints).name == f"step-{stopped['step']:06d}"
    launch(run)
    assert run.status["state"] == "done"


def test_copies_beside_the_checkpoints_are_passed_over(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run") / "checkpoints"
    for name in ("step-000040.bak", "step-000036-good", "step-", "step-12a"):
        shutil.copytree(steps_of(folder)[-1], folder / name)
    assert newest_checkpoint(folder).name == "step-000040"
    assert load_tokenizer(tmp_path / "run").fingerprint == load_tokenizer(whole).fingerprint
    save_checkpoint(folder, 44, {"model": {"w": torch.ones(2)}}, {}, keep=1)
    assert (folder / "step-000040.bak").is_dir() and newest_checkpoint(folder).name == "step-000044"


PLUGIN = "import pathlib; pathlib.Path(__file__).with_suffix('.ran').touch()"


@pytest.mark.slow
def test_a_run_folder_brings_no_code(tmp_path):
    "It names its plug-ins; a person says them, or training does not go on."
    plugin, ran = tmp_path / "theirs.py", tmp_path / "theirs.ran"
    plugin.write_text(PLUGIN)
    run = prepared(tmp_path / "run", steps=5, eval_every=5)
    info = run.info
    info["config"]["where"]["plugins"] = str(plugin)
    write_json(run.path / "config.json", info)
    with pytest.raises(ConfigError, match="cannot go on without its plug-ins"):
        resume_job(run.path)
    parse(TrainConfig, flatten(load_config(run)) | dict(run=str(run.path), resume=True))
    command = [*TRAIN, str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and f"--plugins {plugin}" in done.stderr and not ran.exists()
    done = subprocess.run([*command, "--plugins", str(plugin)], capture_output=True, text=True)
    assert done.returncode == 0 and ran.exists()


@pytest.mark.slow
def test_a_truncated_checkpoint_costs_only_time(whole, tmp_path):
    folder = tmp_path / "run"
    train(folder, lambda r: len(steps_of(r.checkpoints)) == 2)
    with open(steps_of(folder / "checkpoints")[-1] / "task_optimizer.safetensors", "r+b") as f:
        f.truncate(100)
    with pytest.warns(UserWarning, match="is damaged .task_optimizer.safetensors"):
        newest_checkpoint(folder / "checkpoints")
    train(folder)
    assert same(last(folder), last(whole))


@pytest.mark.slow
def test_a_full_disk_costs_only_time(whole, tmp_path):
    "A real file system of 48 MB that another file fills up while training goes on."
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        run = prepared(disk / "run")

        def fill(r):
            if len(read_metrics(r)) < 9:
                return False
            with open(disk / "filler", "wb", buffering=0) as f:
                try:
                    while True:
                        f.write(bytes(4096))
                except OSError:
                    return False  # full: leave the training alone and wait for its end

        p = subprocess.Popen(
            [sys.executable, "-m", "softvq_lab.train", str(run.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while p.poll() is None:
            if not (disk / "filler").exists():
                fill(run)
            time.sleep(0.01)
        assert p.returncode == 1 and "No space left on device" in p.communicate()[0]
        assert newest_checkpoint(run.checkpoints) is not None and run.status["state"] in (
            "failed",
            "interrupted",
        )
        (disk / "filler").unlink()
        train(disk / "run")
        assert same(last(disk / "run"), last(whole))
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_generator_whose_images_are_read_by_others_learns_the_same(trained, tmp_path):
    for workers in (0, 2):
        config = parse(
            TrainGeneratorConfig,
            {k: v for k, v in FEW.items() if k != "tokens"}
            | dict(
                tokenizer_run=str(trained / "tokenizer"),
                latents="fly",
                mirror=True,
                workers=workers,
                width=32,
                depth=1,
                heads=2,
                steps=5,
                eval_every=5,
            ),
        )
        train_here(
            prepare(
                config,
                tmp_path / str(workers),
                images_of(config, load_tokenizer(config.tokenizer_run)),
            )
        )
    assert same(last(tmp_path / "0"), last(tmp_path / "2"))


def test_a_tokenizer_that_is_no_run_does_not_say_what_a_generator_should_learn(tmp_path):
    save(Tokenizer(TokenizerConfig(tokens=4)), tmp_path / "saved")
    with pytest.raises(ConfigError, match="saved' does not say on which images it was trained"):
        images_of(
            parse(TrainGeneratorConfig, dict(tokenizer_run=str(tmp_path / "saved"))),
            load_tokenizer(tmp_path / "saved"),
        )


def test_checkpoints_are_in_the_order_of_their_steps_beyond_a_million(tmp_path):
    for step in (999_000, 1_000_000):
        save_checkpoint(tmp_path, step, {"model": {"w": torch.ones(2)}}, {}, keep=1, score=1.0)
    assert [p.name for p in steps_of(tmp_path)] == ["step-1000000"] and best_checkpoint(
        tmp_path
    ) == newest_checkpoint(tmp_path) == tmp_path / "step-1000000"


def test_nothing_is_left_behind_but_the_newest_and_the_best(whole):
    kept = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert kept[-2:] == ["step-000036", "step-000040"] and kept == sorted(
        {*kept[-2:], best_checkpoint(whole / "checkpoints").name}
    )


ALIKE = FEW | dict(
    steps=12, eval_every=12, checkpoint_every=12, codebook_size=64, lr=3e-4
)  # at ten times this rate rounding grows tenfold in a step: the KL term's temperature is 0.01


STATED = {"rec", "kl", "loss", "grad_norm", "usage", "perplexity", "collapse", "window_usage"}


def alike(one: Run, two: Run, rel_tol: float = 1e-5):
    """Two ways to share a batch: what is logged agrees within a part of its size at each step, and
    the weights at the end.
    """
    for a, b in zip(read_metrics(one), read_metrics(two), strict=True):
        assert a.keys() == b.keys() and ("rec" not in a or STATED - {"kl"} <= a.keys())
        for k in a:
            # a share of some thousand logits: one of them may lie at the threshold
            least = 3e-4 if k.endswith("_right") else 1e-6
            assert math.isclose(a[k], b[k], rel_tol=rel_tol, abs_tol=least), (k, a, b)
    for a, b in zip(last(one.path), last(two.path)):
        for k in a:
            torch.testing.assert_close(a[k], b[k], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    "The same global batch; the two cut their shares in parts as well."
    one = prepared(tmp_path / "one", **ALIKE)
    two = prepared(tmp_path / "two", processes=2, accumulate=2, **ALIKE)
    launch(one), launch(two)
    assert two.status["state"] == "done" and "Warning" not in (two.path / "train.log").read_text()
    alike(one, two, rel_tol=1e-4)  # 1.5e-5 with another CPU's kernels: rounding, over twelve steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        dict(),
        dict(quantizer="gmmvq", groups=2),
        dict(quantizer="vq", codebook_ema=0.5, revive=True),
        dict(quantizer="lfq"),
        dict(quantizer="rotation"),
        dict(adv="reference", diffaug=0.0, consistency=0.0, lecam=0.5),
    ],
    ids=lambda w: w.get("quantizer") or w.get("adv", "softvq"),
)
def test_parts_of_a_batch_train_as_the_whole(tmp_path, what):
    """Three steps: LFQ's entropies (temperature 0.01) make rounding grow tenfold in each. The rate
    is low because Adam makes a whole step of a gradient that is nothing but rounding: at 3e-4 the
    norm of the third step differed by 1.6e-4 with one CPU's kernels."""
    few = dict(steps=3, warmup_steps=1, batch_size=32, lr=3e-5)  # a norm there is of 8 images
    settings = ALIKE | few | what
    whole = prepared(tmp_path / "whole", **settings)
    train_here(whole)
    for parts in (2, 4):
        run = prepared(tmp_path / f"parts-{parts}", accumulate=parts, **settings)
        train_here(run)
        alike(whole, run, rel_tol=1e-4)


@pytest.mark.slow
def test_two_processes_with_every_loss(tmp_path):
    run = prepared(
        tmp_path / "two",
        processes=2,
        steps=6,
        percep="reference",
        adv="reference",
        align="reference",
        eval_every=6,
        checkpoint_every=6,
    )
    launch(run)
    m = [m for m in read_metrics(run) if "adv" in m]
    assert (
        run.status["state"] == "done"
        and len(m) == 6
        and all(math.isfinite(v) for row in m for v in row.values())
    )


def test_fewer_ranks_than_asked_for_is_an_error(tmp_path, capsys):
    run = prepared(tmp_path / "r", processes=2)
    assert (
        main([str(run.path)]) == 2
        and "processes=2 were asked for and 1 came" in capsys.readouterr().err
    )
    with pytest.raises(ConfigError, match="batch_size=16 cannot be shared out to processes=3"):
        parse(TrainConfig, dict(**FEW, processes=3))


@pytest.mark.parametrize(
    "engine",
    [
        dict(precision="bf16"),
        dict(accumulate=4),
        dict(recompute=True),
        pytest.param(
            dict(compile=True),
            marks=[  # dynamo itself asks every tensor for its gradient, and torch warns of that
                pytest.mark.slow,
                pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
            ],
        ),
        dict(tracker="tensorboard"),
    ],
    ids=lambda e: next(iter(e)),
)
def test_the_engine_changes_how_and_not_what(tmp_path, engine):
    shared = dict(
        steps=8, eval_every=8, kl_weight=0.0
    )  # its temperature of 0.01 makes rounding grow at this learning rate
    plain, other = (
        prepared(tmp_path / "plain", **shared),
        prepared(tmp_path / "other", **shared, **engine),
    )
    train_here(plain), train_here(other)
    a, b = ([m["rec"] for m in read_metrics(r) if "rec" in m] for r in (plain, other))
    tolerance = 2e-2 if "precision" in engine else 1e-3
    assert len(a) == 8 and all(math.isclose(x, y, rel_tol=tolerance) for x, y in zip(a, b)), (a, b)
    if "tracker" in engine:
        assert any((other.path / "tensorboard").rglob("events.out.tfevents.*"))


def test_what_is_impossible_here_says_so(tmp_path):
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="precision='fp16' needs a GPU"):
            train_here(prepared(tmp_path / "a", precision="fp16"))
    with pytest.raises(ConfigError, match="tracker='wandb' is not installed"):
        train_here(prepared(tmp_path / "b", tracker="wandb"))
    with pytest.raises(ConfigError, match="64 patches of the teacher"):
        parse(TrainConfig, dict(tokens=24, align="reference"))


class Bad(Task):
    def __init__(self, factor):
        super().__init__()
        self.factor, self.data = factor, torch.utils.data.TensorDataset(torch.ones(8, 1))
        self.model = torch.nn.Sequential(
            torch.nn.Linear(1, 4), torch.nn.Softplus(), torch.nn.Linear(4, 1)
        )
        self.model[1].register_forward_hook(
            lambda m, args, out: out * factor if self.step >= 3 else out
        )

    def forward(self, batch):
        return {"loss": self.model(batch[0]).mean()}


def test_nan_stops_the_run_names_its_birthplace_and_spoils_no_weight(tmp_path):
    run, task = open_run(tmp_path / "r", "toy", {}), Bad(float("nan"))
    with pytest.raises(FloatingPointError, match=r"step 4 is not finite: model.1 \(Softplus\)"):
        fit(task, run, OptimConfig(steps=9, warmup_steps=1, batch_size=4, log_every=2))
    assert run.status["state"] == "failed" and "Softplus" in run.status["error"]
    assert all(p.isfinite().all() for p in task.parameters())


class Burst(torch.nn.Module):
    "As it is, and from step `first` on not a number."

    def __init__(self, first: int):
        super().__init__()
        self.first, self.steps = first, 0

    def forward(self, x):
        self.steps += self.training
        return x * float("nan") if self.steps > self.first else x


def bursting(run: Run, first: int, monkeypatch) -> str:
    "What a training says whose step after `first` is not finite."
    with monkeypatch.context() as m:
        make, burst = train_module.make_task, Burst(first)

        def broken(*given):
            task = make(*given)
            task.model.from_latent.register_forward_hook(
                lambda mod, x, y: burst.train(mod.training)(y)
            )
            return task

        m.setattr(train_module, "make_task", broken)
        with pytest.raises(FloatingPointError) as e:
            train_here(run)
    assert run.status["state"] == "failed"
    return str(e.value)


def test_what_is_advised_after_a_nan_can_be_done(tmp_path, monkeypatch):
    few = dict(steps=7, checkpoint_every=3, eval_every=7, lr=0.02, tokens=5, precision="bf16")
    run = prepared(tmp_path / "a run", **few)
    says = bursting(run, 4, monkeypatch)
    folder = re.search(
        r"start_from='(.*?)', which takes the averaged weights of step-000003", says
    )[1]
    assert "lower lr than 0.02, or a longer warmup_steps" in says and folder == str(run.path)

    given = few | {"lr": 0.004, "start_from": folder, "run": str(tmp_path / "b")}
    config = check_parameters("train", FEW | given)
    new = prepare(config, config.where.run, images_of(config))
    train_here(new)
    assert new.status["state"] == "done"

    command = shlex.split(says[says.index("softvq-lab run") :])
    assert command[:3] == ["softvq-lab", "run", "train"] and command[-1] == "--resume"
    given = read_settings(command[3:-1]) | {"resume": True}
    config = check_parameters("train", given)
    train_here(again := prepare(config, config.where.run, images_of(config)))
    assert again.status["state"] == "done" and load_config(again).engine.precision == "fp32"
    assert again.info["segments"][0]["changed"]


def test_no_checkpoint_is_advised_where_there_is_none(tmp_path, monkeypatch):
    says = bursting(prepared(tmp_path / "a", steps=5, lr=0.03), 1, monkeypatch)
    assert "begin a new run (another run=...) with a lower lr than 0.03" in says
    assert "start_from" not in says and "--resume" not in says


# ---------------------------------------------------------------- averaged weights


class Slope(Task):
    "A line through the origin."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        x = torch.linspace(-1, 1, 12)[:, None]
        self.model, self.data = torch.nn.Linear(1, 1), torch.utils.data.TensorDataset(x, 3 * x)

    def forward(self, batch):
        return {"loss": (self.model(batch[0]) - batch[1]).square().mean()}


def averaged(**settings) -> tuple[list[float], float]:
    "The weight at the beginning and after each of some steps, and the averaged one at the end."
    optim = OptimConfig(steps=7, warmup_steps=1, batch_size=4, lr=0.1, **settings)
    state, raw = State(Slope(), optim, EngineConfig(), Accelerator(cpu=True)), []
    for step in range(optim.steps):
        raw.append(state.task.model.weight.item())
        state.trainable.step(step, [t[step : step + 4] for t in state.task.data.tensors])
        state.trainable.optimizer.step()
        state.average(step)
    return [*raw, state.task.model.weight.item()], state.ema.module.weight.item()


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.97])
def test_the_decay_of_averaged_weights_is_the_one_of_the_settings_from_the_first_step_on(decay):
    raw, average = averaged(ema_decay=decay)
    expected = raw[0]
    for weight in raw[1:]:
        expected = decay * expected + (1 - decay) * weight
    assert average == pytest.approx(expected, rel=1e-5)


def test_a_step_that_fails_in_a_later_part_leaves_the_model_out_of_it():
    class Fails(Slope):
        def __init__(self):
            super().__init__()
            self.mean = StepMean()

        def survey(self, batch):
            self.mean(self.model(batch[0]).mean())

        def forward(self, batch):
            if batch[0].max() > 0:
                raise MemoryError
            return {"loss": self.mean(self.model(batch[0]).mean())}

    state = State(Fails(), OptimConfig(), EngineConfig(accumulate=3), Accelerator(cpu=True))
    with pytest.raises(MemoryError) as kept:  # with the frames of the step
        state.trainable.step(0, list(state.task.data.tensors))
    assert kept.traceback and state.task.mean.phase == "alone" and state.task.mean.known is None


def test_a_warm_up_of_the_average_is_a_choice():
    raw, average = averaged(ema_decay=0.97, ema_warmup=True)
    expected = raw[2]  # before that there is nothing to average
    for step, weight in enumerate(raw[3:], 2):
        decay = min(0.97, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * weight
    assert average == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_run_of_an_older_version_goes_on_as_that_version_trained(tmp_path):
    "Its settings name neither a warm-up of the average nor the optimiser's betas."
    few = dict(steps=8, ema_decay=0.99, eval_every=8)
    today = prepared(tmp_path / "today", **few, ema_warmup=True, beta1=0.9, beta2=0.95)
    older = prepared(tmp_path / "older", **few, beta1=0.5, beta2=0.5)
    info = older.info
    for setting in ("ema_warmup", "beta1", "beta2"):
        del info["config"]["optim"][setting]
    (older.path / "config.json").write_text(json.dumps(info))
    train_here(today), train_here(older)
    assert same(last(today.path), last(older.path))
    constant = prepared(tmp_path / "constant", **few)
    train_here(constant)
    raw, average = zip(last(today.path), last(constant.path))
    assert same([raw[0]], [raw[1]]) and not same([average[0]], [average[1]])


@pytest.mark.slow
def test_a_training_that_waits_for_its_images_says_so_and_what_helps(tmp_path):
    from torch.utils.data import Dataset

    from softvq_lab.training.health import waits

    class Slow(Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, i):
            time.sleep(0.03)  # longer than a step takes on a busy machine as well
            return self.images[i]

    config = check_parameters("train", FEW | {"run": str(tmp_path / "a")})
    images = images_of(config)
    images = replace(images, train=Slow(images.train))
    run = prepare(config, config.where.run, images)
    train_here(run, images)
    assert 0.25 < run.status["waiting"] <= 1
    told = waits(run.status, flatten(config) | {"workers": 0})
    assert "of the time passed in waiting for images" in told[0] and "workers=2" in told[1]
