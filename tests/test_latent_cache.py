"""Latents on disk: whole, of the right tokenizer, whoever encoded them and however often they were
interrupted.
"""

import multiprocessing
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from softvq_lab.core import read_json, write_json
from softvq_lab.data.datasets import shapes
from softvq_lab.data.folder import folder
from softvq_lab.data.images import ImageData, stack
from softvq_lab.hub.models import load_tokenizer, save
from softvq_lab.latents.cache import _key as key_of
from softvq_lab.latents.cache import cache_latents, open_cache
from softvq_lab.latents.stats import LatentStats
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer

# images; with flips 180 entries, in shards of 25: the last is not full, one holds both kinds
N = 90
context = multiprocessing.get_context(
    "forkserver"
)  # one process imports, the others are forked from it: real processes that start at once
context.set_forkserver_preload(
    ["softvq_lab.data.datasets", "softvq_lab.hub.models", "softvq_lab.latents.cache"]
)


def job(model, f, rank, world, slow, store):
    "What each process does; it leaves its answer beside the cache."
    torch.set_num_threads(1)
    t, ranks = load_tokenizer(model), dict(rank=rank, world=world)
    if slow:
        encode = t.encode
        t.encode = lambda x: (time.sleep(slow), encode(x))[1]
    if store:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=rank, world_size=world
        )
        ranks = {}
    c = cache_latents(
        t, shapes(16, N), f, flips=True, batch_size=10, shard_size=25, progress=False, **ranks
    )
    f.with_name(f"answer-{rank}").write_text(str(c and len(c)))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    t = Tokenizer(TokenizerConfig(image_size=16, tokens=4, latent_dim=3, codebook_size=16)).eval()
    t.folder = tmp_path_factory.mktemp("tokenizer") / "t"
    save(t, t.folder)
    return t


@pytest.fixture(scope="module")
def whole(tokenizer, tmp_path_factory):
    f = tmp_path_factory.mktemp("whole") / "c"
    ends(process(tokenizer, f))
    return f


def process(tokenizer, f, rank=0, world=1, slow=0, store=None):
    p = context.Process(target=job, args=(tokenizer.folder, f, rank, world, slow, store))
    p.start()
    return p


def ends(p, code=0):
    p.join(120)
    assert p.exitcode == code


def contents(f):
    return {
        p.relative_to(f).as_posix(): p.read_bytes()
        for p in sorted(f.rglob("*"))
        if p.is_file() and p.suffix != ".lock"  # it says when somebody was at work
    }


def small(tokenizer, f, images=None, **options):
    return cache_latents(
        tokenizer,
        images or shapes(16, 40),
        f,
        **{"batch_size": 8, "shard_size": 16, "progress": False, **options},
    )


# What is in it


def test_the_cache_holds_what_encode_gives_in_the_order_of_the_split(tokenizer, whole):
    c, images = open_cache(whole, tokenizer.fingerprint), shapes(16, N)
    x, y = stack(images.train)
    with torch.no_grad():
        expected = tokenizer.encode(torch.cat([x, x.flip(-1)])).z
    assert (len(c), c.class_names, c.source, c.tokenizer) == (
        2 * N,
        images.class_names,
        images.source,
        tokenizer.fingerprint,
    )
    z, labels = stack(c)
    assert (
        torch.allclose(z, expected, atol=1e-5)
        and labels.tolist() == c.labels.tolist() == [*y.tolist()] * 2
    )
    stats = LatentStats.measure(z)
    assert (
        c.stats.count == stats.count
        and np.allclose(c.stats.mean, stats.mean, rtol=0, atol=1e-12)
        and np.allclose(c.stats.std, stats.std, rtol=1e-12)
    )
    shards = [load_file(whole / "shards" / f"{s:05d}.safetensors") for s in range(8)]
    assert [len(s["z"]) for s in shards] == [25] * 7 + [5]
    assert (
        torch.cat([s["index"] for s in shards]).tolist() == [*range(N)] * 2
        and torch.cat([s["flipped"] for s in shards]).tolist() == [0] * N + [1] * N
    )
    info = read_json(whole / "cache.json")
    assert {
        "tokenizer",
        "stats",
        "class_names",
        "source",
        "entries",
        "dtype",
        "sha256",
        "broken",
    } <= info.keys() and len(info["sha256"]) == 8


