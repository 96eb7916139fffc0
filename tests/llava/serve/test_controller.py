"""The controller over HTTP: the registry, dispatch, the proxied stream, workers that come and go."""

import asyncio
import json
import socket
import threading
import time

import httpx
import pytest

from llava.errors import UserError
from llava.serve import controller as controller_module
from llava.serve.access import LOOPBACK, AllowedWorkers
from llava.serve.background import BackgroundServer
from llava.serve.controller import Controller, Worker
from llava.serve.protocol import WorkerStatus
from llava.serve.registration import Registration

from .conftest import Talker, ask, call, wait_for

NAME = "llava-v1.5-talker"
BODY = {"model": NAME, "prompt": "Q:", "temperature": 0}
STATUS = {"model_names": ["m"], "speed": 1, "queue_length": 0}


def register(url, name, status=STATUS, beat=True):
    return call(url, "register_worker", {"worker_name": name, "check_heart_beat": beat, "worker_status": status})


class TestRoutes:
    def test_as_upstream_answers_them(self, start):
        url = start.controller()
        assert call(url, "list_models")["models"] == []
        assert call(url, "get_worker_address", {"model": "m"}) == {"address": ""}
        assert register(url, "http://127.0.0.1:9") is None
        assert call(url, "list_models")["models"] == ["m"]
        beat = {"worker_name": "http://127.0.0.1:9", "queue_length": 3}
        assert call(url, "receive_heart_beat", beat) == {"exist": True}
        assert call(url, "receive_heart_beat", beat | {"worker_name": "http://other"}) == {"exist": False}
        assert call(url, "worker_get_status") == {
            "model_names": [], "speed": 0, "queue_length": 0, "conv_mode": None,
        }  # fmt: skip
        assert call(url, "refresh_all_workers") is None
        assert call(url, "list_models")["models"] == []
        assert httpx.get(f"{url}/list_models").status_code == 405
        assert httpx.get(f"{url}/docs").status_code == 200

    def test_a_worker_that_does_not_answer_is_not_registered_and_the_answer_is_null(self, start):
        url = start.controller()
        for name in ("http://127.0.0.1:9", "no address", "file:///etc/passwd"):
            assert register(url, name, status=None) is None
        assert call(url, "list_models")["models"] == []

    @pytest.mark.parametrize("path", ["register_worker", "get_worker_address", "receive_heart_beat"])
    def test_a_missing_key_is_named(self, path, start):
        response = httpx.post(f"{start.controller()}/{path}", json={"check_heart_beat": True})
        assert response.status_code == 422
        assert response.json()["detail"][0]["msg"] == "Field required"

    def test_an_upstream_worker_without_status_is_asked_for_it(self, start):
        url = start.controller()
        served = start.worker(Talker())
        assert register(url, served.url, status=None, beat=False) is None
        listed = call(url, "list_models")
        assert listed == {"models": [NAME], "conv_modes": {NAME: "vicuna_v1"}}
        assert call(url, "get_worker_address", {"model": NAME}) == {"address": served.url}
        assert call(url, "worker_get_status")["model_names"] == [NAME]


