"""OpenAI's chat completions, spoken to by OpenAI's own client."""

import httpx
import openai
import pytest

from llava.errors import UserError
from llava.serve.openai_api import ChatRequest, to_generate_body

from .conftest import QUESTION, Talker, ask, picture, prompt_of, wait_for

NAME = "llava-v1.5-talker"


def client(url: str, token: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0, timeout=30)


def user(text: str = "What is on the table?", image: str | None = None) -> dict:
    parts = [{"type": "text", "text": text}]
    if image:
        parts.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}})
    return {"role": "user", "content": parts}


class TestTheOfficialClient:
    def test_lists_models(self, start):
        assert [model.id for model in client(start.worker(Talker()).url).models.list()] == [NAME]

    def test_gets_the_answer_of_the_stream(self, start, plain_backend):
        served = start.worker(plain_backend)
        done = client(served.url).chat.completions.create(
            model=NAME, messages=[user(image=picture())], temperature=0, max_tokens=6
        )
        body = {"prompt": prompt_of(QUESTION), "images": [picture()], "temperature": 0, "max_new_tokens": 6}
        assert body["prompt"] + done.choices[0].message.content == ask(served.url, body)[-1]["text"]
        assert done.choices[0].finish_reason == "length"
        assert done.usage.completion_tokens == 6
        assert done.usage.total_tokens == done.usage.prompt_tokens + 6

    def test_streams(self, start):
        served = start.worker(Talker(words=4, pause=0.05))
        chunks = list(
            client(served.url).chat.completions.create(
                model=NAME, messages=[user()], stream=True, stream_options={"include_usage": True}
            )
        )
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == " 0 1 2 3"
        assert sum(bool(text) for text in texts) > 1
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage.completion_tokens == 4

    def test_is_told_what_went_wrong(self, start):
        served = start.worker(Talker(words=2, error=RuntimeError("boom")), token="secret")
        asked = client(served.url, "secret").chat.completions
        with pytest.raises(openai.InternalServerError, match=r"RuntimeError \(boom\).*error id"):
            asked.create(model=NAME, messages=[user()])
        with pytest.raises(openai.APIError, match=r"RuntimeError \(boom\).*error id"):
            list(asked.create(model=NAME, messages=[user()], stream=True))
        with pytest.raises(openai.BadRequestError, match="the model 'other' is not here"):
            asked.create(model="other", messages=[user()])
        with pytest.raises(openai.BadRequestError, match="the request's n cannot be used"):
            asked.create(model=NAME, messages=[user()], n=2)
        with pytest.raises(openai.AuthenticationError, match="asks for a token"):
            client(served.url, "wrong").chat.completions.create(model=NAME, messages=[user()])

    def test_may_leave(self, start):
        talker = Talker(words=10_000, pause=0.02)
        served = start.worker(talker, slots=1)
        stream = client(served.url).chat.completions.create(model=NAME, messages=[user()], stream=True)
        next(iter(stream))
        stream.close()
        wait_for(lambda: talker.ended == ["given up"])
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/chat/completions", json={"model": NAME, "messages": [user()]}, timeout=0.5)
        wait_for(lambda: talker.ended == ["given up"] * 2)

    def test_a_body_that_is_no_json(self, start):
        response = httpx.post(f"{start.worker(Talker()).url}/v1/chat/completions", content=b"{")
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"


class TestTheTemplate:
    def body(self, *messages: dict, conv_mode: str = "vicuna_v1", **wishes):
        return to_generate_body(ChatRequest(model="m", messages=list(messages), **wishes), conv_mode)

    def test_a_dialogue(self):
        first = user("What is on the table?", "AAAA")
        body = self.body(first, {"role": "assistant", "content": "A cup."}, {"role": "user", "content": "Red?"})
        assert body.prompt == prompt_of(QUESTION, "A cup.", "Red?")
        assert body.images == ["AAAA"]
        assert body.stops == ["</s>"]

    def test_a_system_prompt_replaces_the_templates(self):
        system = {"role": "system", "content": "Be brief."}
        assert self.body(system, user("Hi")).prompt == "Be brief. USER: Hi ASSISTANT:"
        chatml = self.body(system, user("Hi"), conv_mode="chatml_direct").prompt
        assert chatml.startswith("<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHi")

    def test_limits_and_stops(self):
        body = self.body(user(), stop=["a", "b"], max_tokens=7, max_completion_tokens=9)
        assert (body.stops, body.max_new_tokens) == (["a", "b", "</s>"], 9)

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            (
                [{"role": "assistant", "content": "Hi"}],
                "message 1 is the assistant's; .* user and assistant take turns",
            ),
            ([user(), user()], "message 2 is the user's"),
            ([user(), {"role": "assistant", "content": "Hi"}], "the last message must be the user's"),
            ([user("<image> there")], "a text holds <image>, the mark of a picture"),
        ],
    )
    def test_what_cannot_be(self, messages, message):
        with pytest.raises(UserError, match=message):
            self.body(*messages)

    @pytest.mark.parametrize("url", ["http://192.0.2.1/x.png", "file:///etc/passwd", "data:text/html,x", "/etc/passwd"])
    def test_nothing_is_fetched(self, url):
        with pytest.raises(UserError, match=r"only data URLs .* are read, nothing is fetched"):
            self.body({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
