"What is left of a training and of a sweep, by simulated times."

import re

import pytest

from softvq_lab.experiments import scheduler
from softvq_lab.experiments.scheduler import Overview, time_left
from softvq_lab.experiments.sweep import Task
from softvq_lab.progress import Forecast, Screen, progress_line


class Training:
    "A training on a clock of its own: a slow beginning, evaluations and checkpoints."

    def __init__(self, steps, first=20.0, each=0.5, evaluating=(100, 12.0), saving=(250, 6.0)):
        self.steps, self.first, self.each = steps, first, each
        self.breaks = {"evaluating": evaluating, "saving": saving}
        self.clock, self.told = 0.0, {}
        forecast = Forecast(steps, breaks={k: every for k, (every, _) in self.breaks.items()})
        for n in range(1, steps + 1):
            self.clock += first if n == 1 else each
            for name, (every, seconds) in self.breaks.items():
                if n % every == 0 or n == steps:
                    forecast.took(name, seconds)
                    self.clock += seconds
            self.told[n] = forecast.left(n, self.clock), forecast.unmeasured(n), self.clock

    def truth(self, n: int) -> float:
        return self.clock - self.told[n][2]


@pytest.mark.parametrize(
    "training",
    [Training(1000), Training(990, first=0.5), Training(1000, each=0.01, evaluating=(50, 30.0))],
)
def test_what_is_left_of_a_training_is_true_once_all_was_measured(training):
    measured = [n for n, (_, unmeasured, _) in training.told.items() if not unmeasured]
    assert measured[0] <= 250
    for n in measured:
        assert training.told[n][0] == pytest.approx(training.truth(n), rel=0.02, abs=1)


def test_until_then_it_is_said_to_be_more_and_the_slow_beginning_is_soon_forgotten():
    training = Training(1000)
    for n in (10, 99, 150):
        left, unmeasured, _ = training.told[n]
        assert unmeasured and left < training.truth(n)
        assert left > 0.4 * training.truth(n)
    record = {"what": "a", "done": 99, "of": 1000, "unit": "step", "rate": 64.0, "things": ""}
    record |= {"notes": {}, "memory": 0, "ended": False, "left": 450.0}
    assert "over 8 min left" in progress_line(record | {"unmeasured": ["evaluating"]})
    assert ", 8 min left" in progress_line(record | {"unmeasured": []})


def test_a_run_that_goes_on_counts_its_own_steps_only():
    forecast = Forecast(1000, start=900, breaks={"evaluating": 50})
    assert forecast.left(900, 3.0) is None and forecast.coming("evaluating", 900) == 2
    for n in range(901, 921):
        left = forecast.left(n, 10.0 + (n - 900))
    assert left == pytest.approx(80, rel=0.05)


def tasks(*stages) -> dict[str, Task]:
    return {
        f"{i}": Task(f"{i}", s, "train", {}, f"{i}/n.ipynb", f"{i}") for i, s in enumerate(stages)
    }


@pytest.fixture
def spent(monkeypatch):
    "Jobs that run have done so for 40 seconds."
    monkeypatch.setattr(scheduler, "_spent", lambda state: 40.0)


RUNNING, PLANNED, DONE = (
    {"state": "running"},
    {"state": "planned"},
    {"state": "done", "seconds": 300},
)
TRAINS = {"left": 60.0, "main": True}


def test_before_a_job_is_done_a_sweep_knows_only_the_least(spent):
    four = tasks(*["tokenizer"] * 4)
    states = dict(zip(four, (RUNNING, RUNNING, PLANNED, PLANNED)))
    left = time_left(four, states, {"0": TRAINS, "1": TRAINS}, 2)
    assert left.seconds == (60 + 60 + 100 + 100) / 2 and left.at_least
    assert str(left) == "over 3 min left"
    of_a_part = {"left": 2.0, "main": False}  # such as the training of the reference network
    assert time_left(four, states, {"0": of_a_part, "1": None}, 2).seconds is None


def test_then_it_counts_whole_jobs_with_what_comes_after_their_training(spent):
    four = tasks(*["tokenizer"] * 4)
    states = dict(zip(four, (DONE, RUNNING, PLANNED, PLANNED)))
    left = time_left(four, states, {"1": TRAINS}, 2)
    assert left.seconds == (260 + 300 + 300) / 2 and not left.at_least
    slow = time_left(four, states, {"1": TRAINS | {"left": 900.0}}, 2)
    assert slow.seconds == 900, "one that takes longer than the others did"
    assert str(slow) == "over 15 min left"
    last = dict(zip(four, [{"state": "done", "seconds": 30}] * 3 + [RUNNING]))
    assert str(time_left(four, last, {}, 2)) == "almost done", "and not 0 s"


def test_what_was_never_measured_is_named(spent):
    jobs = tasks("tokenizer", "tokenizer", "generator")
    states = dict(zip(jobs, (DONE, RUNNING, PLANNED)))
    left = time_left(jobs, states, {"1": TRAINS}, 1)
    assert left.unknown == ["generator"] and str(left).endswith("left and what generator takes")
    assert time_left(jobs, dict.fromkeys(jobs, PLANNED), {}, 1).seconds is None
    assert time_left(jobs, dict.fromkeys(jobs, DONE), {}, 1).seconds is None


def test_the_overview_says_both_estimates_once(spent, capsys, monkeypatch):
    four = tasks(*["tokenizer"] * 4)
    monkeypatch.setattr(
        "softvq_lab.experiments.execute.Job.info", property(lambda job: {"progress": TRAINS})
    )
    watch = Overview(Screen(), type("Executor", (), {"n": 2})())
    watch.screen.show = lambda record, key: None
    for first in (RUNNING, RUNNING, DONE, DONE):
        watch(four, dict(zip(four, (first, RUNNING, PLANNED, PLANNED))))
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"by the steps measured so far: over \d+ min left", said[0])
    assert said[1:] == ["by the jobs done so far: about 7 min left"]


@pytest.mark.parametrize("left", [65, 3800, 86_400 * 2])
def test_the_loss_is_seen_in_a_terminal_of_80_columns(left):
    "Memory, the middle of the name and the rate are left out before it."
    record = {"what": "softvq-4x8_codebook_size-32", "done": 13210, "of": 100_000, "unit": "step"}
    record |= {"rate": 428.5, "things": "images", "left": left, "unmeasured": ["saving"]}
    record |= {"notes": {"loss": 0.0273}, "memory": 10**9, "ended": False, "elapsed": 1.0}
    assert len(line := progress_line(record, 80)) <= 80 and line.endswith("loss 0.0273")
    assert progress_line(record, 200).endswith("loss 0.0273, 1.0 GB")
