"""A notebook watches a training that runs elsewhere."""

import asyncio

import pytest

from softvq_lab.core import ConfigError
from softvq_lab.explore.live_curves import LiveCurves, live_curves, state_of
from softvq_lab.runs import Run, log_metrics


@pytest.fixture
def run(tmp_path) -> Run:
    run = Run(tmp_path / "a")
    run.path.mkdir()
    run.set_status("running", step=10, steps=100, seconds_per_step=0.5)
    log_metrics(run, 10, loss=0.5, rec=0.4)
    return run


def steps_drawn(seen: LiveCurves) -> list[int]:
    (bundle,) = (o["data"] for o in seen.figure.outputs)
    return bundle["application/vnd.plotly.v1+json"]["data"][0]["x"]


def test_a_run_is_followed_to_its_end_while_other_cells_work(run):
    async def notebook():
        seen = live_curves(run.path, seconds=0.01)
        await asyncio.sleep(0.2)
        assert "running, step 10 of 100, 45 s left" in seen.line.value and not seen.task.done()
        log_metrics(run, 20, loss=0.3, rec=0.2)
        run.set_status("done", step=100)
        await asyncio.wait_for(seen.task, 10)
        return seen

    seen = asyncio.run(notebook())
    assert list(steps_drawn(seen)) == [10, 20]
    assert "done, step 100 of 100" in seen.line.value and seen.button.disabled


def test_to_stop_watching_stops_no_training(run):
    async def notebook():
        seen = live_curves(run.path, seconds=0.01)
        await asyncio.sleep(0.05)
        seen.button.click()
        await asyncio.wait_for(seen.task, 10)

    asyncio.run(notebook())
    assert run.status["state"] == "running"


def test_only_what_is_new_is_sent(run):
    seen = LiveCurves(run, ("rec",))
    assert seen.look()
    sent = seen.figure.outputs
    assert seen.look() and seen.figure.outputs is sent
    log_metrics(run, 20, rec=0.2)
    assert seen.look() and seen.figure.outputs is not sent


@pytest.mark.parametrize(
    "status,says",
    [
        (dict(state="failed", step=7, error="ValueError: <b>no</b>"), "failed, step 7 of 100"),
        (dict(state="prepared", step=0), "prepared, step 0 of 100"),
    ],
)
def test_each_state_is_a_line_of_plain_text(run, status, says):
    run.set_status(**status)
    assert state_of(run).startswith(says)
    seen = LiveCurves(run)
    assert seen.look() == (status["state"] == "prepared")
    assert "<b>no</b>" not in seen.line.value


def test_a_run_without_metrics_yet_and_a_torn_line_are_no_error(tmp_path):
    run = Run(tmp_path / "a")
    run.path.mkdir()
    seen = LiveCurves(run)
    assert seen.look() and not seen.figure.outputs
    (run.path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert seen.look() and list(steps_drawn(seen)) == [1]


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(ConfigError, match="there is no run folder .*nowhere"):
        live_curves(tmp_path / "nowhere")