def test_without_flips_each_image_is_one_entry(tokenizer, tmp_path):
    c = small(tokenizer, tmp_path / "c")
    assert len(c) == 40 and tokenizer.training is False
    with pytest.raises(IndexError):
        c[40]
    flipped = small(tokenizer, tmp_path / "f", flips=True)
    assert all(torch.equal(c[i][0], flipped[i][0]) for i in range(40)) and not torch.equal(
        flipped[3][0], flipped[43][0]
    )


def test_half_precision_on_disk_is_float32_for_whoever_reads(tokenizer, tmp_path):
    full, half = small(tokenizer, tmp_path / "f"), small(tokenizer, tmp_path / "h", dtype="float16")
    assert (
        half[0][0].dtype == torch.float32
        and 0 < (stack(full)[0] - stack(half)[0]).abs().max() < 2e-3 * stack(full)[0].abs().max()
    )
    assert LatentStats.measure(stack(half)[0]).std == pytest.approx(
        half.stats.std, rel=1e-12
    )  # of what is stored
    with pytest.raises(ValueError, match="dtype='int8'; possible: .'float32', 'float16'."):
        small(tokenizer, tmp_path / "i", dtype="int8")


def test_a_kl_tokenizer_caches_its_mean_and_training_mode_is_put_back(tmp_path):
    t = Tokenizer(TokenizerConfig(image_size=16, tokens=4, latent_dim=3, quantizer="kl")).train()
    c, x = small(t, tmp_path / "c"), stack(shapes(16, 40).train)[0]
    assert t.training
    with torch.no_grad():
        assert torch.allclose(stack(c)[0], t.eval().encode(x).z, atol=1e-5)


def test_loaders_with_workers_read_the_same(tokenizer, whole):
    c = pickle.loads(pickle.dumps(open_cache(whole, tokenizer.fingerprint)))
    c[0]  # opened before the workers fork
    alone = torch.cat([z for z, _ in DataLoader(c, 32, sampler=list(range(0, 180, 7)))])
    assert torch.equal(
        alone,
        torch.cat([z for z, _ in DataLoader(c, 8, sampler=list(range(0, 180, 7)), num_workers=2)]),
    )


# Many processes, interrupted ones


@pytest.mark.slow
@pytest.mark.parametrize("distributed", [False, True])
def test_two_processes_write_the_same_cache_as_one(tokenizer, whole, tmp_path, distributed):
    ranks = [
        process(
            tokenizer,
            tmp_path / "c",
            r,
            2,
            slow=0.05 * r,
            store=tmp_path / "store" if distributed else None,
        )
        for r in range(2)
    ]
    for p in ranks:
        ends(p)
    answers = {(tmp_path / f"answer-{r}").read_text() for r in range(2)}
    assert (
        answers == {"180"} if distributed else "180" in answers
    )  # on their own, who is done first does not wait
    assert contents(tmp_path / "c") == contents(whole)


@pytest.mark.slow
def test_sigkill_costs_one_shard(tokenizer, whole, tmp_path):
    f = tmp_path / "c"
    p, deadline = process(tokenizer, f, slow=0.15), time.time() + 120
    while len(list((f / "shards").glob("*.json"))) < 3:
        assert p.is_alive() and time.time() < deadline
        time.sleep(0.002)
    p.kill()
    ends(p, -signal.SIGKILL)
    with pytest.raises(
        ValueError,
        match=r"is an unfinished latent cache \(\d of 8 shards\): run the same caching again",
    ):
        open_cache(f, tokenizer.fingerprint)
    kept = {s: s.stat().st_mtime_ns for s in sorted((f / "shards").glob("*.safetensors"))[:3]}
    (f / "shards" / ".00005.safetensors.123.tmp").write_bytes(b"half")
    ends(process(tokenizer, f))
    assert contents(f) == contents(whole) and all(
        s.stat().st_mtime_ns == t for s, t in kept.items()
    )


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same(tokenizer, whole, tmp_path):
    f = tmp_path / "c"
    for wait in np.random.default_rng(0).uniform(0.05, 0.35, 3):
        p, deadline = process(tokenizer, f, slow=0.15), time.time() + 120
        while not list((f / "shards").glob("*")):
            assert p.is_alive() and time.time() < deadline
            time.sleep(0.002)
        time.sleep(wait)
        p.kill()
        ends(p, -signal.SIGKILL)
    ends(process(tokenizer, f))
    assert {k: v for k, v in contents(f).items() if not k.endswith(".tmp")} == contents(whole)


