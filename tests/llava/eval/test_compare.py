import json
import sys
from pathlib import Path

import numpy as np
import pytest

from llava.errors import UserError
from llava.eval import compare as module
from llava.eval.compare import bootstrap_difference, compare
from llava.eval.provenance import write_provenance
from llava.eval.scores import Metric, record_scores

SETTINGS = {"samples": 2000, "seed": 1, "confidence": 0.95}


def run(path: Path, metrics: dict[str, Metric]) -> str:
    path.write_text(path.name + "\n")
    record_scores(path, metrics)
    return str(path)


def flags(right: int, count: int = 400) -> dict[str, float]:
    return {str(number): float(number < right) for number in range(count)}


def test_the_interval_is_the_paired_one() -> None:
    """A and B agree on all questions but 20, so the difference is far surer than either score."""
    found = bootstrap_difference(Metric.mean(flags(200)), Metric.mean(flags(220)), **SETTINGS)
    assert (found.first, found.second, found.value, found.n) == pytest.approx((50.0, 55.0, 5.0, 400))
    # the difference is a share of 20 in 400: error sqrt(0.05 * 0.95 / 400) = 1.09 points
    assert found.low == pytest.approx(5 - 1.96 * 1.09, abs=0.3)
    assert found.high == pytest.approx(5 + 1.96 * 1.09, abs=0.3)


def test_a_run_does_not_differ_from_itself() -> None:
    metric = Metric.f1({"g": {str(number): (number % 3 == 0, number % 2 == 0) for number in range(50)}})
    found = bootstrap_difference(metric, metric, **SETTINGS)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_order_of_questions_does_not_matter_and_the_seed_repeats() -> None:
    first, second = Metric.mean(flags(30, 60)), Metric.mean(dict(reversed(flags(40, 60).items())))
    found = bootstrap_difference(first, second, **SETTINGS)
    assert found == bootstrap_difference(first, Metric.mean(flags(40, 60)), **SETTINGS)
    other = bootstrap_difference(first, second, **SETTINGS | {"seed": 2})
    assert (other.value, other.low) != (found.value, found.low) or other.high != found.high


def test_groups_are_drawn_from_one_by_one_and_totals_add_up() -> None:
    first = Metric({"a": flags_as_pairs(10, 40), "b": flags_as_pairs(40, 40)}, total=True)
    second = Metric({"a": flags_as_pairs(20, 40), "b": flags_as_pairs(40, 40)}, total=True)
    found = bootstrap_difference(first, second, **SETTINGS)
    assert found.value == 25.0  # group b never adds to the difference, however it is drawn
    draws = np.random.default_rng(1).binomial(40, 0.25, 2000) / 40 * 100
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=3)


def flags_as_pairs(right: int, count: int) -> dict[str, tuple[float, float]]:
    return {name: (value, 1.0) for name, value in flags(right, count).items()}


def test_only_the_same_questions_can_be_compared(tmp_path: Path) -> None:
    a = run(tmp_path / "a.jsonl", {"accuracy": Metric.mean(flags(1, 3)), "mine": Metric.mean(flags(1, 3))})
    b = run(tmp_path / "b.jsonl", {"accuracy": Metric.mean(flags(1, 5))})
    with pytest.raises(UserError, match="different questions: 3 and 5, of which 2 are in one run only, first '3'"):
        compare(a, b, **SETTINGS)
    with pytest.raises(UserError, match="share no metric 'mine'; the first has accuracy, mine, the second accuracy"):
        compare(a, b, metrics=["mine"], **SETTINGS)
    other = run(tmp_path / "c.jsonl", {"loss": Metric.mean(flags(1, 3), scale=1)})
    with pytest.raises(UserError, match="share no metric; the first has accuracy, mine, the second loss"):
        compare(a, other, **SETTINGS)
    rescaled = run(tmp_path / "d.jsonl", {"accuracy": Metric.mean(flags(1, 3), scale=1)})
    with pytest.raises(UserError, match="scored by different versions of the metric"):
        compare(a, rescaled, **SETTINGS)
    for change, message in (({"samples": 0}, "--samples is 0"), ({"confidence": 1.0}, "--confidence is 1.0")):
        with pytest.raises(UserError, match=message):
            compare(a, a, **SETTINGS | change)


def test_the_command_prints_every_shared_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"gqa": Metric.mean(flags(10, 40)), "f1": Metric.f1({"g": {"1": (True, True), "2": (True, False)}})}
    a = run(tmp_path / "a.jsonl", metrics)
    b = run(tmp_path / "b.jsonl", metrics | {"gqa": Metric.mean(flags(20, 40))})
    for path, digest in ((a, "0"), (b, "1")):
        write_provenance(Path(path), {"inputs_digest": digest})
    monkeypatch.setattr(sys, "argv", ["compare", a, b, "--samples", "500", "--json", str(tmp_path / "out.json")])
    module.main()
    note, gqa, f1, footer = capsys.readouterr().out.splitlines()
    assert note.startswith("note: the models were shown different inputs")
    assert gqa.startswith("gqa: A 25.00, B 50.00, B - A = +25.00 [+")
    assert f1 == "f1: A 66.67, B 66.67, B - A = +0.00 [+0.00, +0.00] (n=2)"
    assert footer == "95% intervals, paired bootstrap, 500 samples, seed 42"
    assert json.loads((tmp_path / "out.json").read_text())["gqa"]["value"] == 25.0
