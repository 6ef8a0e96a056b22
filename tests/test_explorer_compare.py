"""The tab Runs: several runs beside each other."""

import shutil

import pytest

from softvq_lab.core import read_json, write_json

MEASURED = {"one": (360, 20.0), "two": (360, 21.5), "three": (1000, 30.0)}


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    "Three tokenizers that differ in a setting, one of them measured in another way; a generator."
    runs = tmp_path_factory.mktemp("compare") / "runs"
    for i, (name, (count, psnr)) in enumerate(MEASURED.items()):
        shutil.copytree(trained / "tokenizer", runs / name)
        config = read_json(runs / name / "config.json")
        config["config"]["tokenizer"]["tau"] = 0.07 + i
        config["created"] = f"2026-01-0{i + 1}T00:00:00"
        write_json(runs / name / "config.json", config)
        metrics = {"psnr": psnr, "lpips": 0.3 - i / 10, "entropy": 2.0}
        passport = {"count": count, "reference": "held-out"}
        write_json(
            runs / name / "evaluation" / "reconstruction.json",
            {"figures": metrics, "passport": passport},
        )
        probe = {"figures": {"top1": 0.5}, "passport": {"count": 360}}
        write_json(runs / name / "evaluation" / "probe-z-mean.json", probe)
    shutil.copytree(trained / "generator", runs / "generator")
    return runs


def test_which_is_best_and_why(open_page, app, looks):
    page = open_page(f"{app.url}?tab=runs&run=one&compare=one&compare=two&compare=three")
    page.locator("#runs-table button").first.wait_for(timeout=60_000)
    page.locator("#runs-tabs").get_by_role("tab", name="Compare", exact=True).click()
    told = page.locator("#compare-table")
    told.get_by_text("Settings that differ").wait_for(timeout=60_000)
    row = told.locator("tr", has=page.locator("td", has_text="tau"))
    assert row.locator("td").all_inner_texts() == ["tau", "0.07", "1.07", "2.07"]
    told.get_by_text("reconstruction, 360 images").wait_for()
    psnr = told.locator("tr", has=page.locator("td", has_text="PSNR (dB)"))
    assert psnr.nth(0).locator("td").all_inner_texts() == [
        "PSNR (dB)",
        "higher is better",
        "20",
        "21.5 (best)",
    ]
    assert "best)" not in psnr.nth(1).inner_text()  # 30 dB, but measured in another way
    assert not told.get_by_text("accuracy of a linear probe").first.is_visible()
    told.get_by_text("Other evaluations").click()
    told.get_by_text("accuracy of a linear probe").first.wait_for()
    page.locator("#compare-plot .js-plotly-plot").wait_for(timeout=60_000)
    assert page.locator("#compare-plot .scatterlayer .trace").count() == 3
    page.locator("#compare-pictures img").wait_for(timeout=60_000)
    looks(page, "runs-compare-three")
    page.locator("#compare-curve input").click()
    page.get_by_role("option", name="loss", exact=True).click()
    page.locator("#compare-plot", has_text="loss (lower is better)").wait_for(timeout=20_000)
    assert "compare=one&compare=two&compare=three" in page.url


def test_runs_of_one_kind_are_proposed_and_can_be_changed(open_page, app, runs):
    page = open_page(f"{app.url}?tab=runs&run=one")
    page.locator("#runs-table button").first.wait_for(timeout=60_000)
    page.locator("#runs-tabs").get_by_role("tab", name="Compare", exact=True).click()
    page.locator("#compare-table", has_text="Settings that differ").wait_for(timeout=60_000)
    tokens = page.locator("#compare-runs .token")
    assert [t.strip().split()[0] for t in tokens.all_inner_texts()] == ["one", "three", "two"]
    for _ in range(2):
        page.locator("#compare-runs .token-remove, #compare-runs .token button").first.click()
    page.locator("#compare-table", has_text="Choose two runs or more").wait_for(timeout=20_000)


def test_a_run_without_another_of_its_kind_stands_alone(open_page, app):
    page = open_page(f"{app.url}?tab=runs&run=generator&view=compare")
    page.locator("#compare-table", has_text="of one kind").wait_for(timeout=60_000)
    assert page.locator("#compare-runs .token").count() <= 1  # no tokenizer beside it


def test_unfinished_runs_are_proposed_after_finished_ones():
    from tabs.compare import proposed

    def row(name, state="done", kind="tokenizer"):
        return {"name": name, "state": state, "kind": kind}

    rows = [row("pool/new"), row("g", kind="generator"), row("failed", "failed")]
    rows += [row("stopped", "preempted"), row("b"), row("a")]
    assert proposed(rows, "a") == ["a", "b", "pool/new"]
    assert proposed(rows[2:4], "failed") == ["failed", "stopped"]
    assert proposed(rows[:4], "stopped") == ["stopped", "pool/new", "failed"]
    assert proposed(rows, "g") == ["g"] and proposed([], None) == []


def test_two_to_ten_runs_are_compared(client, runs):
    for names in ([], ["one"]):
        told, *_ = client.predict(names, None, api_name="/compare")
        assert "Choose two runs or more" in told
    many = [f"many-{i}" for i in range(11)]
    for name in many:
        shutil.copytree(runs / "one", runs / name, ignore=shutil.ignore_patterns("checkpoints"))
    told, *_ = client.predict(many[:10], None, api_name="/compare")
    assert "No difference" in told
    told, *_ = client.predict(many, None, api_name="/compare")
    assert "11 runs are chosen. At most 10 are compared." in told
