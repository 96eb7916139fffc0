"""The one way to an answer: what is generated, where it ends, what it says of itself."""

import threading

import pytest
import torch
from PIL import Image

from llava.errors import UserError
from llava.eval.generation import Sampling, generate_texts
from llava.mm_utils import KeywordsStoppingCriteria, process_images, tokenizer_image_token
from llava.serve import engine as engine_module
from llava.serve.engine import Answer, Ask, Engine, cut_at_stop
from llava.serve.failures import TooLong
from llava.serve.pictures import Limits

from .conftest import QUESTION, prompt_of

RED = Image.new("RGB", (40, 20), "red")


def answer(engine: Engine, *texts: str, pictures=(RED,), **wishes) -> tuple[Answer, list[Answer]]:
    told: list[Answer] = []
    ask = Ask(prompt_of(*(texts or (QUESTION,))), pictures, **({"temperature": 0.0, "max_new_tokens": 8} | wishes))
    return engine.answer(ask, told.append, threading.Event()), told


@pytest.mark.parametrize("backend", ["ccra_backend", "plain_backend"])
def test_the_answer_is_that_of_the_evaluation(backend, request):
    engine = request.getfixturevalue(backend).engine
    ids = torch.tensor([tokenizer_image_token(prompt_of(QUESTION), engine.tokenizer)])
    pixels = process_images([RED], engine.image_processor, engine.model.config)
    expected = generate_texts(
        engine.model, engine.tokenizer, Sampling(0, max_new_tokens=8), ids, images=pixels, image_sizes=[RED.size]
    )
    last, told = answer(engine)
    assert last.text.strip() == expected[0]
    assert last is told[-1]
    assert [len(a.text) for a in told] == sorted(len(a.text) for a in told)
    assert (last.finished, last.new_tokens) == ("length", 8)
    assert last.prompt_tokens == ids.shape[1] - 1 + 16
    assert last.maps is None


@pytest.mark.parametrize("watch", ["text", "ids", "both"])
def test_a_stop_string_ends_generation_and_is_cut(watch, plain_backend, monkeypatch):
    """By its text, however its tokens were cut, and by its ids, which a special token needs."""
    if watch == "text":
        monkeypatch.setattr(KeywordsStoppingCriteria, "__call__", lambda self, ids, scores, **kwargs: False)
    if watch == "ids":
        never = property(lambda self: False, lambda self, found: None)
        monkeypatch.setattr(engine_module._Narrator, "has_stopped", never, raising=False)
    engine = plain_backend.engine
    whole, _ = answer(engine, max_new_tokens=30)
    stop = whole.text[10:14]
    last, told = answer(engine, max_new_tokens=30, stops=[stop])
    assert last.text == whole.text[: whole.text.index(stop)]
    assert last.finished == "stop"
    assert last.new_tokens < 30
    assert all(stop[0] not in a.text[len(last.text) :] for a in told)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two", [], ("one two", False)),
        ("one two", ["two", "ne"], ("o", True)),
        ("###", ["###"], ("", True)),
        ("one #", ["###"], ("one #", False)),
    ],
)
def test_cut_at_stop(text, stops, expected):
    assert cut_at_stop(text, stops) == expected


def test_giving_up_ends_it(plain_backend):
    given_up = threading.Event()
    seen: list[Answer] = []

    def tell(state: Answer) -> None:
        seen.append(state)
        given_up.set()

    plain_backend.engine.answer(Ask(prompt_of(QUESTION), (RED,), 0.0, max_new_tokens=500), tell, given_up)
    assert seen[-1].new_tokens < 3


def test_top_p_of_zero_and_sampling_work(plain_backend):
    greedy, _ = answer(plain_backend.engine)
    assert answer(plain_backend.engine, temperature=1.0, top_p=0.0)[0].text == greedy.text
    assert answer(plain_backend.engine, temperature=1.0, top_p=0.9)[0].new_tokens == 8


def test_text_alone(plain_backend):
    last, _ = answer(plain_backend.engine, "Where is the dog?", pictures=(), wants_maps=True)
    assert last.text
    assert last.maps == {
        "projector": "mlp2x_gelu", "words": [], "layers": [], "attanchor": None, "pictures": [],
    }  # fmt: skip


def test_a_text_model_answers_and_refuses_pictures(assets):
    engine = Engine.load(str(assets / "vicuna_tiny"), None, "vicuna_tiny", device="cpu")
    last, told = answer(engine, "Where is the dog?", pictures=())
    assert last.new_tokens == 8
    assert "USER" not in told[0].text
    with pytest.raises(UserError, match="reads text only"):
        answer(engine)


@pytest.mark.parametrize(
    ("texts", "pictures", "message"),
    [
        ((QUESTION,), (), "has 1 <image> for 0 pictures"),
        (("<image> <image> Compare.",), (RED,), "has 2 <image> for 1 pictures"),
    ],
)
def test_marks_and_pictures_must_fit(texts, pictures, message, plain_backend):
    with pytest.raises(UserError, match=message):
        answer(plain_backend.engine, *texts, pictures=pictures)


