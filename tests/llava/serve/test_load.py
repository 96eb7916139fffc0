"""64 clients at once against two tiny workers. Prints its figures: ``make test ARGS="-n 0 -s -k clients_at_once"``."""

import asyncio
import gc
import time
from collections import Counter
from pathlib import Path

import pytest

from llava.serve.client import AnswerError, Client

from .conftest import QUESTION, call, picture, prompt_of, wait_for

CLIENTS = 64
ROUNDS = 3
NEW_TOKENS = 12


def resident_mb() -> float:
    """Memory of this process, which holds clients, controller and both workers."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def visitor(client: Client, number: int) -> str:
    """What became of one question; every fourth visitor leaves after the first frame."""
    body = {
        "model": "tiny",
        "prompt": prompt_of(QUESTION),
        "images": [picture()],
        "temperature": 0,
        "max_new_tokens": NEW_TOKENS,
    }
    text = ""
    try:
        answer = client.answer(body)
        async for frame in answer:
            text = frame["text"]
            if number % 4 == 0:
                await answer.aclose()
                return "left"
    except AnswerError as error:
        return "busy" if "the worker is busy" in str(error) else str(error)
    return "answered" if len(text) > len(body["prompt"]) else "empty"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_64_clients_at_once(start, plain_backend, monkeypatch, capsys):
    monkeypatch.setattr("llava.serve.worker_app.WAITING_PER_SLOT", 10)
    url = start.controller()
    workers = [start.worker(plain_backend, controller=url, name="tiny", slots=2) for _ in range(2)]
    client = Client(url)

    async def storm() -> Counter[str]:
        return Counter(await asyncio.gather(*(visitor(client, number) for number in range(CLIENTS))))

    total: Counter[str] = Counter()
    memory = []
    started = time.monotonic()
    for _ in range(ROUNDS):
        total += asyncio.run(storm())
        for served in workers:  # no slot is lost, whoever left
            wait_for(lambda served=served: call(served.url, "worker_get_status")["queue_length"] == 0, seconds=30)
        gc.collect()
        memory.append(resident_mb())
    seconds = time.monotonic() - started

    with capsys.disabled():
        print(f"\n{CLIENTS} clients x {ROUNDS}: {dict(total)} in {seconds:.1f} s; MB after each: {memory}")
    assert set(total) <= {"answered", "busy", "left"}
    assert total.total() == CLIENTS * ROUNDS
    assert total["answered"] >= ROUNDS * 20
    assert total["busy"] > 0
    assert memory[-1] - memory[0] < 40