# Refused


def test_a_cache_of_another_tokenizer_is_refused(tokenizer, whole, tmp_path):
    other = Tokenizer(tokenizer.config)
    with pytest.raises(
        ValueError,
        match=(
            f"holds latents of tokenizer {tokenizer.fingerprint}, not of {other.fingerprint}: "
            "cache the latents of this tokenizer in another folder"
        ),
    ):
        open_cache(whole, other.fingerprint)
    before = contents(whole)
    with pytest.raises(
        ValueError, match="holds other latents.*give another folder(?s:.*)tokenizer: "
    ):
        cache_latents(other, shapes(16, N), whole, flips=True, shard_size=25, progress=False)
    assert contents(whole) == before
    with pytest.raises(ValueError, match="holds no latent cache: make one by cache_latents"):
        open_cache(tmp_path, tokenizer.fingerprint)


def test_other_images_in_the_same_folder_are_refused(tokenizer, tmp_path):
    images = shapes(16, 40)
    small(tokenizer, tmp_path / "c", images)
    changed = ImageData(
        TensorDataset(1 - stack(images.train)[0], stack(images.train)[1]),
        images.heldout,
        images.class_names,
        images.source,
    )
    for bad, says in [
        (dict(images=changed), "probe: "),
        (dict(images=shapes(16, 48)), "images: 40 there, 48 asked for"),
        (dict(flips=True), "flips: False there, True asked for"),
        (dict(shard_size=9), "shard_size: 16 there"),
    ]:
        with pytest.raises(ValueError, match=says):
            small(tokenizer, tmp_path / "c", **bad)


@pytest.fixture
def pictures(tmp_path):
    "50 pictures of two classes; small() makes shards of 16."
    for i in range(50):
        path = tmp_path / "pics" / ("cat" if i < 30 else "dog") / f"{i:02}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path, i)
    return tmp_path / "pics"


def draw(path, seed: int):
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def replaced(pics):
    draw(pics / "cat" / "12.bmp", 99)  # as many bytes as before


def put_right(pics):
    (pics / "cat" / "12.bmp").rename(pics / "dog" / "12.bmp")
    (pics / "dog" / "40.bmp").rename(pics / "cat" / "40.bmp")


@pytest.mark.parametrize("change", [replaced, put_right])
def test_latents_of_pictures_that_changed_are_made_anew(tokenizer, pictures, capsys, change):
    f = pictures.parent / "c"
    small(tokenizer, f, folder(pictures, 16))
    change(pictures)
    images = folder(pictures, 16)
    c = small(tokenizer, f, images)
    assert "pictures or labels have changed since; " in capsys.readouterr().out
    for i in range(len(images.train)):
        x, y = images.train[i]
        assert torch.allclose(c[i][0], tokenizer.encode(x[None]).z[0], atol=1e-5) and c[i][1] == y
    written = {p: p.stat().st_mtime_ns for p in (f / "shards").glob("*.safetensors")}
    small(tokenizer, f, images)
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_only_the_shard_of_a_replaced_picture_is_made_anew(tokenizer, pictures, capsys):
    f = pictures.parent / "c"
    small(tokenizer, f, folder(pictures, 16))
    before = contents(f)
    replaced(pictures)
    small(tokenizer, f, folder(pictures, 16))
    assert "1 of 3 shards are encoded anew" in capsys.readouterr().out
    changed = {k for k, v in contents(f).items() if before.get(k) != v}
    assert len([k for k in changed if str(k).endswith(".safetensors")]) == 1


