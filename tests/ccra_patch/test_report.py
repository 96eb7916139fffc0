"""Pages from a summary: what the tables say, and that pictures are drawn."""

import json
import sys
from dataclasses import asdict

import pytest

from ccra_patch import report
from ccra_patch.studies import Arm, Panel
from ccra_patch.summary import Summary

PLAIN = Summary({1: 50.0, 2: 52.0}, 51.0, 1.0)
BETTER = Summary({1: 60.0, 2: 58.0}, 59.0, 1.0, 8.0, 2.0, (3.0, 13.0))
SAME = Summary({1: 50.0, 2: 51.0}, 50.5, 0.5, -0.5, 0.5, (-2.0, 1.0))
ARMS = {
    "mlp2x_gelu": {"accuracy": PLAIN, "detailed/count": PLAIN, "detailed/ocr": PLAIN},
    "ccra": {"accuracy": BETTER, "detailed/count": SAME, "detailed/ocr": BETTER},
}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "--" not in line]


def test_comparison_has_the_difference_and_both_its_errors():
    assert cells(report.comparison(ARMS, "accuracy", "mlp2x_gelu")) == [
        ["", "accuracy", "from mlp2x_gelu", "95% over questions"],
        ["`mlp2x_gelu`", "51.0 ± 1.0", "-", "-"],
        ["`ccra`", "59.0 ± 1.0", "+8.0 ± 2.0", "+3.0 to +13.0"],
    ]


def test_a_star_where_the_interval_leaves_out_nothing():
    assert cells(report.by_type(ARMS)) == [
        ["", "count", "ocr"],
        ["`mlp2x_gelu`", "51.0", "51.0"],
        ["`ccra`", "50.5", "59.0*"],
    ]


def test_costs_leave_out_what_nobody_recorded():
    arms = {
        "a": {"projector_parameters": 1234, "trained_parameters": 5000, "steps": 7, "seconds": {"train": 61.4}},
        "b": {"seconds": {"train": 60.0, "far": 9.6}},
    }
    assert cells(report.costs(arms)) == [
        ["", "projector", "trained", "steps", "train, s", "far, s"],
        ["`a`", "1,234", "5,000", "7", "61", "-"],
        ["`b`", "-", "-", "-", "60", "10"],
    ]


def test_a_search_shows_what_was_taken():
    search = {
        "variable": "LEARNING_RATE",
        "metric": "accuracy",
        "scores": {"ccra": {"1e-4": 40.0, "1e-3": 45.04}},
        "chosen": {"ccra": "1e-3"},
    }
    assert cells(report.searched(search)) == [
        ["accuracy with LEARNING_RATE", "1e-4", "1e-3"],
        ["`ccra`", "40.0", "**45.0**"],
    ]


@pytest.fixture
def summary(tmp_path):
    content = {
        "metric": "accuracy",
        "baseline": "mlp2x_gelu",
        "seeds": [1, 2],
        "search": None,
        "arms": {arm: {"seconds": {"train": 1.0}} for arm in ARMS},
        "evaluations": {
            name: {arm: {metric: asdict(one) for metric, one in metrics.items()} for arm, metrics in ARMS.items()}
            for name in ("near", "far")
        },
    }
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(content))
    return path


def test_the_command_writes_all_tables_and_a_plot(summary, monkeypatch):
    tables, figure = summary.with_name("tables.md"), summary.with_name("differences.png")
    arguments = ["report", str(summary), "--tables", str(tables), "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", arguments)
    report.main()
    text = tables.read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "### near: accuracy",
        "### near: by type of question",
        "### far: accuracy",
        "### far: by type of question",
        "### What it took",
    ]
    assert "Percent, mean over 2 seeds ± its standard error over them." in text
    assert report.comparison(ARMS, "accuracy", "mlp2x_gelu") in text
    assert 5_000 < figure.stat().st_size < 100_000


def test_a_file_that_is_no_summary_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "none.json")])
    with pytest.raises(SystemExit) as stop:
        report.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: [Errno 2]")


def test_means_are_drawn_per_evaluation_and_panel(tmp_path):
    panels = [Panel("all", {name: Arm(name) for name in ARMS}), Panel("one", {"ccra": Arm("ccra")}, is_scale=True)]
    report.draw(panels, {"near": ARMS, "far": ARMS}, "accuracy", tmp_path / "means.png")
    assert (tmp_path / "means.png").stat().st_size > 10_000
