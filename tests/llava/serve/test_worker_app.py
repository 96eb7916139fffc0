"""A worker over HTTP: frames, slots, clients that leave, errors that say what they are."""

import argparse
import asyncio
import base64
import json
import logging
import re
import threading
import time
from io import BytesIO

import httpx
import pytest
import torch
from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError
from llava.serve import worker_app
from llava.serve.failures import TooLong
from llava.serve.jobs import Jobs
from llava.serve.pictures import Limits, decode_pictures

from .conftest import QUESTION, Talker, ask, call, free_port, picture, prompt_of, wait_for

BODY = {"model": "any", "prompt": "Q:", "temperature": 0}


def test_frames_are_cumulative_and_begin_with_the_prompt(start):
    served = start.worker(Talker(words=3, pause=0.05))
    response = httpx.post(f"{served.url}/worker_generate_stream", json=BODY)
    assert response.status_code == 200
    assert "content-type" not in response.headers
    assert response.content.endswith(b"\0")
    frames = [json.loads(part) for part in response.content.split(b"\0")[:-1]]
    assert all(set(frame) == {"text", "error_code"} for frame in frames)
    assert frames[-1] == {"text": "Q: 0 1 2", "error_code": 0}
    assert frames[0]["text"].startswith("Q:")
    assert [len(frame["text"]) for frame in frames] == sorted(len(frame["text"]) for frame in frames)


def test_status_and_documentation(start):
    served = start.worker(Talker())
    assert call(served.url, "worker_get_status") == {
        "model_names": ["llava-v1.5-talker"], "speed": 1, "queue_length": 0, "conv_mode": "vicuna_v1",
    }  # fmt: skip
    assert httpx.get(f"{served.url}/worker_get_status").status_code == 405
    assert "/worker_generate_stream" in httpx.get(f"{served.url}/openapi.json").json()["paths"]


class TestRealModel:
    def test_the_golden_llava_answers(self, start, plain_backend):
        served = start.worker(plain_backend)
        body = {"prompt": prompt_of(QUESTION), "images": [picture()], "temperature": 0, "max_new_tokens": 6}
        frames = ask(served.url, body | {"stop": "</s>"})
        assert {frame["error_code"] for frame in frames} == {0}
        assert frames[-1]["text"].startswith(body["prompt"])
        assert len(frames[-1]["text"]) > len(body["prompt"])
        assert frames[-1] == ask(served.url, body | {"stop": None})[-1]
        assert not any("maps" in frame for frame in frames)

    def test_maps_come_when_asked_for_and_with_the_last_frame_only(self, start, ccra_backend):
        served = start.worker(ccra_backend)
        body = {"prompt": prompt_of(QUESTION), "images": [picture()], "temperature": 0, "max_new_tokens": 6}
        assert "maps" not in ask(served.url, body)[-1]
        frames = ask(served.url, body | {"maps": True})
        assert ["maps" in frame for frame in frames] == [False] * (len(frames) - 1) + [True]
        assert frames[-1]["maps"]["pictures"][0]["size"] == [40, 20]

    def test_too_long_is_told_with_code_0(self, start, plain_backend):
        served = start.worker(plain_backend)
        (frame,) = ask(served.url, {"prompt": "word " * 5000})
        assert frame["error_code"] == 0
        assert frame["text"].startswith("word word")
        assert "Exceeds max token length. Please start a new conversation, thanks. (the prompt has " in frame["text"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"prompt": None}, "the request's prompt cannot be used: Input should be a valid string"),
            ({"images": []}, "the prompt has 1 <image> for 0 pictures; they must be as many"),
            ({"images": ["no base64!"]}, "picture 1 cannot be read"),
            ({"images": ["/etc/passwd"]}, "picture 1 cannot be read"),
            ({"images": [picture()] * 9}, "the request holds 9 pictures; this worker takes at most 8"),
            ({"top_p": 1.5}, "the request's top_p cannot be used: Input should be less than or equal to 1"),
            ({"temperature": -1}, "the request's temperature cannot be used"),
            ({"temperature": "warm"}, "the request's temperature cannot be used"),
            ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, change, message, start, plain_backend):
        served = start.worker(plain_backend)
        (frame,) = ask(served.url, {"prompt": prompt_of(QUESTION), "images": [picture()]} | change)
        assert frame["error_code"] == 1
        assert message in frame["text"]

    def test_what_is_no_json_is_named(self, start, plain_backend):
        served = start.worker(plain_backend)
        response = httpx.post(f"{served.url}/worker_generate_stream", content=b"{")
        assert json.loads(response.content.rstrip(b"\0"))["text"].startswith("the request is not JSON")


