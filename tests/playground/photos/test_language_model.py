"""Scenes in words: what a grid says, what each continuation sees of a batch, and that a model learns from it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from llava.constants import IGNORE_INDEX
from llava.tokenization import load_tokenizer
from llava.train.preprocess import chat_segments, encode_segments
from playground.photos import language_model, text
from playground.photos.cutouts import Cutout
from playground.photos.language_model import Recipe, accuracy, collate, embed_grids, predictions, train
from playground.photos.ocr import WORDS
from playground.photos.scenes import Combinations, Scene, Thing

COW = Thing("11", "cow", "mammal", "cow.png", "black", 0, 0, 16, 32, 512)
SIGN = Thing("12", "sign", "sign", "sign/stop", None, 20, 0, 8, 8, 64)


@pytest.fixture(scope="module")
def tokenizer(assets):
    return load_tokenizer(str(assets / "tokenizer_nonlegacy"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1500, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            tie_word_embeddings=True, initializer_range=0.2,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tier ``val`` of one scene, 32 x 32: the cow fills the left half, the sign a corner of another patch."""
    folder = tmp_path_factory.mktemp("photos")
    for part in ("masks", "sceneGraphs", "data"):
        (folder / "gqa" / part).mkdir(parents=True)
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, :16] = 1
    mask[:8, 20:28] = 2
    Image.fromarray(mask).save(folder / "gqa" / "masks" / "1.png")
    objects = {
        thing.id: {
            "name": thing.name, "category": thing.category, "cutout": thing.source, "pixels": thing.pixels,
            "attributes": [thing.color] if thing.color else [],
            "x": thing.x, "y": thing.y, "w": thing.width, "h": thing.height,
        }
        for thing in (COW, SIGN)
    }  # fmt: skip
    graphs = {"1": {"width": 32, "height": 32, "objects": objects}}
    (folder / "gqa" / "sceneGraphs" / "val_sceneGraphs.json").write_text(json.dumps(graphs))
    question = {"imageId": "1", "question": "Is there a cow?", "answer": "yes", "types": {"detailed": "presence"}}
    (folder / "gqa" / "data" / "val_balanced_questions.json").write_text(json.dumps({"5": question}))
    return folder


@pytest.fixture(scope="module")
def grid(data, tokenizer):
    return text.grid_of(Scene("1", (COW, SIGN)), data, 2, tokenizer)


def test_a_scene_is_read_back(data):
    assert text.read_scenes(data, "val") == {"1": Scene("1", (COW, SIGN))}


def test_a_grid_says_what_each_patch_shows(grid, tokenizer, model):
    assert [tokenizer.decode(ids) for ids in grid.words] == ["nothing", "cow mammal black", "sign stop"]
    torch.testing.assert_close(grid.shares, torch.tensor([[0, 1, 0], [0.75, 0, 0.25], [0, 1, 0], [1, 0, 0]]))
    table = model.get_input_embeddings().weight
    nothing, cow, sign = (table[ids].sum(0) for ids in grid.words)
    expected = torch.stack([cow, 0.75 * nothing + 0.25 * sign, cow, nothing])
    two = text.Grid(grid.words[:2], torch.tensor([[0.5, 0.5]] * 4))
    torch.testing.assert_close(embed_grids([two, grid], table)[1], expected)
    torch.testing.assert_close(embed_grids([two, grid], table)[0][0], (nothing + cow) / 2)


def test_a_question_is_as_in_stage_2(grid, tokenizer):
    sample = text.chat_sample(grid, [("Is there a cow?", "yes"), ("What is there?", "a sign")], tokenizer)
    turns = text.turns("Is there a cow?" + text.SHORT_ANSWER, "yes")
    ids, labels = encode_segments(chat_segments(turns, text.conv_templates[text.TEMPLATE]), tokenizer, has_image=True)
    place = ids.index(text.IMAGE_TOKEN_INDEX)
    assert sample.prefix.tolist() == ids[:place]
    assert sample.continuations[0].tolist() == ids[place + 1 :]
    assert sample.labels[0].tolist() == labels[place + 1 :]
    assert set(labels[:place]) == {IGNORE_INDEX}


