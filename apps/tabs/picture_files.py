"""Pictures and other files that the server may send: written once, and not kept for ever."""

import contextlib
import io
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path

from gradio.utils import get_upload_folder
from PIL import Image
from tabs import made

from softvq_lab.core import hex_digest, write_atomic
from softvq_lab.explore.png_texts import png_bytes

MAX_BYTES = 512 << 20  # bytes of files that are kept
MIN_AGE = 120  # seconds in which a page has loaded what it was sent


class FileCache:
    """Files in gradio's folder, together at most `most` bytes: what was wanted longest ago is
    removed first, but nothing that was wanted less than `young` seconds ago.

    Every position of a slider makes new pictures, and gradio itself would keep them all until the
    server ends. It also writes files in place: of two people with the same picture, one gets half
    of it.
    """

    def __init__(self, most: int = MAX_BYTES, young: float = MIN_AGE, clock=time.monotonic):
        self.most, self.young, self.clock = most, young, clock
        self.files: OrderedDict[Path, tuple[int, float]] = OrderedDict()  # bytes, when wanted
        self.total, self.lock = 0, threading.Lock()

    def put(self, data: bytes, name: str = "", suffix: str = "png") -> str:
        "The file that holds `data`, called `name` or else by its content."
        digest = hex_digest(data, 64)
        folder = Path(get_upload_folder())
        path = folder / digest / name if name else folder / f"{digest}.{suffix}"
        if not self._wanted(path):
            write_atomic(path, data)
            self._add(path, len(data))
        return str(path)

    def _wanted(self, path: Path) -> bool:
        "Is the file there? Then it is the one that was wanted last."
        with self.lock:
            if path not in self.files or not path.exists():
                return False
            self.files[path] = self.files[path][0], self.clock()
            self.files.move_to_end(path)
            return True

    def _add(self, path: Path, size: int):
        with self.lock:
            before, _ = self.files.pop(path, (0, 0))
            self.files[path] = size, self.clock()
            self.total += size - before
            while self.total > self.most and self._remove_oldest():
                pass

    def _remove_oldest(self) -> bool:
        "Remove one file; False where all of them may still be loaded."
        path, (size, when) = next(iter(self.files.items()))
        if self.clock() - when < self.young:
            return False
        del self.files[path]
        self.total -= size
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            if path.parent != Path(get_upload_folder()):
                os.rmdir(path.parent)
        return True


CACHE = FileCache()


def served(image: Image.Image | bytes, suffix: str = "png") -> str:
    "A picture (or a file's bytes) as a file that the server may send."
    return CACHE.put(_bytes(image), suffix=suffix)


def permanent(image: Image.Image) -> str:
    "Likewise, a file that stays as long as the server: a page's chosen picture is known by it."
    data = _bytes(image)
    path = Path(get_upload_folder()) / "kept" / f"{hex_digest(data, 64)}.png"
    if not path.exists():
        write_atomic(path, data)
    return str(path)


def served_copy(path: Path) -> str:
    "A file of a run as a copy that may be sent, under its own name."
    return CACHE.put(path.read_bytes(), name=path.name)


def downloadable(image: Image.Image, how: made.Made | None = None) -> str:
    """A picture of the page with a button to download it: it carries how it was made, `how` or what
    stood on the page when its handler was called, and is called by its run and tab.
    """
    how = how or made.NOW.get()  # none where a program asks
    data = png_bytes(image, how.texts if how else {})
    return CACHE.put(data, name=how.file_name if how else "")


def _bytes(image: Image.Image | bytes) -> bytes:
    if isinstance(image, bytes):
        return image
    memory = io.BytesIO()
    image.save(memory, "png")
    return memory.getvalue()
