"""Who is at work: one of those who begin at the same moment, whatever the file system and the
machine.
"""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from softvq_lab import locks
from softvq_lab.core import ConfigError
from softvq_lab.experiments.execute import (
    Job,
    begin_workflow,
    execute,
    resume_job,
    run_workflow,
    stop,
)
from softvq_lab.experiments.parameters import numbered
from softvq_lab.experiments.scheduler import Local, drive
from softvq_lab.experiments.sweep import open_sweep, read_report
from softvq_lab.locks import GONE, Lock, Taken, age, create, made_once, owner, take_away
from softvq_lab.runs import Run, at_work, check_run, open_run, take_over_run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.signals import Preempted, Requests

CONFIG = asdict(parse(TrainConfig, dict(tokens=4)))


def fork(act, *arguments) -> int:
    "`act` in a child, which ends with what it returns; its pid."
    if pid := os.fork():
        return pid
    code = 99
    try:
        code = act(*arguments)
    except Taken:
        code = 7
    finally:
        os._exit(code)


def end_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hold(path, ready: Path, seconds=60.0) -> int:
    with Lock(path):
        ready.touch()
        time.sleep(seconds)
    return 0


def holder(path) -> int:
    "The pid of a process that holds the lock."
    ready = path.with_name(f"{path.name}.ready")
    pid = fork(hold, path, ready)
    while not ready.exists():
        time.sleep(0.01)
    return pid


@pytest.fixture(params=[None, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL])
def file_system(request, monkeypatch):
    "One with locks, and those that say in different words that they have none."
    if request.param:

        def none(fd, how):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", none)
    return request.param


def of_another_machine(path, **more):
    "As a process of another machine leaves a lock that this machine's kernel knows nothing of."
    said = {"host": "node-17", "pid": 4, "created": 1.0, "machine": "another", "how": "flock"}
    path.write_text(json.dumps(said | more))


def test_of_six_that_begin_at_once_one_works(tmp_path, file_system):
    begin = time.time() + 0.3

    def take() -> int:
        while time.time() < begin:
            pass
        try:
            with Lock(tmp_path / "a.lock"):  # until the others were refused, however late they come
                while len(list(tmp_path.glob("refused-*"))) < 5 and time.time() < begin + 60:
                    time.sleep(0.05)
        except Taken:
            (tmp_path / f"refused-{os.getpid()}").touch()
            raise
        return 0

    assert sorted(end_of(p) for p in [fork(take) for _ in range(6)]) == [0] + [7] * 5
    with Lock(tmp_path / "a.lock"):  # and it is free afterwards
        assert owner(tmp_path / "a.lock")["pid"] == os.getpid()


def test_an_owner_that_was_killed_is_known_at_once_on_its_machine(tmp_path, file_system):
    path = tmp_path / "a.lock"
    pid = holder(path)
    assert owner(path)["pid"] == pid
    with pytest.raises(Taken, match=f"process {pid} on"):
        Lock(path).acquire()
    os.kill(pid, signal.SIGKILL), end_of(pid)
    assert owner(path) is None
    Lock(path).acquire().release()


