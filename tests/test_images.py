"""One picture: its crop, its depth, and what may be broken beside its pixels."""

import io
import math
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from softvq_lab.data.folder import BrokenFiles, decode, folder, record_broken
from softvq_lab.data.images import UnknownScale, center_crop, cover, random_crop
from softvq_lab.data.reading import read_picture, save_8bit
from softvq_lab.data.signatures import signature

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 255, (40, 60, 3), dtype=np.uint8))
RAMP = np.tile(np.linspace(0, 1, 48), (20, 1))


def encoded(kind: str, image=PICTURE, **options) -> bytes:
    image.save(memory := io.BytesIO(), kind, **options)
    return memory.getvalue()


# The crop


def adm_center_crop(image: Image.Image, size: int) -> np.ndarray:
    "As guided-diffusion states it: halvings, bicubic of the whole, the middle."
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(x // 2 for x in image.size), Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(x * scale) for x in image.size), Image.Resampling.BICUBIC)
    a = np.array(image)
    y, x = (a.shape[0] - size) // 2, (a.shape[1] - size) // 2
    return a[y : y + size, x : x + size]


@pytest.mark.parametrize("ratio", [1, 1.3, 2, 3.9, 4.1, 7, 16, 40, 90])
def test_the_centre_crop_is_adms_to_the_bit_at_every_ratio(ratio):
    for short in (1, 7, 32, 33, 95, 130):
        long = int(short * ratio) + short % 3
        for wh in ((short, long), (long, short)):
            image = Image.fromarray(RNG.integers(0, 256, (wh[1], wh[0], 3), dtype=np.uint8))
            for size in (5, 32):
                expected = adm_center_crop(image, size)
                assert (np.array(center_crop(image, size)) == expected).all(), (wh, size)


@pytest.mark.parametrize("wh", [(300, 12), (12, 300), (61, 59)])
def test_the_random_crop_is_a_window_of_the_whole_resized_image(wh):
    image = Image.fromarray(RNG.integers(0, 256, (wh[1], wh[0], 3), dtype=np.uint8))
    for place in [(0, 0.1, 0.9), (0.7, 0.5, 0.2), (0.99, 0.99, 0.01)]:
        side = 16 + int(place[0] * (math.ceil(16 / 0.8) - 16 + 1))
        whole = adm_size(image, side)
        y, x = int(place[1] * (whole.height - 16 + 1)), int(place[2] * (whole.width - 16 + 1))
        expected = whole.crop((x, y, x + 16, y + 16))
        assert random_crop(image, 16, place).tobytes() == expected.tobytes()


def adm_size(image: Image.Image, side: int) -> Image.Image:
    while min(*image.size) >= 2 * side:
        image = image.resize(tuple(x // 2 for x in image.size), Image.Resampling.BOX)
    scale = side / min(*image.size)
    return image.resize(tuple(round(x * scale) for x in image.size), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("wh", [(1, 300_000), (300_000, 1), (3, 80_000)])
def test_a_line_of_pixels_is_no_picture_of_gigabytes(wh):
    image = Image.new("RGB", wh, "red")
    assert math.prod(cover(image, 256).size) <= 2**26
    assert center_crop(image, 256).getpixel((9, 200)) == (255, 0, 0)


# Depths


def deep(values, kind) -> bytes:
    return encoded("TIFF", Image.fromarray(values.astype(kind)))


def deep_png(values: np.ndarray) -> bytes:
    "16-bit colours (H, W, 3 or 4) as a PNG, which PIL cannot write."
    h, w, c = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", w, h, 16, {3: 2, 4: 6}[c], 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*p) for p in parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


COLOURS = np.stack([RAMP, RAMP**2, RAMP / 2], 2)


@pytest.mark.parametrize(
    "data",
    [
        deep(RAMP * 65535, np.uint16),
        deep(RAMP * 20_000, np.uint16),
        deep(RAMP * 65535, np.int32),
        deep(RAMP, np.float32),
        deep(RAMP * 0.3, np.float32),
        deep(RAMP * 255, np.float32),
        deep_png(COLOURS * 65535),
        deep_png(np.concatenate([COLOURS * 40_000, np.full((20, 48, 1), 65535)], 2)),
    ],
)
def test_deep_pictures_with_a_known_scale_are_seen(data):
    x = np.array(read_picture(io.BytesIO(data)))[..., 0]
    assert x.max() >= 76 and (np.diff(x[0].astype(int)) >= 0).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("make", [lambda v: deep(v[..., 0], np.uint16), deep_png])
def test_few_bits_in_sixteen_are_refused_with_their_range_and_a_command(make, bits):
    data = make(COLOURS * (2**bits - 1))
    with pytest.raises(UnknownScale, match=f"to {2**bits - 1}.*Scale all pictures of the data set"):
        read_picture(io.BytesIO(data))


def ppm(values: np.ndarray, largest: int) -> bytes:
    "Colours (H, W, 3) as a PPM of 16 bits."
    h, w, _ = values.shape
    return f"P6 {w} {h} {largest}\n".encode() + values.astype(">u2").tobytes()


def test_a_ppm_of_few_bits_is_refused_unless_it_says_so():
    assert np.array(read_picture(io.BytesIO(ppm(COLOURS * 1023, 1023)))).max() == 255
    with pytest.raises(UnknownScale, match="would be nearly black"):
        read_picture(io.BytesIO(ppm(COLOURS * 1023, 65535)))


def planes(values: np.ndarray) -> bytes:
    "16-bit colours (H, W, 3) as a TIFF with a plane for each colour, which PIL cannot write."
    h, w, _ = values.shape
    n, start = 2 * h * w, 200
    short = [(256, w), (257, h), (259, 1), (262, 2), (277, 3), (278, h), (284, 2)]
    entries = [(tag, 3, 1, v) for tag, v in short]
    entries += [(258, 3, 3, 150), (273, 4, 3, 160), (279, 4, 3, 172)]
    table = struct.pack("<H", len(entries))
    table += b"".join(struct.pack("<HHII", *e) for e in sorted(entries)) + bytes(4)
    far = struct.pack("<3H", 16, 16, 16), struct.pack("<3I", start, start + n, start + 2 * n)
    head = (b"II*\0" + struct.pack("<I", 8) + table).ljust(150, b"\0") + far[0]
    head = (head.ljust(160, b"\0") + far[1] + struct.pack("<3I", n, n, n)).ljust(start, b"\0")
    return head + values.astype("<u2").transpose(2, 0, 1).tobytes()


def test_16_bit_colours_in_planes_are_refused_and_not_garbled():
    with pytest.raises(UnknownScale, match="in planes of their own.*magick"):
        read_picture(io.BytesIO(planes(COLOURS * 65535)))


def test_deep_greys_of_which_the_least_is_white_are_turned_like_others():
    photometric = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    for values, kind in ((RAMP * 65535, np.uint16), (RAMP, np.float32)):
        data = deep(values, kind)
        assert data.count(photometric) == 1
        turned = data.replace(photometric, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
        black, white = (np.array(read_picture(io.BytesIO(d))).astype(int) for d in (data, turned))
        assert np.array_equal(black + white, np.full_like(black, 255))


NAN = np.where(RAMP > 0.98, np.nan, RAMP)


@pytest.mark.parametrize(
    "values,kind,says",
    [
        (RAMP * 255, np.int32, "32-bit integers.* from 0 to 255"),
        (RAMP * 2000 - 1000, np.int32, "from -1000 to 1000"),
        (RAMP * 1e6, np.int32, "from 0 to 1e.06"),
        (NAN, np.float32, "NaN or infinity"),
        (np.where(RAMP > 0.98, np.inf, RAMP), np.float32, "NaN or infinity"),
        (RAMP - 0.5, np.float32, "floats.* from -0.5 to 0.5"),
        (RAMP * 65535, np.float32, "from 0 to 65535"),
        (RAMP * 7, np.float32, "from 0 to 7"),
        (RAMP / 100, np.float32, "from 0 to 0.01"),
    ],
)
def test_values_without_a_known_scale_are_refused_in_words(values, kind, says):
    with pytest.raises(UnknownScale, match=says):
        read_picture(io.BytesIO(deep(values, kind)))


def test_what_is_really_black_stays_black():
    for kind in (np.uint16, np.int32, np.float32):
        assert not np.array(read_picture(io.BytesIO(deep(0 * RAMP, kind)))).any()


def test_floats_of_8_bit_values_are_these_values():
    values = np.arange(256).reshape(8, 32)
    for scale in (1, 1 / 255):
        got = read_picture(io.BytesIO(deep(values * scale, np.float32)))
        assert (np.array(got)[..., 1] == values).all()


def test_a_data_set_of_few_bits_stops_and_the_command_it_names_helps(tmp_path):
    (tmp_path / "scans").mkdir()
    for i in range(9):
        values = RAMP * (4095 if i % 2 else 3000)
        (tmp_path / "scans" / f"{i}.tif").write_bytes(deep(values, np.uint16))
    d = folder(tmp_path / "scans", 16)
    record_broken(d, tmp_path)
    with pytest.raises(ValueError, match="are broken, more than 1%") as e:
        [d.train[i] for i in range(len(d.train))]
    says = str(e.value)
    assert says.count("Scale all") == 1 and "would be black" in says  # the advice, once
    command = says[says.index('"from') + 1 : says.index(')"') + 1]
    command = command.replace("FOLDER", "scans", 1).replace("NEW_FOLDER", "bright")
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    x = [np.array(Image.open(tmp_path / "bright" / f"{i}.tif.png")).max() for i in range(9)]
    assert x == [255 if i % 2 else 187 for i in range(9)]  # one scale for all
    bright = folder(tmp_path / "bright", 16)
    assert [bright.train[i][0].max() > 0 for i in range(len(bright.train))]


def test_a_scale_must_have_a_range(tmp_path):
    with pytest.raises(ValueError, match="high=3 must be greater than low=3"):
        save_8bit(tmp_path, tmp_path / "out", 3, 3)


# Kinds of colours


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "WEBP"])
def test_a_picture_is_what_a_viewer_shows(mode, kind):
    colour = Image.new("RGB", (9, 7), (200, 30, 60))
    colour.paste((20, 180, 90), (0, 0, 4, 7))
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(colour, *profiles, outputMode="LAB")
    else:
        image = colour.quantize(8) if mode == "P" else colour.convert(mode)
    if (kind, mode) == ("TIFF", "YCbCr"):
        pytest.skip("what PIL writes here it cannot read itself")
    try:
        data = encoded(kind, image, **({"lossless": True} if kind == "WEBP" else {}))
    except (OSError, KeyError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    got = np.array(read_picture(io.BytesIO(data))).astype(int)
    shown = np.array(colour.convert(mode).convert("RGB") if mode in ("1", "L", "LA") else colour)
    assert np.abs(got - shown).max() <= 12


def test_the_first_frame_of_an_animation_is_the_picture():
    frames = [Image.new("RGB", (9, 7), c) for c in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        more = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(kind, frames[0], save_all=True, append_images=frames[1:], **more)
        assert read_picture(io.BytesIO(data)).getpixel((3, 3)) == (255, 0, 0), kind


def test_big_endian_tiffs_are_the_same_pictures():
    for values, kind in ((RAMP * 65535, ">u2"), (RAMP, ">f4")):
        native = read_picture(io.BytesIO(deep(values, np.dtype(kind).newbyteorder("="))))
        big = Image.fromarray(values.astype(kind))
        data = encoded("TIFF", big)
        assert np.array_equal(np.array(read_picture(io.BytesIO(data))), np.array(native))


# What stands beside the pixels


def with_chunk(*data: bytes, after: bool = False) -> bytes:
    png = encoded("PNG")
    at = len(png) - 12 if after else png.index(b"IDAT") - 4
    return png[:at] + b"".join(chunk(d[:4], d[4:]) for d in data) + png[at:]


def with_segment(marker: int, data: bytes) -> bytes:
    jpeg = encoded("JPEG")
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")


def exif(*entries: bytes) -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def with_entry(new: bytes) -> bytes:
    "A TIFF with one more entry in its directory, or another one in the place of its own."
    tiff = encoded("TIFF")
    (at,) = struct.unpack("<I", tiff[4:8])
    (n,) = struct.unpack("<H", tiff[at : at + 2])
    entries = [tiff[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(n)]
    entries = sorted(
        [e for e in entries if e[:2] != new[:2]] + [new], key=lambda e: struct.unpack("<H", e[:2])
    )
    table = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + table


BOMB = zlib.compress(bytes(80 * 2**20))
UPSIDE = entry(0x112, 3, 1, struct.pack("<H", 3))
ODD = {
    "a text that unpacks to 80 MiB": with_chunk(b"zTXtk\0\0" + BOMB),
    "such a text behind the pixels": with_chunk(b"zTXtk\0\0" + BOMB, after=True),
    "such a text of another language": with_chunk(b"iTXtk\0\1\0\0\0" + BOMB),
    "such an XMP": with_chunk(b"iTXtXML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "such a profile": with_chunk(b"iCCPx\0\0" + BOMB),
    "a hundred texts": with_chunk(*[b"zTXtk\0\0" + zlib.compress(bytes(900_000))] * 100),
    "a profile packed in an unknown way": with_chunk(b"iCCPx\0\7abc"),
    "an empty resolution": with_chunk(b"pHYs\0"),
    "a broken animation": with_chunk(b"acTL\0"),
    "a wrong checksum of a text": with_chunk(b"tEXtk\0v").replace(b"tEXtk\0v", b"tEXtk\0w"),
    "junk as EXIF in a PNG": with_chunk(b"eXIfjunk"),
    "EXIF that is cut off": with_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x05\0"),
    "an orientation in words": with_segment(0xE1, b"Exif\0\0" + exif(entry(0x112, 2, 2, b"6"))),
    "an orientation of 99": with_segment(0xE1, b"Exif\0\0" + exif(entry(0x112, 3, 1, b"\x63"))),
    "a profile in the wrong number of parts": with_segment(0xE2, b"ICC_PROFILE\0\5\x09junk"),
    "an index of pictures that are not there": with_segment(0xE2, b"MPF\0junk"),
    "half a block of Photoshop's": with_segment(0xED, b"Photoshop 3.0\x008BIM"),
    "an empty comment": with_segment(0xFE, b""),
    "a TIFF profile that is not there": with_entry(entry(34675, 7, 10**6, b"\x08")),
    "a TIFF text of 99 MB": with_entry(entry(270, 2, 99_999_999, b"\x08")),
    "a TIFF directory that is not there": with_entry(entry(0x8825, 4, 1, b"\xff\xff\xff\x7f")),
}


@pytest.mark.parametrize("what", ODD)
def test_pixels_are_read_whatever_stands_beside_them(what):
    got = read_picture(io.BytesIO(ODD[what]))
    whole = encoded("JPEG") if ODD[what][:2] == b"\xff\xd8" else encoded("PNG")
    assert got.tobytes() == Image.open(io.BytesIO(whole)).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(b"eXIf" + exif(UPSIDE), b"iCCPx\0\0" + BOMB),
        with_chunk(b"eXIf" + exif(UPSIDE, entry(0x213, 7, 5, b"\x08"))),
        with_chunk(b"eXIf" + exif(UPSIDE, entry(0x8825, 2, 3, b"abc"))),
    ],
)
def test_a_picture_is_turned_though_other_fields_are_broken(data):
    expected = PICTURE.transpose(Image.Transpose.ROTATE_180)
    assert read_picture(io.BytesIO(data)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_once_by_its_orientation(turn, kind):
    tags = Image.Exif()
    tags[0x112] = turn
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 16, 8))  # the upper left quarter
    bright = {1: 0, 2: 1, 3: 3, 4: 2, 5: 0, 6: 1, 7: 3, 8: 2}[turn]
    x = decode(io.BytesIO(encoded(kind, image, exif=tags)), (32, 16) if turn > 4 else (16, 32))[0]
    corners = x[2, 2], x[2, -3], x[-3, 2], x[-3, -3]
    assert [c > 0.8 for c in corners] == [i == bright for i in range(4)]


def test_missing_pixels_and_bombs_of_pixels_stay_refused():
    cut = ODD["a text that unpacks to 80 MiB"]
    for data in (cut[: cut.index(b"IDAT") + 500], encoded("JPEG")[:900], encoded("TIFF")[:3000]):
        with pytest.raises(Exception, match="truncated|cannot identify|not enough|unrecognized"):
            read_picture(io.BytesIO(data))
    huge = encoded("PNG", Image.new("1", (10_000, 10_000)))
    with pytest.raises(Image.DecompressionBombError, match="10000 x 10000 pixels"):
        read_picture(io.BytesIO(huge))
    claims = with_chunk(b"zTXtk\0\0" + BOMB).replace(
        struct.pack(">II", 60, 40), struct.pack(">II", 60_000, 60_000)
    )
    with pytest.raises((Image.DecompressionBombError, OSError, ValueError)):
        read_picture(io.BytesIO(claims))


def test_nothing_of_pils_protection_is_switched_off():
    from PIL import ImageFile, PngImagePlugin

    read_picture(io.BytesIO(ODD["such a profile"]))
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20 and not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 2**30 // 4 // 3


# Files that are no pictures


@pytest.mark.parametrize(
    "data,says",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "HEIC.*heif-convert"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>404", "web page"),
        (b"%PDF-1.7", "a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"8BPS\0\1", "Photoshop"),
        (b"", "empty"),
        (bytes(3000), "zeros"),
    ],
)
def test_a_file_that_is_no_picture_is_named_as_what_it_is(tmp_path, data, says):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=f"it is .*{says}"):
        decode(tmp_path / "a.jpg", 16)


def test_pictures_and_tensors_are_told_apart_by_their_first_bytes():
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        assert signature(encoded(kind)[:4096])[0] == "a picture"
    torch.save({"a": torch.ones(2)}, new := io.BytesIO())
    torch.save({"a": torch.ones(2)}, old := io.BytesIO(), _use_new_zipfile_serialization=False)
    for data in (new.getvalue(), old.getvalue()):
        assert signature(data[:4096])[0].startswith("a pickle of PyTorch")


def test_the_list_of_broken_files_gives_each_reason_and_the_advice_once(tmp_path):
    broken = BrokenFiles(total=9)
    with pytest.warns(UserWarning):
        for i in range(4):
            broken.note(f"{i}.png", f"its values go to {i}. Do this")
    with pytest.raises(ValueError) as e:
        broken.check()
    assert "3.png: its values go to 3\n" in str(e.value) and str(e.value).count("Do this") == 1