class TestPictureLimits:
    @pytest.mark.parametrize(
        ("side", "message"),
        [
            (7_000, "picture 1 has 7000 x 7000 pixels; send at most 40 million"),
            (14_000, "picture 1 cannot be read .* decompression bomb"),
        ],
    )
    def test_a_bomb_is_refused_by_its_head(self, side, message):
        buffer = BytesIO()
        Image.new("1", (side, side)).save(buffer, format="PNG")
        assert len(buffer.getvalue()) < 50_000
        with pytest.raises(UserError, match=message):
            decode_pictures([base64.b64encode(buffer.getvalue()).decode()], Limits())

    def test_formats_that_start_other_programs_are_not_tried(self):
        buffer = BytesIO()
        Image.new("RGB", (4, 4)).save(buffer, format="EPS")
        with pytest.raises(UserError, match="picture 1 cannot be read"):
            decode_pictures([base64.b64encode(buffer.getvalue()).decode()], Limits())

    def test_a_cut_off_picture_is_refused(self):
        whole = base64.b64decode(picture(300, 300))
        with pytest.raises(UserError, match="picture 2 cannot be read"):
            decode_pictures([picture(), base64.b64encode(whole[:-40]).decode()], Limits())

    def test_a_body_beyond_the_limit_is_refused_unread(self, start):
        served = start.worker(Talker(), max_body=1 << 20)
        (frame,) = ask(served.url, BODY | {"images": ["A" * (2 << 20)]})
        assert frame["error_code"] == 1
        assert "the request is larger than 1 MB" in frame["text"]


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the model ran out of memory"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), "the model ran out of memory"),
            (RuntimeError("mat1 and mat2 must have the same dtype, but got Half and Float"), "different number types"),
            (UserError("bad thing; do another"), "bad thing; do another"),
            (KeyError("surprise"), "the worker failed with KeyError ('surprise'); its log has the traceback"),
        ],
    )
    def test_the_real_error_arrives_with_an_id_that_the_log_has(self, error, message, start, caplog):
        served = start.worker(Talker(words=1, error=error))
        with caplog.at_level(logging.ERROR):
            frame = ask(served.url, BODY)[-1]
        assert frame["error_code"] == 1
        assert message in frame["text"]
        error_id = re.search(r"\(error id (\w{8})\)$", frame["text"])[1]
        (record,) = [record for record in caplog.records if error_id in record.getMessage()]
        assert record.exc_info[1] is error

    def test_too_long_from_a_backend(self, start):
        served = start.worker(Talker(words=1, error=TooLong("9 tokens")))
        assert ask(served.url, BODY)[-1] == {
            "text": "Q:Exceeds max token length. Please start a new conversation, thanks. (9 tokens)",
            "error_code": 0,
        }

    def test_a_model_that_still_loads_says_so(self, start):
        loaded = threading.Event()
        talker = Talker()
        served = start.worker(None, load=lambda: loaded.wait(20) and talker)
        (frame,) = ask(served.url, BODY)
        assert frame["error_code"] == 1
        assert "the model llava-v1.5-talker is still loading (0 s so far); ask again in a moment" in frame["text"]
        assert call(served.url, "worker_get_status")["model_names"] == []
        loaded.set()
        wait_for(lambda: served.worker.backend)
        assert ask(served.url, BODY)[-1]["text"] == "Q: 0 1 2"

    def test_a_model_that_cannot_be_loaded_ends_the_worker(self):
        def load():
            raise UserError("no such model")

        port = str(free_port())
        parser = argparse.ArgumentParser()
        worker_app.add_worker_flags(parser)
        args = parser.parse_args(["--port", port, "--host", "127.0.0.1", "--no-register"])
        with pytest.raises(UserError, match="no such model"):
            worker_app.serve(worker_app.worker_from_flags(args, "m", load), args)