def test_only_three_errors_mean_that_another_process_has_it(tmp_path, monkeypatch):
    for code, raised in ((errno.EACCES, Taken), (errno.EAGAIN, Taken), (errno.EIO, OSError)):

        def refuse(fd, how, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", refuse)
        with pytest.raises(raised):
            Lock(tmp_path / "a.lock").acquire(patience=0.1)


def test_an_owner_elsewhere_is_believed_while_its_heart_beats(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    of_another_machine(path)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a clock that is decades behind the disk's
    assert owner(path)["host"] == "node-17"
    with pytest.raises(Taken, match="process 4 on node-17"):
        Lock(path).acquire()
    beat = path.stat().st_mtime - GONE - 1
    os.utime(path, (beat, beat))
    assert age(path) > GONE and owner(path) is None
    with Lock(path):
        assert owner(path)["pid"] == os.getpid()


def test_a_heart_beats_while_the_lock_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.02)
    with Lock(tmp_path / "a.lock"):
        os.utime(tmp_path / "a.lock", (1, 1))
        while age(tmp_path / "a.lock") > 60:
            time.sleep(0.01)


def test_a_forked_child_does_not_hold_the_lock_longer_than_its_parent_lives(tmp_path):
    path, child = tmp_path / "a.lock", tmp_path / "child"

    def parent() -> int:
        Lock(path).acquire()
        pid = fork(lambda: time.sleep(60) or 0)
        child.write_text(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)

    end_of(fork(parent))
    try:
        assert owner(path) is None
    finally:
        os.kill(int(child.read_text()), signal.SIGKILL)


def test_who_is_taken_over_notices(tmp_path, file_system):
    path = tmp_path / "a.lock"
    with Lock(path) as mine:
        assert mine.mine()
        for file in tmp_path.glob("a.lock*"):
            file.unlink()  # what take_away does from another machine
        pid = holder(path)
        assert not mine.mine() and mine.lost
    assert owner(path)["pid"] == pid, "giving it back took it from the new owner"
    os.kill(pid, signal.SIGKILL), end_of(pid)


def test_a_clock_that_is_set_makes_nobody_dead(tmp_path, file_system, monkeypatch):
    path, began = tmp_path / "a.lock", psutil.Process.create_time
    pid = holder(path)
    monkeypatch.setattr(psutil.Process, "create_time", lambda p: began(p) - 86_400)
    assert owner(path)["pid"] == pid
    with pytest.raises(Taken, match=f"process {pid} on"):
        Lock(path).acquire()
    with pytest.raises(Taken, match="is alive and at work"):
        take_away(path)
    os.kill(pid, signal.SIGKILL), end_of(pid)
    assert owner(path) is None


def test_a_lock_keeps_no_file_open_for_writing(tmp_path, file_system):
    with Lock(tmp_path / "a.lock") as lock:  # its file system can be made read only
        assert fcntl.fcntl(lock.fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert owner(tmp_path / "a.lock")["pid"] == os.getpid()


def test_a_file_system_that_locks_only_what_is_open_for_writing_has_locks(tmp_path, monkeypatch):
    real = fcntl.flock

    def as_nfs(fd, how):
        if how & fcntl.LOCK_EX and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    pid = holder(tmp_path / "a.lock")
    with pytest.raises(Taken, match=f"process {pid} on"):
        Lock(tmp_path / "a.lock").acquire()
    assert owner(tmp_path / "a.lock")["how"] == "flock"
    os.kill(pid, signal.SIGKILL), end_of(pid)
    Lock(tmp_path / "a.lock").acquire().release()


def test_who_lives_in_another_container_of_this_machine_is_not_taken_over(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    pid = holder(path)
    monkeypatch.setattr(locks, "_numbers", lambda: "pid:[17]")
    with pytest.raises(Taken, match="is alive and at work"):
        take_away(path)
    os.kill(pid, signal.SIGKILL), end_of(pid)
    take_away(path)


def test_what_is_alive_here_is_not_taken_over(tmp_path):
    pid = holder(tmp_path / "a.lock")
    with pytest.raises(Taken, match="is alive and at work"):
        take_away(tmp_path / "a.lock")
    os.kill(pid, signal.SIGKILL), end_of(pid)
    take_away(tmp_path / "a.lock")


def test_what_is_held_here_is_not_taken_over_though_a_full_disk_left_its_file_empty(tmp_path):
    pid = holder(tmp_path / "a.lock")
    (tmp_path / "a.lock").write_text("")
    with pytest.raises(Taken, match="is alive and at work"):
        take_away(tmp_path / "a.lock")
    os.kill(pid, signal.SIGKILL), end_of(pid)


def test_a_lock_that_is_taken_for_a_moment_is_waited_for(tmp_path):
    path, ready = tmp_path / "a.lock", tmp_path / "ready"

    def plan() -> int:
        with Lock(path, brief=True):
            ready.touch()
            time.sleep(0.5)
        return 0

    pid = fork(plan)
    while not ready.exists():
        time.sleep(0.01)
    with Lock(path):
        assert end_of(pid) == 0


def test_a_lock_held_for_a_moment_becomes_one_for_long_without_being_free(tmp_path, file_system):
    path, tries = tmp_path / "a.lock", tmp_path / "tries"

    def take() -> int:
        with Lock(path):
            tries.touch()
        return 0

    with Lock(path, brief=True):
        pid = fork(take)  # it waits, as for any moment
        time.sleep(0.2)
        with Lock(path):
            assert not owner(path).get("brief")
            assert end_of(pid) == 7 and not tries.exists()
    assert owner(path) is None and end_of(fork(take)) == 0


def test_what_several_want_is_made_by_one(tmp_path, file_system):
    thing = tmp_path / "cache" / "thing"

    def want() -> int:
        with made_once(thing):
            if not thing.exists():
                with open(tmp_path / "made", "a") as f:
                    f.write("x")
                time.sleep(0.2)
                thing.touch()
        return 0

    assert [end_of(p) for p in [fork(want) for _ in range(4)]] == [0] * 4
    assert (tmp_path / "made").read_text() == "x"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_made_by_the_first_and_whole(tmp_path, monkeypatch, links):
    def no(*a):
        raise OSError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", no)
    assert [create(tmp_path / "a", t) for t in (b"first", b"second")] == [True, False]
    assert (tmp_path / "a").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


# runs
def test_of_three_who_make_the_same_run_one_makes_it(tmp_path):
    begin = time.time() + 0.3

    def make() -> int:
        while time.time() < begin:
            pass
        try:
            open_run(tmp_path / "r", "tokenizer", CONFIG)
        except ConfigError as e:
            return 7 if "already holds a run" in str(e) else 8
        return 0

    assert sorted(end_of(p) for p in [fork(make) for _ in range(3)]) == [0, 7, 7]


def asked(**given) -> dict:
    return asdict(parse(TrainConfig, dict(tokens=4) | given))


def files_of(folder: Path) -> dict[str, bytes]:
    "What lies in a folder, without its locks."
    found = (p for p in folder.rglob("*") if p.is_file() and ".lock" not in p.name)
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@pytest.mark.parametrize("others", [{"log_every": 3}, {"steps": 70, "eval_every": 9}])
@pytest.mark.parametrize("first", ["new", "resumed"])
def test_of_two_who_open_a_run_at_once_the_one_that_trains_has_its_settings(
    tmp_path, first, others
):
    if first == "resumed":
        open_run(tmp_path / "r", "tokenizer", asked())
    begin = time.time() + 0.3

    def train(i: int, given: dict) -> int:
        while time.time() < begin:
            pass
        try:
            run = open_run(tmp_path / "r", "tokenizer", asked(**given), resume=True)
            with at_work(run):
                seen = files_of(run.path)["config.json"]
                time.sleep(0.6)  # the other comes meanwhile
                assert seen == files_of(run.path)["config.json"]
                assert run.info["config"] == json.loads(json.dumps(asked(**given)))
                (tmp_path / f"{i}").touch()
        except ConfigError:
            return 7
        return 0

    ends = [end_of(p) for p in [fork(train, 0, others), fork(train, 1, {"log_every": 7})]]
    assert sorted(ends) == [0, 7], ends
    assert (tmp_path / f"{ends.index(0)}").exists()


def test_who_opened_a_run_first_does_not_train_it_with_the_settings_of_another(tmp_path):
    run = open_run(tmp_path / "r", "tokenizer", asked())

    def again(**given):
        return open_run(run.path, "tokenizer", asked(**given), resume=True) and 0

    assert end_of(fork(lambda: again())) == 0
    with at_work(run):
        pass  # the other asked for the same
    assert end_of(fork(lambda: again(eval_every=17))) == 0
    before = files_of(run.path)
    with pytest.raises(
        ConfigError, match="opened by another process meanwhile, with eval_every=17"
    ):
        with at_work(run):
            pass
    assert files_of(run.path) == before and owner(run.lock) is None
    with at_work(again(eval_every=17) or run):
        assert run.info["config"]["optim"]["eval_every"] == 17


def test_nothing_is_written_into_a_run_that_another_process_holds(tmp_path):
    run = open_run(tmp_path / "r", "tokenizer", asked())
    ready = run.path / "ready.lock"  # nobody's: only its name is left out of the comparison

    def train() -> int:
        with at_work(Run(run.path)):
            ready.touch()
            time.sleep(60)
        return 0

    pid = fork(train)
    while not ready.exists():
        time.sleep(0.01)
    before = files_of(run.path)
    notebook = run.path / "notebook.ipynb"
    writers = {
        "open": lambda: open_run(run.path, "tokenizer", asked(log_every=3), resume=True),
        "status": lambda: run.set_status("interrupted"),
        "record": lambda: check_run(run, {"classes": ["a", "b"], "data": {"images": 3}}),
        "job": lambda: run_workflow("train", notebook, resume=True, run=str(run.path), tokens=4),
        "resume": lambda: resume_job(run.path),
    }
    for name, write in writers.items():
        with pytest.raises(ConfigError, match=f"is being trained by process {pid}"):
            write()
        assert files_of(run.path) == before, name
    os.kill(pid, signal.SIGKILL), end_of(pid)
    run.set_status("interrupted", step=2)
    assert run.status["step"] == 2


def test_a_rank_whose_first_was_refused_says_nothing_in_the_status_of_the_run(
    tmp_path, monkeypatch
):
    run = open_run(tmp_path / "r", "tokenizer", CONFIG)
    monkeypatch.setenv("MASTER_ADDR", "node-3")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with at_work(run):
        before = files_of(run.path)

        def rank(port: str) -> int:
            os.environ |= {"RANK": "1", "MASTER_PORT": port}
            with at_work(Run(run.path)):
                raise ValueError("the first rank is gone")

        assert end_of(fork(rank, "29501")) == 99 and files_of(run.path) == before
        assert end_of(fork(rank, "29500")) == 99
        assert run.status["error"] == "rank 1: ValueError: the first rank is gone"


def test_who_was_taken_over_writes_nothing_more(tmp_path):
    run = open_run(tmp_path / "r", "tokenizer", CONFIG)
    with at_work(run) as lock:
        for file in (run.lock, lock.file):
            file.unlink(missing_ok=True)
        of_another_machine(run.lock)
        before = files_of(run.path)
        with pytest.raises(RuntimeError, match="was taken over by another process"):
            run.set_status("done")
        assert files_of(run.path) == before


def dead(run: Run, **more):
    "The run as a node that died has left it."
    status = json.loads((run.path / "status.json").read_text())
    status |= {"state": "running", "host": "node-17", "pid": 4, "started": 1.0}
    (run.path / "status.json").write_text(json.dumps(status | more))
    of_another_machine(run.lock)


def test_a_run_whose_machine_is_gone_can_be_taken_over_and_goes_on_by_itself_later(tmp_path):
    run = open_run(tmp_path / "r", "tokenizer", CONFIG)
    dead(run)
    assert run.status["state"] == "running"
    with pytest.raises(ConfigError, match="process 4 on node-17.*--take-over, or take_over=True"):
        open_run(run.path, "tokenizer", CONFIG, resume=True)
    with pytest.raises(ConfigError, match="process 4 on node-17"):
        with at_work(run):
            pass
    assert open_run(run.path, "tokenizer", CONFIG, resume=True, take_over=True).path == run.path
    assert run.status["state"] == "interrupted"
    dead(run)
    os.utime(run.lock, (1, 1))
    assert run.status["state"] == "interrupted"
    with at_work(run):
        assert run.status["state"] == "running"


def test_a_run_of_a_version_without_locks_is_believed_while_its_status_is_fresh(tmp_path):
    run = open_run(tmp_path / "r", "tokenizer", CONFIG)
    dead(run)
    run.lock.unlink()
    with pytest.raises(ConfigError, match="--take-over"):
        open_run(run.path, "tokenizer", CONFIG, resume=True)
    os.utime(run.path / "status.json", (1, 1))
    assert open_run(run.path, "tokenizer", CONFIG, resume=True).status["state"] == "interrupted"
    run.set_status("running")  # this process's, and alive
    assert run.status["state"] == "running"
    dead(run)
    run.lock.unlink()
    take_over_run(run)
    assert run.status["state"] == "interrupted"


def test_what_a_person_ends_stays_ended_whoever_asks_besides():
    with Requests() as requests:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            os.kill(os.getpid(), number)
    assert requests.asked == "SIGINT"


def test_an_error_is_told_by_the_process_that_had_it_once(tmp_path, monkeypatch):
    run = open_run(tmp_path / "r", "tokenizer", CONFIG)
    with pytest.raises(OSError), at_work(run):
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(ValueError), at_work(run):
            raise ValueError("no such teacher")
        monkeypatch.delenv("RANK")
        raise OSError("connection closed by peer")  # what the first rank hears of it
    assert run.status["state"] == "failed"
    assert run.status["error"] == "rank 1: ValueError: no such teacher"
    with pytest.raises(Preempted), at_work(run):
        raise Preempted("SIGTERM")
    assert (run.status["state"], run.status["error"]) == ("preempted", None)


def test_a_place_that_cannot_be_written_is_one_message(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="/proc/r cannot be written in: .*a folder that can be"):
        open_run("/proc/r", "tokenizer", CONFIG)
    run = open_run(tmp_path / "r", "tokenizer", CONFIG)

    def refuse(path, value):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("softvq_lab.runs.write_json", refuse)  # it became read only
    with pytest.raises(ConfigError, match="r cannot be written in: Read-only file system"):
        with at_work(run):
            pass
    monkeypatch.setattr("softvq_lab.experiments.execute.write_json", refuse)
    job = Job(run.path / "notebook.ipynb")
    with pytest.raises(ConfigError, match="r cannot be written in: Read-only file system"):
        with job.planning():
            job.plan("train", {})
    assert owner(run.lock) is None and owner(job.lock) is None


def test_two_commands_at_once_get_folders_of_their_own(tmp_path):
    begin = time.time() + 0.3

    def choose(i) -> int:
        while time.time() < begin:
            pass
        (tmp_path / f"{i}").write_text(numbered(tmp_path / "runs" / "a").name)
        return 0

    assert [end_of(p) for p in [fork(choose, i) for i in range(3)]] == [0] * 3
    assert {(tmp_path / f"{i}").read_text() for i in range(3)} == {"a", "a-2", "a-3"}
    open_run(tmp_path / "runs" / "a-2", "tokenizer", CONFIG)
    assert numbered(tmp_path / "runs" / "a", resume=True).name == "a-2"


# jobs and sweeps
@pytest.fixture
def sleeping(monkeypatch):
    "Notebooks that take a while."
    monkeypatch.setattr(
        "softvq_lab.experiments.execute._papermill", lambda *a: (time.sleep(60), ("done", None))[1]
    )


def test_a_job_that_is_at_work_is_not_planned_again(tmp_path, sleeping):
    job = Job(tmp_path / "a" / "notebook.ipynb")
    with job.planning():
        job.plan("train", {"run": str(tmp_path / "a")})
    pid = fork(execute, job)
    while job.info["state"] != "running":
        time.sleep(0.01)
    with pytest.raises(ConfigError, match=f"process {pid} .*--take-over"):
        with job.planning():
            pass
    job.say("queued", pid=None)  # a driver that looked a moment before
    assert (job.info["state"], job.info["pid"]) == ("running", pid)
    assert execute(job) == 75 and job.info["state"] == "running"
    os.kill(pid, signal.SIGKILL), end_of(pid)
    job.say("running", pid=pid)
    assert job.info["state"] == "interrupted"


@pytest.mark.parametrize("detached", [False, True])
def test_of_two_jobs_begun_at_once_the_one_that_is_executed_is_as_it_was_asked_for(
    tmp_path, monkeypatch, detached
):
    def note(job, workflow, parameters):
        (tmp_path / f"did-{parameters['tokens']}").touch()
        time.sleep(0.5)
        return "done", None

    monkeypatch.setattr("softvq_lab.experiments.execute._papermill", note)
    if detached:  # the child as a fork, so that it has the notebook above
        monkeypatch.setattr(
            "softvq_lab.experiments.execute.subprocess.Popen",
            lambda words, **how: psutil.Process(fork(lambda: execute(Job(words[-1])))),
        )
    begin, output = time.time() + 0.5, tmp_path / "r" / "notebook.ipynb"

    def ask(tokens: int) -> int:
        while time.time() < begin:
            pass
        if not detached:
            return run_workflow("train", output, tokens=tokens)
        job = begin_workflow("train", output, tokens=tokens)
        while job.info["state"] in ("queued", "running"):
            time.sleep(0.05)
        return 0

    ends = [end_of(p) for p in [fork(ask, tokens) for tokens in (4, 8)]]
    assert sorted(ends) == [0, 7]
    assert [p.name for p in tmp_path.glob("did-*")] == [f"did-{(4, 8)[ends.index(0)]}"]


def test_a_job_stopped_for_good_stays_stopped_whatever_else_is_written(tmp_path, sleeping):
    job = Job(tmp_path / "a" / "notebook.ipynb")
    with job.planning():
        job.plan("train", {})
    pid = fork(execute, job)
    while job.info["state"] != "running":
        time.sleep(0.01)
    assert stop(job, for_good=True)
    job.say("preempted", stopped=None)
    assert job.info["stopped"]
    os.kill(pid, signal.SIGKILL), end_of(pid)
    job.say("planned")
    with job.planning():
        job.plan("train", {})
    assert not job.info.get("stopped")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": "done?"}', '{"state": 3}'])
def test_a_job_whose_file_says_nothing_is_not_executed_and_can_be_planned(
    tmp_path, capsys, content
):
    job = Job(tmp_path / "notebook.ipynb")
    assert execute(job) == 1 and "it was not planned" in capsys.readouterr().err
    job.file.write_text(content)
    assert execute(job) == 1 and "notebook.job.json does not say what" in capsys.readouterr().err
    with job.planning():
        job.plan("train", {"steps": 3})
    assert job.info["parameters"] == {"steps": 3} and owner(job.lock) is None


STOPPED_EARLY = """import os, sys
from softvq_lab.experiments import execute
execute._papermill = lambda *a: os.kill(os.getpid(), int(sys.argv[2]))
sys.exit(execute.execute(execute.Job(sys.argv[1])))
"""


@pytest.mark.parametrize("number,ends", [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_job_that_is_asked_to_stop_before_it_has_a_kernel_ends(tmp_path, number, ends):
    """In a process of its own: a signal goes on to all children, and the tests' may be other
    people's servers.
    """
    job = Job(tmp_path / "notebook.ipynb")
    with job.planning():
        job.plan("train", {})
    done = subprocess.run([sys.executable, "-c", STOPPED_EARLY, job.output, str(int(number))])
    assert done.returncode == (130 if ends else 75) and bool(job.info.get("stopped")) == ends
    assert job.info["state"] == ("interrupted" if ends else "preempted")


@pytest.mark.parametrize("times", [1, 2])
def test_a_driver_that_is_stopped_takes_no_attempt_from_its_jobs(tmp_path, times):
    class Asked(Local):
        "Jobs that a signal to the driver ends, in the middle of its turn, as often as it comes."

        def start(self, task, busy):
            os.kill(os.getpid(), signal.SIGTERM)
            self.process = subprocess.Popen(["sleep", "60"], start_new_session=True)
            created = psutil.Process(self.process.pid).create_time()
            task.job.say("queued", pid=self.process.pid, created=created)

        def stop(self, tasks):
            for _ in range(times - 1):
                os.kill(os.getpid(), signal.SIGTERM)
            super().stop(tasks)
            assert self.process.wait(10) == -signal.SIGTERM

        def states(self, tasks):
            if hasattr(self, "process"):
                self.process.poll()
            return super().states(tasks)

    sweep = open_sweep(dict(name="s", tokenizer=dict(set=dict(tokens=4, steps=60))), tmp_path)
    for _ in range(4):
        assert not drive([sweep], Asked(1), attempts=3, poll=0, say=lambda text: None)
        (t,) = read_report(sweep.folder)["tasks"]
        assert t["state"] == "interrupted" and sweep.tasks[0].job.info["tries"] == 0


def test_a_sweep_has_one_driver(tmp_path):
    sweep = open_sweep(dict(name="s", tokenizer=dict(set=dict(tokens=4, steps=60))), tmp_path)
    sweep.write({t.id: {"state": "planned"} for t in sweep.tasks}, "local")
    pid = holder(sweep.lock)
    assert read_report(sweep.folder)["driver"]["state"] == "running"
    with pytest.raises(ConfigError, match=f"driven by process {pid} .*--take-over"):
        drive([sweep], Local(1))
    os.kill(pid, signal.SIGKILL), end_of(pid)
    assert read_report(sweep.folder)["driver"]["state"] == "gone"


def test_a_file_system_without_locks_executes_a_job(tmp_path, file_system, monkeypatch, capsys):
    monkeypatch.setattr("softvq_lab.experiments.execute._papermill", lambda *a: ("done", None))
    job = Job(tmp_path / "a" / "notebook.ipynb")
    with job.planning():
        job.plan("train", {})
    assert execute(job) == 0 and job.info["state"] == "done" and not capsys.readouterr().err