def test_a_continuation_sees_the_scene_and_itself_alone(grid, tokenizer, model, monkeypatch):
    """In a batch with others, and beside others about its scene, a question has the logits that it has by itself."""
    monkeypatch.setattr(torch, "autocast", lambda *_: torch.no_grad())
    asked = [("Is there a cow?", "yes"), ("What is on the left?", "a cow"), ("Why?", "no")]
    other = text.caption_sample(grid, Scene("1", (COW, SIGN)), 2, tokenizer)
    table = model.get_input_embeddings().weight
    together, labels = predictions(model, collate([other, text.chat_sample(grid, asked, tokenizer)], table))
    alone = [predictions(model, collate([text.chat_sample(grid, [one], tokenizer)], table)) for one in asked]
    count = sum(len(own) for _, own in alone)
    assert torch.equal(labels[-count:], torch.cat([own for _, own in alone]))
    torch.testing.assert_close(together[-count:], torch.cat([logits for logits, _ in alone]), atol=1e-4, rtol=1e-4)


def test_descriptions_tell_what_there_is(tokenizer, grid):
    told = dict(text.descriptions(Scene("1", (COW, SIGN)), ["cow", "dog", "cat", "hen", "pig", "fox"]))
    assert told["List all from left to right."] == "cow, stop"
    assert told["List all from top to bottom."] == "stop, cow"
    assert told["List all from large to small."] == "cow, stop"
    assert "cow yes" in told["Which of these are there?"].split(", ")
    assert "dog no" in told["Which of these are there?"].split(", ")
    assert told["List all kinds."] == "cow mammal"
    assert told["Count all."] == "2: mammal 1, sign 1"
    assert told["List all colors."] == "cow black"
    assert len(text.description_sample(grid, Scene("1", (COW, SIGN)), ["dog"] * 5, tokenizer).continuations) == 7


def test_a_scene_is_retold_with_other_things(grid, tokenizer):
    """In the same places, and never with two things that training must not show together."""
    scene, pairs = Scene("1", (COW, SIGN)), Combinations(0, 0.5)
    image = Image.new("RGBA", (4, 4), "red")
    known = [Cutout(name, "mammal", f"{name}.png", image) for name in ("dog", "cat", "hen", "pig", "fox")]
    for number in range(20):
        other = text.retold(scene, number, known, pairs)
        assert other == text.retold(scene, number, known, pairs)
        assert other.id == f"1-{number}"
        assert [thing.centre for thing in other.things] == [thing.centre for thing in scene.things]
        assert all(thing.word in WORDS or (thing.name in "dog cat hen pig fox" and thing.color == "red")
                   for thing in other.things)  # fmt: skip
        assert not pairs.held_out_in(other.things)
        said = [tokenizer.decode(ids) for ids in text.spoken(other, tokenizer)]
        assert said == ["nothing", *(" ".join(text.words_of(thing)) for thing in other.things)]


def test_it_learns_to_answer(grid, data, tokenizer, model):
    samples = [text.chat_sample(grid, [("Is there a cow?", "yes"), ("Is there a dog?", "no")], tokenizer)]
    recipe = Recipe(side=2, described=5, asked=25, batch_size=1, learning_rate=3e-3)
    assert accuracy(model, tokenizer, data, recipe) == {"presence": 0.0, "all": 0.0}
    train(model, samples, samples, recipe, lambda step: None)
    assert accuracy(model, tokenizer, data, recipe, 1) == {"presence": 1.0, "all": 1.0}
    assert not model.training


def test_a_model_of_another_size_says_the_same(model):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        model.model.norm.weight.uniform_(0.5, 2)
        before = model(ids).logits
        language_model.enlarge(model)
        after = model(ids).logits
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)
    assert abs(model.get_input_embeddings().weight.std().item() - 1) < 1e-5


def test_batches_pass_over_all_samples():
    drawn = [sample for batch in language_model.batches(range(6), 4, Recipe(batch_size=3)) for sample in batch]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list(range(6))
    assert drawn[:6] != drawn[6:]