class TestStream:
    def test_the_worker_answers_through_the_controller(self, start):
        url = start.controller()
        served = start.worker(Talker(), controller=url)
        assert ask(url, BODY)[-1] == ask(served.url, BODY)[-1] == {"text": "Q: 0 1 2", "error_code": 0}

    def test_without_a_worker_one_frame_with_code_2(self, start):
        (frame,) = ask(start.controller(), BODY)
        assert frame == {
            "text": f"no worker serves '{NAME}' now; choose another model or wait for one",
            "error_code": 2,
        }

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"prompt": ""}'])
    def test_what_names_no_model_is_told(self, content, start):
        response = httpx.post(f"{start.controller()}/worker_generate_stream", content=content)
        frame = json.loads(response.content.rstrip(b"\0"))
        assert frame["error_code"] == 1
        assert "must be a JSON object with the keys model and prompt" in frame["text"]

    def test_a_worker_that_dies_in_mid_answer_is_an_error_and_the_next_question_goes_elsewhere(self, start):
        url = start.controller()
        talker, other = Talker(words=10_000, pause=0.02), Talker()
        dying = start.worker(talker, controller=url)
        died = threading.Event()
        last: list[dict] = []

        def listen():
            last.extend(ask(url, BODY)[-1:])
            died.set()

        listener = threading.Thread(target=listen)
        listener.start()
        wait_for(lambda: dying.worker.jobs.queue_length)
        survivor = start.worker(other, controller=url)
        # The socket goes first, as when a process is killed: no new connection, then the open ones break.
        dying.worker.registration.controller = "http://127.0.0.1:9"
        dying.server.__exit__(None, None, None)
        assert died.wait(10)
        listener.join()
        assert last[0]["error_code"] == 3
        assert f"the worker at {dying.url} went away" in last[0]["text"]
        assert ask(url, BODY)[-1] == {"text": "Q: 0 1 2", "error_code": 0}
        assert call(url, "get_worker_address", {"model": NAME}) == {"address": survivor.url}

    def test_a_client_that_leaves_the_controller_frees_the_workers_slot(self, start):
        url = start.controller()
        talker = Talker(words=10_000, pause=0.02)
        start.worker(talker, controller=url, slots=1)
        with httpx.stream("POST", f"{url}/worker_generate_stream", json=BODY) as response:
            chunks = response.iter_bytes()
            next(chunks)
            assert talker.ended == []
        wait_for(lambda: talker.ended == ["given up"])


class TestDispatch:
    def test_the_shortest_queue_by_speed(self, start):
        url = start.controller()
        first, second = (start.worker(Talker()) for _ in range(2))
        for served in (first, second):
            register(url, served.url, status=None, beat=False)
        seen = [call(url, "get_worker_address", {"model": NAME})["address"] for _ in range(4)]
        assert sorted(seen) == sorted([first.url, second.url] * 2)

    def test_the_lottery_follows_speed(self):
        controller = Controller("lottery")
        for name, speed in (("slow", 1), ("fast", 9)):
            controller.workers[name] = Worker(WorkerStatus(model_names=["m"], speed=speed), True, 0)
        drawn = [controller._in_order("m")[0][0] for _ in range(2000)]
        assert 0.86 < drawn.count("fast") / len(drawn) < 0.94

    def test_a_dead_worker_is_not_given_out(self, start):
        url = start.controller()
        served = start.worker(Talker(), controller=url)
        register(url, "http://127.0.0.1:9", {"model_names": [NAME], "speed": 100, "queue_length": 0})
        for _ in range(3):
            assert call(url, "get_worker_address", {"model": NAME}) == {"address": served.url}

    def test_workers_without_heartbeats_expire_unless_they_promised_none(self, start):
        url = start.controller(expiration=0.2)
        register(url, "http://127.0.0.1:9", {"model_names": ["promised"]})
        register(url, "http://127.0.0.1:8", {"model_names": ["quiet"]}, beat=False)
        wait_for(lambda: call(url, "list_models")["models"] == ["quiet"])

    def test_refreshing_never_empties_the_registry(self, start, monkeypatch):
        monkeypatch.setattr(controller_module, "STATUS_TIMEOUT", 1.0)
        url = start.controller()
        start.worker(Talker(), controller=url)
        with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts connections and says nothing
            register(url, f"http://127.0.0.1:{mute.getsockname()[1]}", {"model_names": ["mute"]})
            refreshing = threading.Thread(target=call, args=(url, "refresh_all_workers"))
            refreshing.start()
            while refreshing.is_alive():
                assert NAME in call(url, "list_models")["models"]
                time.sleep(0.05)
            assert call(url, "list_models")["models"] == [NAME]


