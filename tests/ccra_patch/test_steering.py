"""The question's part in maps: by hand on small ones, and the command on a tiny model."""

import json
import math
import shutil
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ccra_patch import steering
from ccra_patch.projector import CCRAProjector
from ccra_patch.steering import Asked, evenness, opened, question_share


def asked(*maps: list[float]) -> Asked:
    picture = Asked()
    for scores in maps:
        picture.add(torch.tensor(scores, dtype=torch.float64))
    return picture


def test_share_by_hand():
    # over the questions: means 2 and 0, variances 1 and 4
    first = asked([1, -2], [3, 2])
    assert (first.between, first.common) == (2.5, 1)
    # three questions: means 0 and 3, variances 2/3 and 0
    second = asked([-1, 3], [0, 3], [1, 3])
    assert (second.between, second.common) == pytest.approx((1 / 3, 9 / 4))
    found = question_share([first, second])
    together, without_first, without_second = (
        (2.5 + 1 / 3) / (3.5 + 1 / 3 + 9 / 4),
        (1 / 3) / (1 / 3 + 9 / 4),
        2.5 / 3.5,
    )
    assert found["share"] == pytest.approx(together)
    # of two values, jackknife's error is half their distance
    assert found["standard_error"] == pytest.approx(abs(without_first - without_second) / 2)


def test_share_is_of_all_variance_over_questions_and_patches():
    maps = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    picture = asked(*maps.tolist())
    assert picture.between + picture.common == pytest.approx(maps.var(correction=0).item())
    assert picture.between == pytest.approx(maps.var(dim=0, correction=0).mean().item())


def test_ends_of_the_scale():
    assert question_share([asked([1, 2, 4], [1, 2, 4])])["share"] == 0
    assert question_share([asked([1, -2, 4], [-1, 2, -4])])["share"] == 1
    assert question_share([asked([0, 0], [5, 5])])["share"] == 1  # the whole map is raised: 1 + W acts
    drawn = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0)).tolist()
    assert question_share([asked(*drawn)])["share"] == pytest.approx(1 - 1 / 4, abs=0.01)


def test_order_scale_and_common_level_do_not_matter():
    maps = [[1.0, -2.0, 0.5], [3.0, 2.0, 0.0], [0.0, 1.0, 1.0]]
    share = question_share([asked(*maps)])["share"]
    for others in (maps[::-1], [[7 - 3 * score for score in scores] for scores in maps]):
        assert question_share([asked(*others)])["share"] == pytest.approx(share)
    assert question_share([asked(*maps)] * 4) == pytest.approx({"share": share, "standard_error": 0})


def test_a_flat_map_has_no_share_and_one_picture_no_error():
    assert question_share([asked([0, 0], [0, 0])] * 3) == {"share": None, "standard_error": None}
    assert question_share([asked([1, -2], [3, 2])]) == {"share": pytest.approx(2.5 / 3.5), "standard_error": None}


def test_evenness_of_token_importance_leaves_padding_out():
    rows = [[0.5, 0.5, 0, 0], [0.25] * 4, [0, 0.75, 0.25, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    uneven = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert evenness(torch.tensor(rows)).tolist() == pytest.approx([1, 1, uneven, 1, 1])


def test_opened_is_a_ratio_of_sizes():
    projector = CCRAProjector(4, 6, hidden_dim=2, depth_groups=2)
    torch.nn.init.constant_(projector.selected.weight, -0.5)
    torch.nn.init.zeros_(projector.regional.weight)
    assert opened(projector) == 0
    torch.nn.init.constant_(projector.regional.weight, 0.125)
    assert opened(projector) == 0.25


@pytest.fixture
def questions(tmp_path):
    """Two questions about each of two pictures, one about a third, and one about none."""
    lines = []
    for number, picture in enumerate((0, 1, 0, 2, 1, None)):
        lines.append({"question_id": number, "text": ["Is it red?", "How many cats are there, and where?"][number > 1]})
        if picture is not None:
            Image.effect_noise((30 + picture, 30), 60).convert("RGB").save(tmp_path / f"{picture}.png")
            lines[-1]["image"] = f"{picture}.png"
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(checkpoint, questions, monkeypatch, *more) -> int:
    argv = ["steering", "--model-path", str(checkpoint), "--question-file", str(questions)]
    argv += [
        "--image-folder",
        str(questions.parent),
        "--output",
        str(questions.parent / "out" / "steering.json"),
        *more,
    ]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        steering.main()
    except SystemExit as stop:
        return stop.code
    return 0


def report_of(questions):
    return json.loads((questions.parent / "out" / "steering.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("batch_size", ["1", "3"])
def test_the_command_writes_and_prints_every_map(make_ccra, questions, monkeypatch, capsys, batch_size):
    assert run(make_ccra(), questions, monkeypatch, "--batch-size", batch_size) == 0
    report = report_of(questions)
    assert [report["questions"][key] for key in ("measured", "pictures", "passed_over")] == [4, 2, 2]
    assert {record["question_id"] for record in report["records"]} == {0, 1, 2, 4}
    summary = report["summary"]
    names = [*(f"LPWCA, layer {index}" for index in range(1, 6)), "LPWCA, all layers", "LWCA", "PWCA"]
    assert list(summary["maps"]) == names
    assert all(0 < numbers["question_share"]["share"] < 1 for numbers in summary["maps"].values())
    spreads = [record["spread"]["PWCA"] for record in report["records"]]
    assert summary["maps"]["PWCA"]["spread"]["mean"] == pytest.approx(sum(spreads) / 4)
    assert 0.5 < summary["token_importance"]["entropy"]["mean"] <= 1
    assert summary["unrelated"] == 0.5
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]][: len(names) + 1] == [*names, "unrelated maps"]


def test_a_model_whose_queries_are_only_bias_is_not_steered(make_ccra, questions, monkeypatch, tmp_path):
    folder = tmp_path / "llava-ccra"
    shutil.copytree(make_ccra(), folder)
    weights = load_file(folder / "model.safetensors")
    asking = [
        name for name in weights if name.endswith(tuple(f"{step}.query.weight" for step in ("lpwca", "lwca", "pwca")))
    ]
    assert len(asking) == 3
    save_file(
        weights | {name: torch.zeros_like(weights[name]) for name in asking},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    assert run(folder, questions, monkeypatch) == 0
    for numbers in report_of(questions)["summary"]["maps"].values():
        assert numbers["question_share"]["share"] == pytest.approx(0, abs=1e-9)
        assert numbers["spread"]["mean"] > 0


def test_steps_that_are_left_out_are_absent(make_ccra, questions, monkeypatch):
    assert run(make_ccra(mm_ccra_disable=["lpwca", "pwca"]), questions, monkeypatch) == 0
    assert list(report_of(questions)["summary"]["maps"]) == ["LWCA"]


def test_mistakes_are_one_line_and_exit_code_2(make_ccra, questions, assets, monkeypatch, capsys):
    cases = [
        (make_ccra(), ("--first", "2"), "the 2 questions of", "ask about no picture twice; give a file with several"),
        (make_ccra(), ("--first", "0"), "--first is 0; it must be at least 1"),
        (assets / "llava_tiny_linear", (), "has the projector linear, which has no attention to look at"),
        (make_ccra(), ("--conv-mode", "none"), "--conv-mode is 'none'; it must be one of"),
    ]
    for checkpoint, more, *messages in cases:
        assert run(checkpoint, questions, monkeypatch, *more) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert all(message in line for message in messages)
