"""Calibration and drawing as a user runs them, on a tiny LLaVA."""

import json

import pytest
import torch
from PIL import Image

from llava import conversation
from llava.attanchor import calibrate, draw
from llava.attanchor.calibrate import share_at, threshold_for
from llava.model.llava_arch import LlavaMetaForCausalLM


@pytest.fixture(autouse=True)
def default_template(monkeypatch):
    """Reading a training file sets a module's variable; put it back after each run."""
    monkeypatch.setattr(conversation, "default_conversation", conversation.default_conversation)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with pictures, a training file and a question file about them."""
    folder = tmp_path_factory.mktemp("data")
    for name, size in (("wide.png", (40, 20)), ("tall.png", (20, 40))):
        Image.effect_noise(size, 90).convert("RGB").save(folder / name)
    turns = [
        {"from": "human", "value": "<image>\nWhat is on the table?"},
        {"from": "gpt", "value": "A red cup."},
        {"from": "human", "value": "Where is the dog?"},
        {"from": "gpt", "value": "In the house."},
    ]
    samples = [{"id": "1", "image": "wide.png", "conversations": turns}]
    samples.append({"id": "2", "image": "tall.png", "conversations": turns[:2]})
    samples.append({"id": "3", "conversations": turns[2:]})
    (folder / "train.json").write_text(json.dumps(samples))
    questions = [
        {"question_id": i, "text": "Is it snow or a cat?", "image": name}
        for i, name in enumerate(("wide.png", "tall.png"))
    ]
    questions.append({"question_id": 9, "text": "Where is the dog?"})
    (folder / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    return folder


@pytest.fixture
def run(monkeypatch, capsys, assets):
    """A program's exit code and what it wrote."""

    def call(module, *argv, model="llava_tiny_mlp2x_gelu"):
        monkeypatch.setattr("sys.argv", ["program", "--model-path", str(assets / model), *map(str, argv)])
        code = 0
        try:
            module.main()
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def test_thresholds_reach_the_wanted_share():
    similarities = torch.arange(1000) / 1000 - 0.2
    for share in (0.001, 0.1, 0.5, 1.0):
        assert share_at(similarities, threshold_for(similarities, share)) == pytest.approx(share, abs=1.1e-3)
    assert share_at(similarities[:21], threshold_for(similarities[:21], 0.25)) == pytest.approx(
        6 / 21
    )  # not 5, which are fewer
    assert share_at(similarities[:100], threshold_for(similarities[:100], 0.07)) == pytest.approx(0.07)
    assert threshold_for(similarities, 1e-9) == threshold_for(similarities, 0.001)
    assert threshold_for(torch.tensor([0.12345, 0.5]), 1.0) == 0.1234
    assert threshold_for(torch.tensor([-0.12345, 0.5]), 1.0) == -0.1235
    assert threshold_for(torch.tensor([1.0000001]), 0.1) == 1.0


@pytest.mark.parametrize("direction", ["text_into_image", "image_into_text"])
@pytest.mark.parametrize("source", ["--data", "--question-file"])
def test_calibration(source, direction, run, data, tmp_path):
    file = data / ("train.json" if source == "--data" else "questions.jsonl")
    options = ["--image-folder", data, "--share", 0.25, "--mm_attanchor_direction", direction]
    code, out, err = run(calibrate, source, file, *options, "--output", tmp_path / "out.json", "--batch-size", 2)
    assert code == 0, err
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["mm_attanchor_direction"] == direction
    assert result["samples"] == 2
    assert result["share"] >= 0.25
    assert result["share"] == pytest.approx(0.25, abs=1.5 / result["tokens"] + 0.01)
    if direction == "image_into_text":
        assert result["tokens"] == 2 * 16
    taus, shares = ([row[key] for row in result["table"]] for key in ("tau", "share"))
    assert taus == sorted(taus, reverse=True)
    assert shares == sorted(shares)
    assert {0.07, 0.12, 0.14, result["tau"]} <= set(taus)
    lines = out.splitlines()
    kind = "question" if direction == "text_into_image" else "image"
    assert lines[0] == f"{direction}: {result['tokens']} {kind} tokens of 2 samples with pictures"
    assert len(lines) == len(taus) + 3
    assert lines[-1] == f"for 25.00% of the tokens: --mm_attanchor_tau {result['tau']:.4f}"


def test_calibration_counts_what_the_model_then_copies(run, data, assets, tmp_path):
    """The proposed threshold, given to the drawing, pins the share of tokens that the table says."""
    question = json.loads((data / "questions.jsonl").read_text().splitlines()[0])
    (tmp_path / "one.jsonl").write_text(json.dumps(question))
    flags = ["--mm_attanchor_direction", "text_into_image"]
    options = ["--image-folder", data, "--share", 0.5, "--output", tmp_path / "out.json"]
    code, _, err = run(calibrate, "--question-file", tmp_path / "one.jsonl", *options, *flags)
    assert code == 0, err
    result = json.loads((tmp_path / "out.json").read_text())
    tau = ["--mm_attanchor_tau", result["tau"]]
    picture = ["--image-file", data / question["image"], "--query", question["text"], "--output", tmp_path / "pins.png"]
    code, _, err = run(draw, *picture, *flags, *tau)
    assert code == 0, err
    (row,) = json.loads((tmp_path / "pins.json").read_text())
    assert len(row["pins"]) == round(result["share"] * result["tokens"]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--share", "0"], "--share is 0.0; it must be above 0 and at most 1"),
        (["--samples", "0"], "--samples is 0; it must be at least 1"),
        ([], "was trained without AttAnchor; give --mm_attanchor_direction text_into_image or image_into_text"),
        (["--conv-mode", "v9"], "--conv-mode is 'v9'; it must be one of"),
    ],
)
def test_calibration_refuses(options, message, run, data):
    code, _, err = run(calibrate, "--data", data / "train.json", "--image-folder", data, *options)
    assert code == 2
    assert message in err.splitlines()[-1]