class TestComingAndGoing:
    def test_the_controller_dies_and_comes_back_while_the_worker_answers(self, start):
        server = start.controller_server()
        port = int(server.url.rsplit(":", 1)[1])
        served = start.worker(Talker(), controller=server.url)
        server.__exit__(None, None, None)
        for _ in range(3):  # not frozen: it answers without a controller
            assert ask(served.url, BODY)[-1]["error_code"] == 0
        again = start.controller_server(port=port)
        wait_for(lambda: call(again.url, "list_models")["models"] == [NAME])
        assert ask(again.url, BODY)[-1]["text"] == "Q: 0 1 2"

    def test_a_controller_that_forgot_is_told_again(self, start):
        controller = Controller()
        with BackgroundServer(controller_module.build_app(controller)) as server:
            start.worker(Talker(), controller=server.url)
            controller.workers.clear()
            wait_for(lambda: call(server.url, "list_models")["models"] == [NAME])

    def test_a_worker_may_start_before_its_controller(self, start):
        with BackgroundServer(controller_module.build_app(Controller())) as reserved:
            url = reserved.url
        served = start.worker(Talker())

        async def register_late():
            registration = Registration(url, served.url, served.worker.status, retry=0.1, interval=0.2)
            task = asyncio.create_task(registration.run())
            await asyncio.sleep(0.3)
            assert not task.done()
            server = start.controller_server(port=int(url.rsplit(":", 1)[1]))
            while NAME not in (await asyncio.to_thread(call, server.url, "list_models"))["models"]:
                await asyncio.sleep(0.05)
            task.cancel()

        asyncio.run(asyncio.wait_for(register_late(), 15))


class TestToken:
    def test_everything_works_with_it_and_nothing_without(self, start):
        url = start.controller(token="secret", allowed=AllowedWorkers(list(LOOPBACK)))
        served = start.worker(Talker(), controller=url, token="secret")
        assert ask(url, BODY, token="secret")[-1]["text"] == "Q: 0 1 2"
        for path in ("register_worker", "list_models", "get_worker_address", "worker_generate_stream"):
            assert httpx.post(f"{url}/{path}", json=BODY).status_code == 401
        assert call(url, "get_worker_address", {"model": NAME}, token="secret") == {"address": served.url}

    def test_workers_elsewhere_are_refused(self, start):
        url = start.controller(token="secret", allowed=AllowedWorkers(["127.0.0.1"]))
        body = {"worker_name": "http://192.0.2.1:80", "check_heart_beat": False, "worker_status": STATUS}
        refused = httpx.post(f"{url}/register_worker", json=body, headers={"Authorization": "Bearer secret"})
        assert refused.status_code == 403
        assert "http://192.0.2.1:80 from 127.0.0.1 is not among --allow-workers" in refused.json()["detail"]

    @pytest.mark.parametrize(
        ("peer", "name", "permitted"),
        [
            ("127.0.0.1", "http://localhost:21002", True),
            ("::ffff:127.0.0.1", "http://127.0.0.1:1", True),
            ("10.1.2.3", "http://10.9.9.9:1", True),
            ("127.0.0.1", "http://10.9.9.9@192.0.2.1:1", False),
            ("127.0.0.1", "http://192.0.2.1:1", False),
            ("192.0.2.1", "http://127.0.0.1:1", False),
            ("127.0.0.1", "ftp://127.0.0.1:1", False),
            ("127.0.0.1", "http://127.0.0.1:99999999", False),
            ("testclient", "http://127.0.0.1:1", False),
        ],
    )
    def test_who_is_permitted(self, peer, name, permitted):
        assert AllowedWorkers(["127.0.0.0/8", "::1/128", "10.0.0.0/8"]).permits(peer, name) is permitted

    def test_a_network_that_is_none(self):
        with pytest.raises(UserError, match=r"--allow-workers: .*; give addresses or networks such as"):
            AllowedWorkers(["somewhere"])
