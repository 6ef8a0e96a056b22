"""Twenty people at once: no error, and nobody sees another's image. How quick the answers are is
printed (`pytest -m slow -k load -s` on an idle machine), not asserted.
"""

import random
import statistics
import threading
import time

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def runs(trained):
    return trained


def crowd(app, tmp_path, people: int, seconds: float) -> tuple[list[float], list]:
    "Seconds of each reconstruction and what went wrong, of so many sessions with an image each."
    from gradio_client import Client, handle_file

    took, wrong, clients = [], [], [None] * people
    for i in range(people):
        Image.fromarray(np.full((32, 32, 3), (i * 12, 255 - i * 12, 128), np.uint8)).save(
            tmp_path / f"{i}.png"
        )
        clients[i] = Client(app.url, verbose=False)
    clients[0].predict(
        "tokenizer", handle_file(tmp_path / "0.png"), api_name="/reconstruct"
    )  # the model is loaded, as after anybody's first look
    until = time.time() + seconds

    def person(i: int):
        pause, mine = random.Random(i), handle_file(tmp_path / f"{i}.png")
        while time.time() < until:
            began = time.time()
            try:
                original, *rest, message = clients[i].predict(
                    "tokenizer", mine, api_name="/reconstruct"
                )
                path = original["path"] if isinstance(original, dict) else original
                got = np.array(Image.open(path).convert("RGB")).reshape(-1, 3)
                if not (
                    abs(got.astype(int) - (i * 12, 255 - i * 12, 128)).max() <= 2
                    and "PSNR" in str(message)
                ):
                    wrong.append((i, "not my image", got[0], message))
            except Exception as e:
                wrong.append((i, repr(e)))
            took.append(time.time() - began)
            time.sleep(pause.uniform(0.2, 2))  # people look at what they see

    threads = [threading.Thread(target=person, args=(i,)) for i in range(people)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return took, wrong


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_twenty_people_at_once(app, tmp_path, seconds):
    took, wrong = crowd(app, tmp_path, 20, seconds)
    print(
        f"{len(took)} reconstructions in {seconds} s, median {statistics.median(took):.2f} s, "
        f"longest {max(took):.2f} s"
    )  # of an idle machine: under 2 s
    assert wrong == [] and len(took) >= 20


def test_whoever_waits_sees_a_place_in_the_queue(client):
    work = [client.submit("generator", api_name="/sample") for _ in range(6)]
    places = set()
    for _ in range(200):
        places |= {s.rank for s in (w.status() for w in work) if s.rank is not None}
        if places - {0} or all(w.done() for w in work):
            break
        time.sleep(0.05)
    for w in work:
        w.result(timeout=120)
    assert places - {0}, places


def test_the_api_page_lists_what_can_be_asked(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert {"/reconstruct", "/sample", "/latent_map", "/compare", "/stop"} <= named.keys()