def test_data_without_pictures_cannot_calibrate(run, data, tmp_path):
    samples = json.loads((data / "train.json").read_text())
    (tmp_path / "text.json").write_text(json.dumps(samples[2:]))
    options = ["--image-folder", data, "--mm_attanchor_direction", "text_into_image"]
    code, _, err = run(calibrate, "--data", tmp_path / "text.json", *options)
    assert code == 2
    assert "error: no sample has both a picture and a question; check --conv-mode and the data" in err


class TestDraw:
    @pytest.fixture
    def draw_pins(self, run, data, tmp_path):
        def call(images, *options, model="llava_tiny_mlp2x_gelu", tau=-1):
            path = tmp_path / "pins.png"
            pictures = ",".join(str(data / image) for image in images)
            given = ["--image-file", pictures, "--query", "What is on the table?", "--output", path]
            direction = [] if "--mm_attanchor_direction" in options else ["--mm_attanchor_direction", "text_into_image"]
            code, out, err = run(draw, *given, *direction, "--mm_attanchor_tau", tau, *options, model=model)
            assert code == 0, err
            assert Image.open(path).width > 500
            return json.loads(path.with_suffix(".json").read_text()), out

        return call

    def test_words_in_their_order_on_patches_of_the_padded_picture(self, draw_pins):
        (row,), out = draw_pins(["wide.png"])
        words = [pin["text"] for pin in row["pins"]]
        assert "".join(words) == "Whatisonthetable?"
        assert row["picture_size"] == [40, 20]
        for pin in row["pins"]:
            left, top, right, bottom = pin["box"]
            assert (right - left, bottom - top) == (10, 10)  # 4 by 4 patches on a square of 40
            assert (left % 10, (top + 10) % 10) == (0, 0)
            assert pin["on_picture"] == (0 <= top < 20)
        assert f"{len(words)} pins: {words[0]}, " in out

    def test_each_of_several_pictures_has_its_own(self, draw_pins):
        both, _ = draw_pins(["wide.png", "tall.png"], "--mm_attanchor_direction", "image_into_text")
        assert [row["picture_size"] for row in both] == [[40, 20], [20, 40]]
        for row in both:
            boxes = {tuple(pin["box"]) for pin in row["pins"]}
            assert len(boxes) == len(row["pins"]) == 16

    def test_what_a_projector_makes_beside_the_patches_has_no_pin(self, draw_pins, make_ccra):
        settings = {"mm_dense_connector_sti_layers": [1, 3], "mm_dense_connector_sti_strip": 4}
        model = make_ccra(mm_projector_type="dense_connector_sti", **settings)
        (row,), _ = draw_pins(["wide.png"], "--mm_attanchor_direction", "image_into_text", model=model)
        assert len({tuple(pin["box"]) for pin in row["pins"]}) == len(row["pins"]) == 16

    def test_tokens_that_are_no_patches_cannot_be_drawn(self, run, data, monkeypatch):
        features = LlavaMetaForCausalLM.encode_images
        monkeypatch.setattr(LlavaMetaForCausalLM, "encode_images", lambda *given: features(*given)[:, :9])
        options = ["--query", "What?", "--mm_attanchor_direction", "text_into_image", "--mm_attanchor_tau", -1]
        code, _, err = run(draw, "--image-file", data / "wide.png", *options)
        assert code == 2
        assert "error: mm_projector_type mlp2x_gelu makes 9 image tokens of 16 patches; where they lie" in err

    def test_tiles_lie_on_their_part_of_the_picture(self, draw_pins):
        options = ["--mm_attanchor_direction", "image_into_text"]
        (row,), _ = draw_pins(["wide.png"], *options, model="llava_tiny_anyres_unpad")
        areas = {round((pin["box"][2] - pin["box"][0]) * (pin["box"][3] - pin["box"][1])) for pin in row["pins"]}
        assert len(areas) == 2, "patches of the whole picture and smaller ones of the tiles"
        left, top, right, bottom = (
            extreme(pin["box"][side] for pin in row["pins"]) for side, extreme in enumerate((min, min, max, max))
        )
        assert left <= 0 <= 40 <= right
        assert -5 <= top <= 0
        assert 20 <= bottom <= 25

    def test_nothing_reaches_the_threshold(self, draw_pins):
        (row,), out = draw_pins(["wide.png"], tau=1)
        assert row["pins"] == []
        assert out.strip().endswith("0 pins")

    def test_what_cannot_be_drawn(self, run, data, tmp_path):
        options = ["--query", "What?", "--mm_attanchor_direction", "text_into_image"]
        code, _, err = run(draw, "--image-file", data / "no.png", *options)
        assert code == 2
        assert "no.png of --image-file cannot be read as a picture" in err
        code, _, err = run(draw, "--image-file", data / "wide.png", *options, "--output", tmp_path / "pins.jpg")
        assert code == 2
        assert "it must end in .png" in err