def test_the_budget_counts_what_pictures_really_take(plain_backend):
    engine = plain_backend.engine
    last, _ = answer(engine)
    tight = Engine(engine.tokenizer, engine.model, engine.image_processor)
    tight.context_length = last.prompt_tokens + 3
    assert answer(tight)[0].new_tokens == 3
    tight.context_length = last.prompt_tokens
    with pytest.raises(TooLong, match=f"{last.prompt_tokens} tokens with its pictures, this model reads"):
        answer(tight)
    tight.context_length = 10
    with pytest.raises(TooLong, match=r"the prompt has .* tokens, this model reads 10"):
        answer(tight)
    tight.limits = Limits(prompt_characters=20)
    with pytest.raises(TooLong, match="characters"):
        answer(tight)
    with pytest.raises(UserError, match="max_new_tokens is 0"):
        answer(engine, max_new_tokens=0)


class TestMaps:
    def test_one_set_of_numbers_for_each_picture(self, ccra_backend):
        tall = Image.new("RGB", (20, 60), "blue")
        last, told = answer(
            ccra_backend.engine, "<image>\n<image>\nWhere is it?", pictures=(RED, tall), wants_maps=True
        )
        assert [a.maps for a in told[:-1]] == [None] * (len(told) - 1)
        maps = last.maps
        assert maps["projector"] == "ccra"
        assert "".join(maps["words"]).replace(" ", "") == "Whereisit?"
        depth = ccra_backend.engine.model.get_vision_tower().config.num_hidden_layers
        assert maps["layers"] == list(range(1, depth + 1))
        assert [p["size"] for p in maps["pictures"]] == [[40, 20], [20, 60]]
        for numbers in maps["pictures"]:
            assert numbers["fit"] == "pad"
            assert len(numbers["alpha"]) == len(maps["words"])
            assert sum(numbers["alpha"]) == pytest.approx(1, abs=1e-4)
            assert sum(numbers["layer_weights"]) == pytest.approx(1, abs=1e-4)
            assert (len(numbers["lpwca"]), len(numbers["lpwca"][0]), len(numbers["lpwca"][0][0])) == (depth, 4, 4)
        assert maps["pictures"][0]["pwca"] != maps["pictures"][1]["pwca"]

    def test_every_turn_reads_the_picture_with_the_questions_so_far(self, ccra_backend):
        turns = (QUESTION, "A cup.", "Where is the dog?")
        first = answer(ccra_backend.engine, QUESTION, wants_maps=True)[0].maps
        third = answer(ccra_backend.engine, *turns, wants_maps=True)[0].maps
        assert "".join(first["words"]).replace(" ", "") == "Whatisonthetable?"
        assert "".join(third["words"]).replace(" ", "") == "Whatisonthetable?Whereisthedog?"
        assert first["pictures"][0]["pwca"] != third["pictures"][0]["pwca"]

    def test_tiles_of_a_large_picture_are_not_taken_for_pictures(self, ccra_backend, monkeypatch):
        config = ccra_backend.engine.model.config
        monkeypatch.setattr(config, "image_aspect_ratio", "anyres")
        monkeypatch.setattr(config, "image_grid_pinpoints", [[28, 56], [56, 28]], raising=False)
        tall = Image.new("RGB", (20, 60), "blue")
        two = answer(ccra_backend.engine, "<image>\n<image>\nWhere is it?", pictures=(RED, tall), wants_maps=True)[0]
        assert [p["fit"] for p in two.maps["pictures"]] == ["stretch", "stretch"]
        assert two.prompt_tokens > 6 * 16
        one = answer(ccra_backend.engine, "<image>\nWhere is it?", pictures=(tall,), wants_maps=True)[0]
        second, alone = (torch.tensor(m["pictures"][-1]["pwca"]) for m in (two.maps, one.maps))
        torch.testing.assert_close(second, alone, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("backend", ["ccra_backend", "plain_backend"])
    def test_attanchors_pins(self, backend, request, monkeypatch, ccra_backend):
        engine = request.getfixturevalue(backend).engine
        without = answer(engine)[0]
        for name, value in (
            ("mm_attanchor_direction", "text_into_image"),
            ("mm_attanchor_tau", 0.2),
            ("mm_query_markers", ccra_backend.engine.model.config.mm_query_markers),
        ):
            monkeypatch.setattr(engine.model.config, name, value, raising=False)
        last = answer(engine, wants_maps=True)[0]
        assert last.maps["attanchor"] == {"direction": "text_into_image", "tau": 0.2}
        (numbers,) = last.maps["pictures"]
        assert numbers["pins"]
        assert last.prompt_tokens == without.prompt_tokens + len(numbers["pins"])
        assert all(pin["text"] in QUESTION for pin in numbers["pins"])
        assert ("lpwca" in numbers) == (backend == "ccra_backend")

    def test_two_threads_do_not_mix_their_maps(self, ccra_backend):
        alone = [answer(ccra_backend.engine, f"<image>\n{q}?", wants_maps=True)[0].maps for q in ("Where", "Who is it")]
        together: dict[int, object] = {}

        def run(number: int, question: str) -> None:
            together[number] = answer(ccra_backend.engine, f"<image>\n{question}?", wants_maps=True)[0].maps

        threads = [threading.Thread(target=run, args=arguments) for arguments in ((0, "Where"), (1, "Who is it"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number, expected in enumerate(alone):
            assert together[number]["words"] == expected["words"]
            torch.testing.assert_close(*(torch.tensor(m["pictures"][0]["pwca"]) for m in (together[number], expected)))