def test_pictures_that_were_copied_or_moved_need_no_new_latents(tokenizer, pictures, capsys):
    f = pictures.parent / "c"
    small(tokenizer, f, folder(pictures, 16))
    written = {p: p.stat().st_mtime_ns for p in (f / "shards").glob("*.safetensors")}
    elsewhere = pictures.parent / "mount" / "photos"
    shutil.copytree(pictures, elsewhere, copy_function=shutil.copyfile)  # new time stamps
    assert len(small(tokenizer, f, folder(elsewhere, 16))) == len(folder(pictures, 16).train)
    assert "encoded anew" not in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_a_cache_that_knows_no_pictures_is_opened_as_before(tokenizer, pictures):
    f = pictures.parent / "c"
    small(tokenizer, f, folder(pictures, 16))
    plan = {k: v for k, v in read_json(f / "plan.json").items() if k != "pictures"}
    write_json(f / "plan.json", plan)
    for p in (f / "shards").glob("*.json"):  # as versions before wrote them
        about = {k: v for k, v in read_json(p).items() if k != "pictures"}
        write_json(p, about | {"plan": key_of(plan)})
    written = {p: p.stat().st_mtime_ns for p in (f / "shards").glob("*.safetensors")}
    assert len(small(tokenizer, f, folder(pictures, 16))) == len(folder(pictures, 16).train)
    assert {p: p.stat().st_mtime_ns for p in written} == written


@pytest.mark.parametrize("damage", ["truncated", "one bit", "gone", "no hash"])
def test_a_damaged_shard_is_refused_and_made_anew(tokenizer, tmp_path, damage):
    f = tmp_path / "c"
    small(tokenizer, f, flips=True)
    before, shard = contents(f), f / "shards" / "00002.safetensors"
    untouched = {
        s: s.stat().st_mtime_ns for s in (f / "shards").glob("*.safetensors") if s != shard
    }
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-40])
    if damage == "one bit":
        shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))
    if damage == "gone":
        shard.unlink()
    if damage == "no hash":
        shard.with_suffix(".json").unlink()
        (f / "cache.json").unlink()
    says = (
        r"unfinished latent cache \(4 of 5"
        if damage == "no hash"
        else (
            "1 of 5 shards of .* are missing or not what was written .such as "
            "00002.safetensors.: run the same caching again"
        )
    )
    with pytest.raises(ValueError, match=says):
        open_cache(f, tokenizer.fingerprint)
    assert len(small(tokenizer, f, flips=True)) == 80
    assert contents(f) == before and all(s.stat().st_mtime_ns == t for s, t in untouched.items())


def test_latents_that_are_not_numbers_are_not_cached(tokenizer, tmp_path):
    images = shapes(16, 40)
    x, y = stack(images.train)
    x[21] = float("nan")
    bad = ImageData(TensorDataset(x, y), images.heldout, images.class_names, images.source)
    with pytest.raises(FloatingPointError, match=r"latents of images \[21\] are not finite"):
        small(tokenizer, tmp_path / "c", bad)
    assert not (tmp_path / "c" / "cache.json").exists() and sorted(
        p.name for p in (tmp_path / "c" / "shards").iterdir()
    ) == ["00000.json", "00000.safetensors"]


def test_ranks_must_make_sense(tokenizer, tmp_path):
    for rank, world in [(2, 2), (0, None), (None, 2), (-1, 2)]:
        with pytest.raises(ValueError, match="0 <= rank < world"):
            small(tokenizer, tmp_path / "c", rank=rank, world=world)
    with pytest.raises(ValueError, match="shard_size=0 and batch_size=8"):
        small(tokenizer, tmp_path / "c", shard_size=0)


def test_broken_files_are_told_of_in_the_cache(tokenizer, tmp_path):
    (tmp_path / "p").mkdir()
    for i in range(30):
        Image.new("RGB", (20, 20 + i), (8 * i, 0, 0)).save(tmp_path / "p" / f"{i:02}.png")
    (tmp_path / "p" / "04.png").write_bytes(b"")
    images = folder(tmp_path / "p", 16)
    c = small(tokenizer, tmp_path / "c", images, workers=2)
    assert c.info["broken"] == [str(tmp_path / "p" / "04.png")] and len(c) == len(images.train)
    for i in range(5, 9):
        (tmp_path / "p" / f"{i:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="images are broken, more than 1%"):
        small(tokenizer, tmp_path / "again", folder(tmp_path / "p", 16))
