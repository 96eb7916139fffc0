"""Maps against masks: by hand on four patches, and the command on a tiny model."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ccra_patch import pointing
from ccra_patch.pai import AttentionMaps, PAIStack
from ccra_patch.pointing import Truth, coverage, maps_of, masses, read_questions, read_truth, score
from ccra_patch.recorder import Call
from llava.errors import UserError

OBJECTS = ("30", "31", "32")


@pytest.fixture
def mask(tmp_path):
    """4 x 4 pixels: object 1 fills the upper left patch and a pixel of the next, object 3 half of the lower right."""
    pixels = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 3, 0], [0, 0, 3, 0]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_a_patch_counts_by_how_much_of_it_is_covered(mask):
    truth = read_truth(mask, OBJECTS, ["30"], side=2)
    assert truth.asked.tolist() == [1, 0.25, 0, 0]
    assert truth.others.tolist() == [0, 0, 0, 0.5]
    both = read_truth(mask, OBJECTS, ["32", "30"], side=2)
    assert both.asked.tolist() == [1, 0.25, 0, 0.5]
    assert both.others.sum() == 0


def test_patches_need_not_divide_the_picture():
    shown = torch.zeros(3, 3, dtype=torch.bool)
    shown[0, 0] = True
    # adaptive pooling gives each of the 2 x 2 patches two rows and two columns of the three
    assert coverage(shown, 2).tolist() == [0.25, 0, 0, 0]


def test_three_readings_of_scores_of_either_sign():
    found = masses(torch.tensor([3.0, 1.0, -1.0, -3.0], dtype=torch.float64))
    assert found["positive"].tolist() == [0.75, 0.25, 0, 0]
    assert found["factor"].tolist() == [0.5, 0.25, 0, 0.25]  # 4, 2, 0 and -2: turned over, not gone
    e = torch.tensor([3.0, 1.0, -1.0, -3.0], dtype=torch.float64).exp()
    assert found["softmax"].tolist() == pytest.approx((e / e.sum()).tolist())


def test_what_brings_nothing_out_is_uniform():
    found = masses(torch.tensor([[-1.0, -1.0], [0.0, 1.0]]))
    assert found["positive"].tolist() == [[0.5, 0.5], [0, 1]]
    assert found["factor"].tolist()[0] == [0.5, 0.5]


def test_energy_and_pointing_by_hand():
    truth = Truth(torch.tensor([1, 0.25, 0, 0]), torch.tensor([0, 0.125, 0, 0.5]))
    assert score(torch.tensor([0.2, 0.4, 0.1, 0.3]), truth) == pytest.approx(
        {
            "energy": 0.2 + 0.1,
            "pointing": 0.25,
            "area": 1.25 / 4,
            "others_energy": 0.05 + 0.15,
            "others_pointing": 0.125,
            "others_area": 0.625 / 4,
        }
    )


def test_a_map_that_knows_nothing_is_at_chance():
    truth = Truth(torch.tensor([1, 0.25, 0, 0]), torch.tensor([0, 0, 0, 0.5]))
    found = score(torch.full((4,), 0.25), truth)
    assert found["energy"] == found["pointing"] == found["area"]
    assert found["others_energy"] == found["others_pointing"] == found["others_area"]


def test_maps_of_layers_are_weighed_as_lwca_weighs_them():
    attention = PAIStack(8, 8, hidden_dim=4)
    lpwca = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 2.0]]])
    weights, pwca = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.0, 3.0, 1.0, 0.0]])
    maps = AttentionMaps(torch.ones(1, 1), lpwca, weights, weights, weights, pwca)
    found = dict(maps_of(Call(attention, torch.zeros(1, 2, 4, 8), torch.zeros(1, 1, 8), maps), 0, layers=(3, 9)))
    assert {name: mass["positive"].tolist() for name, mass in found.items()} == {
        "PWCA": [0, 0.75, 0.25, 0],
        "LPWCA": [0.25, 0, 0.375, 0.375],
        "LPWCA, layer 3": [1, 0, 0, 0],
        "LPWCA, layer 9": [0, 0, 0.5, 0.5],
    }


def test_masks_must_be_squares(tmp_path):
    Image.new("L", (4, 3)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png has the shape \[3, 4\]; masks must be squares"):
        read_truth(tmp_path / "m.png", OBJECTS, ["30"], 2)


@pytest.fixture
def gqa(tmp_path, mask):
    """Three questions on one picture: about two objects of one word, about nothing in it, about one object."""
    asked = {"1": {"2": "30,32"}, "2": {}, "3": {"0": "32", "4": "32"}}
    entries = {
        key: {"imageId": "7", "types": {"detailed": "count"}, "annotations": {"question": names}}
        for key, names in asked.items()
    }
    for folder in ("data/images", "sceneGraphs", "masks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "test_near_balanced_questions.json").write_text(json.dumps(entries))
    graph = {"7": {"objects": {name: {} for name in OBJECTS}}}
    (tmp_path / "sceneGraphs" / "test_near_sceneGraphs.json").write_text(json.dumps(graph))
    lines = [{"question_id": key, "image": "7.png", "text": f"How many {key}?"} for key in asked]
    (tmp_path / "llava_gqa_test_near_balanced.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    mask.rename(tmp_path / "masks" / "7.png")
    Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / "data" / "images" / "7.png")
    return tmp_path


def test_questions_about_something_in_the_picture(gqa):
    found = read_questions(gqa, "test_near_balanced")
    assert [(question.line["question_id"], question.asked) for question in found] == [
        ("1", ("30", "32")),
        ("3", ("32",)),
    ]
    assert found[0].objects == OBJECTS


def run(checkpoint, gqa, monkeypatch, *more) -> int:
    argv = ["pointing", "--model-path", str(checkpoint), "--gqa", str(gqa), "--tier", "test_near_balanced", *more]
    monkeypatch.setattr(sys, "argv", [*argv, "--output", str(gqa / "out" / "pointing.json")])
    try:
        pointing.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_command_writes_and_prints_every_map(make_ccra, gqa, monkeypatch, capsys):
    assert run(make_ccra(), gqa, monkeypatch, "--batch-size", "2") == 0
    report = json.loads((gqa / "out" / "pointing.json").read_text())
    maps = report["summary"]["maps"]
    assert list(maps) == ["PWCA", "LPWCA", *(f"LPWCA, layer {index}" for index in range(1, 6))]
    first, second = (record["maps"]["PWCA"]["factor"]["energy"] for record in report["records"])
    assert maps["PWCA"]["factor"]["energy"] == pytest.approx(
        {"mean": (first + second) / 2, "standard_error": abs(first - second) / 2}
    )
    assert report["records"][1]["maps"]["PWCA"]["positive"]["area"] == pytest.approx(2 / 16)
    assert sum(report["summary"]["layer_weights"]) == pytest.approx(1)
    assert report["by_kind"].keys() == {"count"}
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split("|")[2].strip() for row in rows[2:]] == ["positive", "factor", "softmax"] * 2 + ["positive"] * 5


def test_a_step_that_is_left_out_has_no_map(make_ccra, gqa, monkeypatch):
    assert run(make_ccra(mm_ccra_disable=["pwca"]), gqa, monkeypatch, "--first", "1") == 0
    report = json.loads((gqa / "out" / "pointing.json").read_text())
    assert "PWCA" not in report["summary"]["maps"]
    assert report["questions"]["measured"] == 1


def test_mistakes_are_one_line(make_ccra, gqa, monkeypatch, capsys):
    assert run("nowhere", gqa, monkeypatch, "--first", "0") == 2
    assert capsys.readouterr().err == "error: --first is 0; it must be at least 1\n"
    entries = json.loads((gqa / "data" / "test_near_balanced_questions.json").read_text())
    for entry in entries.values():
        entry["annotations"]["question"] = {}
    (gqa / "data" / "test_near_balanced_questions.json").write_text(json.dumps(entries))
    assert run("nowhere", gqa, monkeypatch) == 2
    assert "has no question with annotations of the objects" in capsys.readouterr().err
