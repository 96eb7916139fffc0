"""The paper's pictures by the command line."""

import json
import sys

import pytest
import torch
from PIL import Image

from ccra_patch import draw
from llava.eval.items import Item
from llava.eval.observe import Checkpoint, language_attention, observe


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.effect_noise((40, 30), 60).convert("RGB").save(path)
    return path


def run(monkeypatch, *argv) -> int:
    monkeypatch.setattr(sys, "argv", ["draw", *map(str, argv)])
    try:
        draw.main()
    except SystemExit as error:
        return error.code
    return 0


def item_of(picture, question: str) -> Item:
    return Item({"question_id": 0, "prompt": question}, f"<image>\n{question}", (str(picture),))


@pytest.mark.parametrize("figure", ["maps", "layers"])
def test_maps_and_layers_are_those_of_the_checkpoint(figure, make_ccra, picture, tmp_path, monkeypatch):
    folder, output = make_ccra(), tmp_path / "out" / "figure.png"
    questions = ["What is it?", "Where is the dog?"]
    flags = ("--model-path", folder, "--image-file", picture, "--query", *questions, "--output", output)
    assert run(monkeypatch, figure, *flags) == 0
    assert Image.open(output).size[0] > 500
    rows = json.loads(output.with_suffix(".json").read_text())
    assert [row["question"] for row in rows] == questions
    checkpoint = Checkpoint.load(str(folder))
    ((_, call),) = observe(checkpoint, [item_of(picture, questions[1])], "vicuna_v1")
    torch.testing.assert_close(torch.tensor(rows[1]["layer_weights"]), call.maps.layer_weights[0])
    if figure == "maps":
        assert (rows[0]["fit"], rows[0]["picture_size"]) == ("pad", [40, 30])
        torch.testing.assert_close(torch.tensor(rows[1]["pwca"]).flatten(), call.maps.pwca[0])


def test_attention_stands_side_by_side_for_several_checkpoints(make_ccra, assets, picture, tmp_path, monkeypatch):
    plain, ccra = assets / "llava_tiny_mlp2x_gelu", make_ccra()
    output = tmp_path / "llm.png"
    flags = ("--image-file", picture, "--query", "What is it?", "--output", output)
    assert run(monkeypatch, "attention", "--model-path", plain, ccra, *flags) == 0
    (row,) = json.loads(output.with_suffix(".json").read_text())
    assert list(row["models"]) == ["llava_tiny_mlp2x_gelu", "llava-tiny-v1-ccra"]
    for name, folder in zip(row["models"], (plain, ccra), strict=True):
        checkpoint = Checkpoint.load(str(folder), attn_implementation="eager")
        (expected,) = language_attention(checkpoint, [item_of(picture, "What is it?")], "vicuna_v1")
        torch.testing.assert_close(torch.tensor(row["models"][name]["map"]).flatten(), expected)
        assert 0 < row["models"][name]["attention_on_picture"] < 1


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]},
        {"mm_attanchor_direction": "text_into_image", "mm_attanchor_tau": -1.0},
        {"mm_attanchor_direction": "image_into_text", "mm_attanchor_tau": -1.0},
    ],
    ids=["plain", "anyres", "text_into_image", "image_into_text"],
)
def test_the_language_models_attention_is_found_whatever_stands_between(flags, make_ccra, picture):
    """Every patch of the whole picture gets some, and more than the picture's share is never there."""
    checkpoint = Checkpoint.load(str(make_ccra(**flags)), attn_implementation="eager")
    (attention,) = language_attention(checkpoint, [item_of(picture, "What is it?")], "vicuna_v1", layers=[0])
    assert attention.shape == (16,)
    assert (attention > 0).all()
    assert attention.sum() < 1


def test_by_hand_from_the_models_own_attentions(make_ccra, picture):
    checkpoint = Checkpoint.load(str(make_ccra()), attn_implementation="eager")
    item = item_of(picture, "What is it?")
    (attention,) = language_attention(checkpoint, [item], "vicuna_v1", layers=[1])
    ((_, batch),) = checkpoint.batches([item], "vicuna_v1")
    with torch.no_grad():
        layer = checkpoint.model(batch.input_ids, images=batch.images, output_attentions=True).attentions[1][0]
    start = batch.input_ids[0].tolist().index(-200)
    behind = batch.input_ids[0, start + 1 :]
    decode = checkpoint.tokenizer.decode
    first = behind.tolist().index(checkpoint.tokenizer.convert_tokens_to_ids("<0x0A>")) + 1  # behind the line's end
    end = next(n for n in range(len(behind)) if decode(behind[first:n]).strip() == "What is it?")
    rows = [start + 16 + place for place in range(first, end)]
    expected = layer[:, rows, start : start + 16].mean(dim=(0, 1))
    torch.testing.assert_close(attention, expected)


def test_mistakes_are_one_line_and_exit_code_2(make_ccra, assets, picture, tmp_path, monkeypatch, capsys):
    ccra, plain, out = make_ccra(), assets / "llava_tiny_mlp2x_gelu", tmp_path / "x.png"
    one = ("--image-file", picture, "--query", "What?")
    cases = [
        (("maps", "--model-path", ccra, *one, "--output", tmp_path / "x.jpg"), r"must end in .png"),
        (
            ("maps", "--model-path", plain, *one, "--output", out),
            "has the projector mlp2x_gelu, which has no attention",
        ),
        (("layers", "--model-path", ccra, plain, *one, "--output", out), "names 2 checkpoints, layers takes one"),
        (
            ("maps", "--model-path", ccra, "--image-file", picture, picture, "--query", "a", "b", "c", "--output", out),
            "--image-file names 2 pictures for 3 questions; give one, or one for each",
        ),
        (
            ("maps", "--model-path", ccra, "--image-file", tmp_path / "no.png", "--query", "a", "--output", out),
            "no.png of question 'a' cannot be read as a picture",
        ),
        (
            ("attention", "--model-path", ccra, *one, "--output", out, "--language-layers", 7),
            "language model layers are [7];",
        ),
        (
            ("attention", "--model-path", ccra, "--image-file", picture, "--query", "", "--output", out),
            "question '' has no words behind its picture",
        ),
    ]
    for argv, message in cases:
        assert run(monkeypatch, *argv) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert message in line
    assert not out.exists()
