"""Samples on disk: the same whoever draws them, resumable, refused where they are others, packed;
and the command line.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from softvq_lab.cli import app
from softvq_lab.commands import answer
from softvq_lab.data.images import to_uint8
from softvq_lab.evaluation import sampling
from softvq_lab.evaluation.sampling import (
    pack_npz,
    read_samples,
    sample_folder,
    sample_settings,
    sample_to_folder,
)
from softvq_lab.hub.models import find_tokenizer, load_pair, save
from softvq_lab.plots import below_name
from softvq_lab.progress import LogLines, Screen
from softvq_lab.sample import main
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer

DIGITS = tuple("0123456789")  # class names


def draw(pair, folder, count=11, **kw) -> Path:
    sample_to_folder(*pair, folder, count, **{"steps": 2, "batch_size": 4, "progress": False, **kw})
    return folder


def files(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory) -> Path:
    return draw(pair, tmp_path_factory.mktemp("samples") / "whole")


def test_a_folder_holds_what_the_generator_draws(pair, whole):
    assert sorted(files(whole)) == [*(f"{i:06d}.png" for i in range(11)), "samples.json"]
    generator, tokenizer = pair
    labels = torch.arange(11) % 10
    with torch.no_grad():
        expected = to_uint8(tokenizer.decode(generator.sample(labels, steps=2)))
    x, y = read_samples(whole)
    assert (
        x.shape == (11, 3, 32, 32)
        and x.dtype == torch.float32
        and -1 <= x.min()
        and x.max() <= 1
        and y.tolist() == labels.tolist()
    )
    assert (
        to_uint8(x).int() - expected.int()
    ).abs().max() <= 1  # one batch of 11 or blocks of 4: rounding
    with Image.open(whole / "000003.png") as image:
        assert (image.mode, image.size, image.format) == ("RGB", (32, 32), "PNG")


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_shares_of_many_ranks_are_what_one_draws(pair, whole, tmp_path, world):
    for rank in reversed(range(world)):
        draw(pair, tmp_path / "many", rank=rank, world=world)
    assert files(tmp_path / "many") == files(whole)


def test_another_batch_size_changes_rounding_only(pair, whole, tmp_path):
    a, b = (
        to_uint8(read_samples(f)[0]).int()
        for f in (whole, draw(pair, tmp_path / "other", batch_size=7))
    )
    assert (a - b).abs().max() <= 1


def test_an_interrupted_folder_goes_on_to_the_same_bits(pair, whole, tmp_path):
    folder = draw(pair, tmp_path / "a")
    good = files(folder)
    for i in (0, 5, 10):
        (folder / f"{i:06d}.png").unlink()
    (folder / "000002.png").write_bytes(good["000002.png"][:-30])  # torn
    (folder / "000003.png").write_bytes(b"")
    flipped = bytearray(good["000006.png"])
    flipped[len(flipped) // 2] ^= 1
    (folder / "000006.png").write_bytes(flipped)
    Image.new("RGB", (32, 31)).save(folder / "000007.png")  # of another size
    (folder / ".000008.png.4242.tmp").write_bytes(b"half a file")
    kept = (folder / "000009.png").stat().st_mtime_ns
    draw(pair, folder)
    assert files(folder) == files(whole) and (folder / "000009.png").stat().st_mtime_ns == kept


def test_what_is_there_is_not_drawn_again(pair, tmp_path, monkeypatch):
    folder, seen = draw(pair, tmp_path / "a"), []
    hook = pair[0].net.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    try:
        draw(pair, folder), draw(pair, folder, count=6)
        assert not seen
        (folder / "000009.png").unlink()
        draw(pair, folder)
        assert set(seen) <= {3, 6} and seen  # the last block, with guidance or without
    finally:
        hook.remove()


def test_a_larger_count_extends_the_folder_and_a_smaller_one_reads_its_beginning(
    pair, whole, tmp_path
):
    folder = draw(pair, tmp_path / "a", count=8)
    before = files(folder)
    draw(pair, folder)
    after = files(folder)
    assert after == files(whole) and all(
        after[k] == v for k, v in before.items() if k != "samples.json"
    )
    uneven = read_samples(draw(pair, draw(pair, tmp_path / "b", count=6)))[
        0
    ]  # the second block was cut short at first
    assert (to_uint8(uneven).int() - to_uint8(read_samples(folder)[0]).int()).abs().max() <= 1
    draw(pair, folder, count=3)
    assert files(folder) == after and len(read_samples(folder, 3)[0]) == 3
    with pytest.raises(ValueError, match="12 samples asked for, .* holds 11"):
        read_samples(folder, 12)


@pytest.mark.parametrize(
    "other,says",
    [
        (dict(seed=1), "seed: 0 there, 1 asked for"),
        (dict(steps=3), "steps: 2 there, 3 asked for"),
        (dict(sampler="euler"), "sampler: 'heun' there"),
        (dict(guidance=1.5), "guidance: "),
        (dict(interval=(0.0, 0.5)), "interval: "),
        (dict(schedule="linear"), "schedule: "),
        (dict(classes=4), r"classes: None there, \[4\] asked for"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(pair, whole, other, says):
    before = files(whole)
    with pytest.raises(ValueError, match=f"(?s)holds other samples.*{says}"):
        draw(pair, whole, count=20, **other)
    assert files(whole) == before


def test_another_generator_is_refused_and_another_tokenizer_too(trained, whole):
    generator, tokenizer = load_pair(trained / "generator")
    with torch.no_grad():
        next(generator.parameters()).add_(1)
    with pytest.raises(ValueError, match="generator: .* there"):
        draw((generator, tokenizer), whole)
    with torch.no_grad():
        tokenizer.to_latent.bias += 1
    with pytest.raises(ValueError, match="train a generator on this tokenizer"):
        draw((generator, tokenizer), whole)


def test_images_of_unknown_origin_are_left_alone(pair, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "000000.png")
    with pytest.raises(ValueError, match="no samples.json that says what they are"):
        draw(pair, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder"):
        draw(pair, tmp_path / "file")


def test_default_settings_said_aloud_are_the_same_settings(pair, whole):
    g = pair[0].guidance
    draw(
        pair,
        whole,
        classes=range(10),
        sampler="heun",
        guidance=g.scale,
        interval=(g.low, g.high),
        schedule=g.schedule,
        seed=0,
    )
    same = sample_settings(*pair, steps=2)
    assert {**same, "count": 11} == json.loads((whole / "samples.json").read_text())
    others = [
        sample_settings(*pair, **kw)
        for kw in (
            dict(steps=3),
            dict(steps=2, classes=3),
            dict(steps=2, interval=(0.0, 0.1)),
            dict(steps=2, sampler="sde", last_step=0.1),
            dict(steps=2, sampler="sde"),
        )
    ]
    assert len({sample_folder("run", s) for s in [same, *others]}) == 6 and sample_folder(
        "run", same
    ).parent == Path("run/samples")
    assert sample_settings(*pair, guidance=2) == sample_settings(*pair, guidance=2.0)


def test_a_list_of_classes_is_taken_in_turn(pair, tmp_path):
    _, y = read_samples(draw(pair, tmp_path / "a", classes=[3, 3, 8]))
    assert y.tolist() == [3, 3, 8, 3, 3, 8, 3, 3, 8, 3, 3]
    x, y = read_samples(draw(pair, tmp_path / "b", classes=8))
    assert set(y.tolist()) == {8}
    assert (
        to_uint8(read_samples(tmp_path / "a")[0][5]).int() - to_uint8(x[5]).int()
    ).abs().max() <= 1  # class, seed and number are the same


@pytest.mark.parametrize(
    "kw,says",
    [
        (dict(classes=[1, 11]), "classes must be 0..9"),
        (dict(classes=[]), "at least one class"),
        (dict(sampler="hoin"), "SiT has"),
        (dict(steps=0), "at least 1"),
        (dict(interval=(0.5, 0.2)), "guidance interval"),
        (dict(schedule="cubic"), "possible: constant, linear"),
        (dict(rtol=1.0), "'heun' has no option rtol"),
        (dict(count=0), "must be at least 1"),
        (dict(batch_size=0), "must be at least 1"),
        (dict(rank=2, world=2), "rank=2 must lie in 0..1"),
        (dict(sampler="sde", steps=1), "an SDE needs at least 2"),
        (dict(sampler="sde", diffusion="3t"), "possible: 2t, sigma"),
    ],
)
def test_bad_requests_say_what_is_possible_and_leave_no_folder(pair, tmp_path, kw, says):
    with pytest.raises(ValueError, match=says):
        draw(pair, tmp_path / "a", **kw)
    assert not (tmp_path / "a").exists()


def test_training_mode_and_nan_are_refused(pair, tmp_path):
    generator, tokenizer = pair
    generator.train()
    try:
        with pytest.raises(ValueError, match="eval mode"):
            draw(pair, tmp_path / "a")
    finally:
        generator.eval()
    hook = tokenizer.decoder.register_forward_hook(
        lambda m, args, out: (
            out
            * torch.tensor([1.0, float("nan")] + [1.0] * (len(out) - 2)).view(
                -1, *[1] * (out.ndim - 1)
            )
        )
    )
    try:
        with pytest.raises(FloatingPointError, match=r"samples \[1\] are not finite"):
            draw(pair, tmp_path / "a")
    finally:
        hook.remove()
    assert not (tmp_path / "a").exists()


def test_the_npz_is_adms(pair, whole, tmp_path):
    path = pack_npz(whole, tmp_path / "deep" / "x.npz")
    with np.load(path) as z:
        assert (
            sorted(z) == ["arr_0", "arr_1"]
            and z["arr_0"].dtype == np.uint8
            and z["arr_1"].dtype == np.int64
        )
        assert (
            z["arr_0"].shape == (11, 32, 32, 3)
            and z["arr_0"].flags["C_CONTIGUOUS"]
            and z["arr_1"].tolist() == [*range(10), 0]
        )
        for i in range(11):
            with Image.open(whole / f"{i:06d}.png") as image:
                assert (np.asarray(image) == z["arr_0"][i]).all()
    assert (
        pack_npz(whole, tmp_path / "y.npz", count=4).stat().st_size < path.stat().st_size
        and len(np.load(tmp_path / "y.npz")["arr_1"]) == 4
    )
    assert pack_npz(whole, tmp_path / "z.npz").read_bytes() == path.read_bytes()
    np.savez(tmp_path / "numpy.npz", *np.load(path).values())
    assert (
        abs((tmp_path / "numpy.npz").stat().st_size - path.stat().st_size) < 200
    )  # nothing is compressed, nothing is doubled


def test_the_npz_lies_beside_the_folder_whatever_its_name(pair, tmp_path):
    assert pack_npz(draw(pair, tmp_path / "heun-2-g1.75", count=2)) == tmp_path / "heun-2-g1.75.npz"


def test_an_incomplete_or_damaged_folder_is_neither_packed_nor_read(pair, tmp_path):
    folder = draw(pair, tmp_path / "a")
    good = (folder / "000003.png").read_bytes()
    (folder / "000003.png").write_bytes(good[:-30])
    for f in (pack_npz, read_samples):
        with pytest.raises(ValueError, match="000003.png is damaged"):
            f(folder)
    (folder / "000003.png").unlink(), (folder / "000010.png").unlink()
    for f in (pack_npz, read_samples):
        with pytest.raises(ValueError, match="2 of 11 samples are missing: 000003.png, 000010.png"):
            f(folder)
        with pytest.raises(ValueError, match="holds no samples"):
            f(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]  # no .npz, no part of one


def command(trained, *arguments, **kw) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "softvq_lab.sample", trained / "generator", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **kw,
    )


@pytest.mark.slow
def test_the_command_line_with_two_processes_draws_what_one_does(trained, tmp_path, pair):
    done = command(
        trained,
        "--count",
        11,
        "--steps",
        2,
        "--batch",
        4,
        "--processes",
        2,
        "--device",
        "cpu",
        "--npz",
        "--out",
        tmp_path / "two",
    )
    assert (
        done.returncode == 0
        and f"11 samples in {tmp_path}/two" in done.stdout
        and f"packed as {tmp_path}/two.npz" in done.stdout
    ), done.stdout + done.stderr
    assert "Warning" not in done.stderr and "Error" not in done.stderr, done.stderr
    one, two = (
        to_uint8(read_samples(f)[0]).int()
        for f in (draw(pair, tmp_path / "one", class_names=DIGITS), tmp_path / "two")
    )
    assert (one - two).abs().max() <= 1 and len(np.load(tmp_path / "two.npz")["arr_0"]) == 11
    assert json.loads((tmp_path / "two" / "samples.json").read_text()) == json.loads(
        (tmp_path / "one" / "samples.json").read_text()
    )


@pytest.mark.slow
def test_compiled_networks_draw_the_same_samples(trained, tmp_path, pair):
    out = tmp_path / "compiled"
    words = ["--steps", 2, "--samples", 7, "--batch", 4, "--device", "cpu", "--compile"]
    done = command(trained, *words, "--out", out)
    assert done.returncode == 0, done.stderr
    x, y = read_samples(out)
    expected, labels = read_samples(draw(pair, tmp_path / "eager", 7))
    assert y.tolist() == labels.tolist()
    assert (to_uint8(x).int() - to_uint8(expected).int()).abs().max() <= 1  # rounding
    assert "warn" not in done.stderr.lower()


@pytest.mark.slow
def test_a_killed_command_goes_on(trained, tmp_path, pair):
    ask = [
        "--count",
        "240",
        "--steps",
        "20",
        "--batch",
        "4",
        "--device",
        "cpu",
        "--processes",
        "2",
        "--out",
        str(tmp_path / "a"),
    ]
    p = subprocess.Popen(
        [sys.executable, "-m", "softvq_lab.sample", str(trained / "generator"), *ask],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.time() + 120
    while not (tmp_path / "a" / "000000.png").exists():  # either process may be the first to draw
        assert p.poll() is None and time.time() < deadline
        time.sleep(0.01)
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    while time.time() < deadline:  # the other process dies with it
        seen = files(tmp_path / "a")
        time.sleep(2)
        if files(tmp_path / "a") == seen:
            break
    assert len([n for n in seen if n[0] == "0"]) < 240
    assert main([str(trained / "generator"), *ask[:-4], *ask[-2:]]) == 0  # by one process now
    whole = read_samples(draw(pair, tmp_path / "b", count=240, steps=20))[0]
    assert (
        to_uint8(read_samples(tmp_path / "a")[0]).int() - to_uint8(whole).int()
    ).abs().max() <= 1
    assert not list((tmp_path / "a").glob(".*"))


def test_the_default_folder_is_found_again(trained, capsys, tmp_path):
    for name in ("generator", "tokenizer"):
        shutil.copytree(trained / name, tmp_path / name)
    run = tmp_path / "generator"

    def ask(*a):
        return main([str(run), "--steps", "2", "--batch", "4", *a])

    assert (
        ask("--count", "3") == 0
        and ask("--count", "5") == 0
        and ask(
            "--count",
            "2",
            "--seed",
            "7",
            "--sampler",
            "sde",
            "--option",
            "last_step=0.1",
            "--classes",
            "3,4",
        )
        == 0
    )
    a, b = sorted((p for p in (run / "samples").iterdir() if p.is_dir()), key=lambda p: p.name)
    assert a.name.startswith("heun-2-g2.25-seed0-") and len(read_samples(a)[0]) == 5
    assert (
        b.name.startswith("sde-2-g2.25-seed7-")
        and read_samples(b)[1].tolist() == [3, 4]
        and json.loads((b / "samples.json").read_text())["options"] == {"last_step": 0.1}
    )


@pytest.mark.parametrize(
    "arguments,says",
    [
        (["--count", "many"], "a valid integer"),
        (["--count", "0"], "--samples 0 must be at least 1"),
        (["--sampler", "hoin"], "SiT has heun"),
        (["--steps", "0"], "at least 1"),
        (["--guidance", "x"], "a valid number"),
        (["--classes", "1,x"], "'1,x' is not a class"),
        (["--classes", "99"], "classes must be 0..9"),
        (["--option", "rtol"], "is not NAME=VALUE"),
        (["--option", "rtol=1"], "'heun' has no option rtol"),
        (["--temperature", "0.9"], "'heun' has no option temperature"),
        (["--temperature", "1", "--option", "temperature=2"], "temperature is given twice"),
        (["--processes", "0"], "at least 1"),
        (["--sampler", "sde", "--steps", "1"], "an SDE needs at least 2"),
        (["--coun", "3"], "No such option"),
        (["--interval", "0.5", "0.2"], "guidance interval"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(trained, tmp_path, capsys, arguments, says):
    assert main([str(trained / "generator"), "--out", str(tmp_path / "a"), *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not (tmp_path / "a").exists()


def test_each_name_of_the_command_draws_the_same(trained, tmp_path):
    how = ["--steps", "2", "--batch", "4", "--seed", "3", "--out"]
    ask = ["sample", str(trained / "generator"), "--samples", "5", *how, str(tmp_path / "a")]
    assert answer(app, ask) == 0
    ask = [str(trained / "generator"), "--count", "5", *how, str(tmp_path / "b")]
    assert main(ask) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.slow
def test_what_is_no_generator_is_said(trained, tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2 and "is not a folder" in capsys.readouterr().err
    assert (
        main([str(trained / "tokenizer")]) == 2
        and "does not hold a generator, but 'tokenizer'" in capsys.readouterr().err
    )
    assert main([]) == 2 and "RUN_FOLDER" in capsys.readouterr().err
    done = command(trained, "--sampler", "hoin")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


def test_under_torchrun_each_process_draws_its_share(trained, tmp_path, pair, capsys, monkeypatch):
    ask = [
        str(trained / "generator"),
        *"--count 11 --steps 2 --batch 4 --device cpu --out".split(),
        str(tmp_path / "a"),
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "10":
        monkeypatch.setenv("RANK", rank), monkeypatch.setenv("LOCAL_RANK", rank)
        assert main(ask) == 0 and (tmp_path / "a" / "000000.png").exists() == (rank == "0")
    assert files(tmp_path / "a") == files(draw(pair, tmp_path / "b", class_names=DIGITS))
    for more in (["--npz"], ["--processes", "2"]):
        assert main([*ask, *more]) == 2 and f"{more[0]} under torchrun" in capsys.readouterr().err


def test_runs_that_were_moved_together_find_each_other(trained, tmp_path):
    for name in ("generator", "tokenizer"):
        shutil.copytree(trained / name, tmp_path / name)
    info = json.loads((tmp_path / "generator" / "config.json").read_text())
    info["config"]["tokenizer_run"] = "/where/it/was/tokenizer"
    (tmp_path / "generator" / "config.json").write_text(json.dumps(info))
    assert (
        find_tokenizer(tmp_path / "generator") == tmp_path / "tokenizer"
        and load_pair(tmp_path / "generator")[1].fingerprint
        == load_pair(trained / "generator")[1].fingerprint
    )
    other = (
        tmp_path / "elsewhere" / "tokenizer"
    )  # of two that could be meant, the one with the right weights
    save(Tokenizer(TokenizerConfig(tokens=4, image_size=16)), other)
    info["config"]["tokenizer_run"] = str(other)
    (tmp_path / "generator" / "config.json").write_text(json.dumps(info))
    assert find_tokenizer(tmp_path / "generator") == tmp_path / "tokenizer"
    info["config"]["tokenizer_run"] = "/where/it/was/tokenizer"
    (tmp_path / "generator" / "config.json").write_text(json.dumps(info))
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="/where/it/was/tokenizer, which is not there"):
        load_pair(tmp_path / "generator")


def test_the_explorers_command_means_the_same_classes_where_names_are_numbers(trained, tmp_path):
    from softvq_lab.commands import _class_numbers
    from softvq_lab.explore.reproduce import sample_ways

    names = ("1", "2", "3", *"abcdefg")
    (tmp_path / "config.json").write_text(json.dumps({"class_names": names}))
    generator, _ = load_pair(trained / "generator")
    how = dict(sampler="heun", steps=2, guidance=1, interval=(0, 1), seed=0)
    words = sample_ways("g", generator, [1, 0, 5], names, **how).terminal.split()
    assert _class_numbers(words[words.index("--classes") + 1], tmp_path) == [1, 0, 5]


def test_classes_are_given_by_number_or_by_name(tmp_path):
    from softvq_lab.commands import _class_numbers
    from softvq_lab.core import ConfigError, write_json

    assert _class_numbers(None, tmp_path) is None
    assert _class_numbers("1, 4", tmp_path) == [1, 4]
    write_json(tmp_path / "config.json", {"class_names": ["animals", "7", "old cars"]})
    assert _class_numbers("old cars,animals,0,7", tmp_path) == [2, 0, 0, 1]
    with pytest.raises(ConfigError, match="'cats' is not a class.* 0 animals, 1 7, 2 old cars"):
        _class_numbers("cats", tmp_path)


@pytest.mark.parametrize("count,says", [(300, "take about 25 min"), (8, "")])
def test_after_the_first_samples_it_says_how_long_all_take_and_how_to_ask_for_fewer(
    pair, tmp_path, capsys, monkeypatch, count, says
):
    clock = iter(range(0, 10**6, 20))  # each block of four takes 20 seconds

    def at_once(generator, tokenizer, settings, block):
        return np.zeros((len(block), *settings["image_size"], 3), dtype=np.uint8)

    monkeypatch.setattr(sampling, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sampling, "_draw", at_once)
    sample_to_folder(*pair, tmp_path / "s", count, steps=1, batch_size=4)
    said = capsys.readouterr().out
    assert says in said and ("is kept" in said) == bool(says)
    assert said.count("more samples take") == bool(says), "once, not after each block"
    if says:
        assert "For 100 in 8 min: --samples 100 (papermill: -p samples 100)" in said


def test_what_a_notebook_says_reaches_who_executes_it_and_its_log(capsys):
    log = StringIO()
    record = {"say": "500 more samples take about 3 min here"}
    LogLines(log)(record)
    Screen().show(record)
    assert log.getvalue() == capsys.readouterr().out == "500 more samples take about 3 min here\n"


@pytest.mark.slow
def test_classes_have_their_names_beside_the_samples_and_on_the_sheet(pair, trained, tmp_path):
    names = json.loads((trained / "generator" / "config.json").read_text())["class_names"]
    command(trained, "--samples", "12", "--steps", "1", "--sheet", "--out", str(tmp_path / "s"))
    info = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert info["class_names"] == names and info["count"] == 12
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (8 * 66 - 2, 2 * (64 + 22 + 2) - 2), "a line of text above each"

    draw(pair, tmp_path / "plain", class_names=["a", "b"])  # without names, as before
    draw(pair, tmp_path / "plain", count=20)
    extended = json.loads((tmp_path / "plain" / "samples.json").read_text())
    assert extended["class_names"] == ["a", "b"] and extended["count"] == 20


def test_a_name_that_is_wider_than_its_picture_is_cut():
    picture = Image.new("RGB", (40, 30), "red")
    short, long = (below_name(picture, n) for n in ("zero", "a very long name of a class"))
    assert short.size == long.size == (40, 52)
    white = np.asarray(long)[:22, 37:].min()
    assert white == 255, "nothing is drawn over the edge"
