import json
import math
from pathlib import Path

import pytest

from llava.errors import UserError
from llava.eval.provenance import provenance_path, write_provenance
from llava.eval.scores import Metric, Score, read_scores, record_scores, scores_path


def test_a_share_has_the_binomial_error() -> None:
    assert Score.of([1, 0, 1, 1]) == Score(75.0, pytest.approx(100 * math.sqrt(0.75 * 0.25 / 4)), 4)
    assert str(Score.of([1, 0])) == "50.00% ± 35.36 (n=2)"


def test_f1_is_that_of_the_counts_averaged_over_groups() -> None:
    first = {"1": (True, True), "2": (True, False), "3": (False, True), "4": (False, False)}  # TP 1, FP 1, FN 1
    metric = Metric.f1({"a": first, "b": {"5": (True, True)}})
    assert metric.score().value == pytest.approx(100 * (2 / 4 + 1) / 2)
    # residuals of 2 TP - F1 (2 TP + FP + FN): 2 - 1, 0 - 0.5, 0 - 0.5, 0, over a denominator of 4; group b has none
    assert metric.score().standard_error == pytest.approx(100 * math.sqrt((1 + 0.25 + 0.25) / 16) / 2)
    assert metric.score().n == 5


def test_totals_add_their_groups_and_their_variances() -> None:
    metric = Metric({"a": {"1": (1.0, 1.0), "2": (0.0, 1.0)}, "b": {"3": (2.0, 1.0), "4": (0.0, 1.0)}}, total=True)
    assert metric.score().value == 150.0
    assert metric.score().standard_error == pytest.approx(100 * math.sqrt(0.5 / 4 + 2 / 4))


def test_a_ratio_of_nothing_is_zero() -> None:
    assert Metric.f1({"a": {"1": (False, False)}}).score() == Score(0.0, 0.0, 1)


def test_tokens_weigh_a_loss() -> None:
    assert Metric({"": {"1": (6.0, 2.0), "2": (1.0, 8.0)}}, scale=1).score().value == pytest.approx(0.7)


def test_scores_lie_beside_their_answers_and_in_their_provenance(tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    answers.write_text("{}\n")
    write_provenance(answers, {"items": 2})
    first = Metric.mean({"1": 1.0, "2": 0.0})
    assert record_scores(answers, {"accuracy": first}) == {"accuracy": first.score()}
    record_scores(answers, {"f1": Metric.f1({"g": {"1": (True, True)}})})
    assert read_scores(answers) == {"accuracy": first, "f1": Metric.f1({"g": {"1": (True, True)}})}
    provenance = json.loads(provenance_path(answers).read_text())
    assert provenance["scores"]["accuracy"]["value"] == 50.0
    assert provenance["items"] == 2


def test_scores_of_changed_answers_are_refused_and_then_replaced(tmp_path: Path) -> None:
    answers = tmp_path / "a.jsonl"
    with pytest.raises(UserError, match=r"a\.jsonl is not there"):
        read_scores(answers)
    answers.write_text("{}\n")
    with pytest.raises(UserError, match=r"a\.jsonl has no scores yet \(a\.jsonl\.scores\.json\); score the answers"):
        read_scores(answers)
    record_scores(answers, {"old": Metric.mean({"1": 1.0})})
    answers.write_text("{}\n{}\n")
    with pytest.raises(UserError, match=r"belongs to other answers than a\.jsonl has now; score them again"):
        read_scores(answers)
    record_scores(answers, {"new": Metric.mean({"1": 1.0})})
    assert list(read_scores(answers)) == ["new"]
    assert not provenance_path(answers).exists()  # answers from elsewhere have none
    assert scores_path(answers).exists()