class TestSlots:
    def test_a_client_that_leaves_ends_its_generation_and_frees_its_slot(self, start):
        talker = Talker(words=10_000, pause=0.02)
        served = start.worker(talker, slots=1)
        with httpx.stream("POST", f"{served.url}/worker_generate_stream", json=BODY) as response:
            chunks = response.iter_bytes()  # dropping it would close the stream
            next(chunks)
            assert call(served.url, "worker_get_status")["queue_length"] == 1
        left = time.monotonic()
        wait_for(lambda: talker.ended == ["given up"])
        wait_for(lambda: call(served.url, "worker_get_status")["queue_length"] == 0)
        assert time.monotonic() - left < 5
        talker.words = 1
        assert ask(served.url, BODY)[-1]["text"] == "Q: 0"

    def test_a_client_that_leaves_the_line_is_never_answered(self, start, monkeypatch):
        monkeypatch.setattr(worker_app, "KEEP_ALIVE", 0.1)
        talker = Talker(words=10_000, pause=0.02)
        served = start.worker(talker, slots=1)
        with httpx.stream("POST", f"{served.url}/worker_generate_stream", json=BODY) as first:
            speaking = first.iter_bytes()  # dropping it would close the stream
            next(speaking)
            with httpx.stream("POST", f"{served.url}/worker_generate_stream", json=BODY) as second:
                # while it waits it hears the prompt again and again
                chunks = second.iter_bytes()
                assert json.loads(next(chunks).rstrip(b"\0")) == {"text": "Q:", "error_code": 0}
                next(chunks)
                assert call(served.url, "worker_get_status")["queue_length"] == 2
            wait_for(lambda: call(served.url, "worker_get_status")["queue_length"] == 1)
        wait_for(lambda: call(served.url, "worker_get_status")["queue_length"] == 0)
        assert talker.ended == ["given up"]

    def test_beyond_the_line_it_is_busy(self, start, monkeypatch):
        monkeypatch.setattr(worker_app, "WAITING_PER_SLOT", 1)
        served = start.worker(Talker(words=300, pause=0.02), slots=1)
        url = f"{served.url}/worker_generate_stream"
        with httpx.stream("POST", url, json=BODY), httpx.stream("POST", url, json=BODY):
            (frame,) = ask(served.url, BODY)
        assert frame["error_code"] == 1
        assert "the worker is busy: 1 answers are being written and 1 questions wait" in frame["text"]

    def test_a_failing_generation_frees_its_slot(self, start):
        talker = Talker(words=1, error=RuntimeError("boom"))
        served = start.worker(talker, slots=1)
        for _ in range(3):
            assert ask(served.url, BODY)[-1]["error_code"] == 1
        talker.error = None
        assert ask(served.url, BODY)[-1]["text"] == "Q: 0"

    def test_no_more_threads_than_slots(self):
        running, most = [0], [0]
        lock = threading.Lock()

        def work(job):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.02)
            with lock:
                running[0] -= 1
            job.emit("done")

        async def main():
            jobs = Jobs(slots=2, line=20)
            submitted = [jobs.submit(work) for _ in range(10)]
            assert jobs.queue_length == 10
            last = [[update async for update in job.updates(5)][-1] for job in submitted]
            await asyncio.sleep(0)
            assert jobs.queue_length == 0
            jobs.close()
            return last

        assert asyncio.run(main()) == ["done"] * 10
        assert most == [2]


class TestToken:
    def test_without_the_token_nothing_is_said(self, start):
        served = start.worker(Talker(), token="secret")
        for path in ("worker_get_status", "worker_generate_stream", "v1/chat/completions"):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer sécret".encode()}):
                refused = httpx.post(f"{served.url}/{path}", json=BODY, headers=headers)
                assert refused.status_code == 401
                assert "start its clients with the same --auth-token" in refused.json()["detail"]
        assert ask(served.url, BODY, token="secret")[-1]["text"] == "Q: 0 1 2"


def test_the_mark_of_a_picture_is_one():
    assert QUESTION.count(DEFAULT_IMAGE_TOKEN) == 1
