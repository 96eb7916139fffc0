"""Questions put to a checkpoint's attention stack alone."""

import pytest
import torch
from PIL import Image

from llava.errors import UserError
from llava.eval.items import Item
from llava.eval.model_vqa_loader import question_to_item
from llava.eval.observe import Checkpoint, observe


@pytest.fixture
def items(tmp_path) -> list[Item]:
    """Pictures of other shapes, questions of other lengths, one without a picture, one with two."""
    for number, size in enumerate([(40, 30), (20, 50), (30, 30)]):
        Image.effect_noise(size, 60).convert("RGB").save(tmp_path / f"{number}.png")
    questions = [
        {"question_id": "a", "text": "What is on the left of the big table?", "image": "0.png"},
        {"question_id": "b", "text": "Why?"},
        {"question_id": "c", "text": "Where is it?", "image": "1.png"},
        {"question_id": "d", "text": "<image>\n<image>\nAre they alike?", "image": ["2.png", "0.png"]},
    ]
    return [question_to_item(question, str(tmp_path)) for question in questions]


PINPOINTS = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}


@pytest.mark.parametrize("flags", [{}, PINPOINTS], ids=["pad", "anyres"])
def test_a_batch_gives_each_items_first_picture_as_alone(flags, items, make_ccra):
    checkpoint = Checkpoint.load(str(make_ccra(**flags)))
    alone = {}
    for (item,), call in observe(checkpoint, items, "vicuna_v1"):
        assert call.stack.shape == (1, 5, 16, 32)
        alone[item.record["question_id"]] = call
    assert set(alone) == {"a", "c", "d"}, "a question without picture is passed over"
    seen = 0
    for batch_items, call in observe(checkpoint, items, "vicuna_v1", batch_size=4):
        for row, item in enumerate(batch_items):
            expected = alone[item.record["question_id"]]
            torch.testing.assert_close(call.stack[row], expected.stack[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(call.maps.pwca[row], expected.maps.pwca[0], atol=1e-5, rtol=1e-5)
            seen += 1
    assert seen == 3


def test_the_first_tile_of_an_anyres_picture_is_the_whole_of_it(items, make_ccra):
    whole, tiled = (Checkpoint.load(str(make_ccra(**flags))) for flags in ({"image_aspect_ratio": "x"}, PINPOINTS))
    assert (whole.fit, tiled.fit) == ("crop", "stretch")
    square = Image.open(items[3].images[0])  # a square picture is neither cropped nor stretched
    assert square.size[0] == square.size[1]
    item = Item(items[3].record, "<image>\nWhat?", items[3].images[:1])
    stacks = [call.stack for checkpoint in (whole, tiled) for _, call in observe(checkpoint, [item], "vicuna_v1")]
    torch.testing.assert_close(*stacks, atol=0.05, rtol=0.05)  # resized once, and twice


def test_the_layers_are_named_as_hidden_states(make_ccra):
    assert Checkpoint.load(str(make_ccra())).layers == (1, 2, 3, 4, 5)
    assert Checkpoint.load(str(make_ccra(mm_ccra_layers=[0, 2, 5]))).layers == (0, 2, 5)


def test_what_cannot_be_observed_is_refused(items, assets, make_ccra):
    plain = Checkpoint.load(str(assets / "llava_tiny_mlp2x_gelu"))
    with pytest.raises(UserError, match=r"has the projector mlp2x_gelu, which has no attention to look at"):
        next(observe(plain, items, "vicuna_v1"))
    with pytest.raises(UserError, match="is a text-only model; give one with a vision tower"):
        Checkpoint.load(str(assets / "vicuna_tiny"))
    with pytest.raises(UserError, match="--conv-mode is 'v9'; it must be one of"):
        next(observe(Checkpoint.load(str(make_ccra())), items, "v9"))
