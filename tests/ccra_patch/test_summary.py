"""Means, errors and intervals, by hand where a hand can do it."""

import json
import math

import numpy as np
import pytest

from ccra_patch.runs import Command, Run
from ccra_patch.summary import Summary, estimate, mean_and_error, paired_interval, summarise, table
from llava.eval.compare import bootstrap_difference
from llava.eval.scores import Metric


def test_mean_and_standard_error():
    assert mean_and_error([3.0]) == (3.0, None)
    mean, error = mean_and_error([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert error == pytest.approx(math.sqrt((4 + 1 + 9) / 2 / 3))
    assert estimate([1.0, 3.0]) == {"mean": 2.0, "standard_error": 1.0}


def test_differences_are_taken_seed_by_seed():
    found = Summary.of({1: 10.0, 2: 20.0, 4: 7.0}, {1: 9.0, 2: 18.0, 3: 0.0})
    assert found.mean == pytest.approx(37 / 3)
    assert found.difference == 1.5
    assert found.difference_error == pytest.approx(0.5)
    assert Summary.of({1: 10.0}, {2: 9.0}).difference is None


RIGHT, WRONG = {"a": True, "b": True}, {"a": False, "b": False}


def test_two_questions_that_differ_by_one_answer():
    """Two draws of {0, 1}: the mean is 0, 1/2 and 1 with 1/4, 1/2 and 1/4."""
    arm = {1: {"a": True, "b": False}}
    assert paired_interval(arm, {1: WRONG}, ["a", "b"]) == (0.0, 100.0)
    assert paired_interval(arm, {1: WRONG}, ["a", "b"], confidence=0.4) == (50.0, 50.0)
    assert paired_interval({1: WRONG}, arm, ["a", "b"]) == (-100.0, 0.0)


def test_an_interval_is_over_questions_not_over_seeds():
    # One seed better by everything, the other by nothing: each question gives 1/2, whichever is drawn.
    assert paired_interval({1: RIGHT, 2: RIGHT}, {1: WRONG, 2: RIGHT}, ["a", "b"]) == (50.0, 50.0)
    # Seeds that the other arm lacks do not count, and without a common one there is nothing to say.
    assert paired_interval({1: RIGHT, 2: WRONG}, {1: RIGHT}, ["a"]) == (0.0, 0.0)
    assert paired_interval({2: WRONG}, {1: RIGHT}, ["a"]) is None


def test_it_is_the_paired_bootstrap_of_two_answers_files():
    generator = np.random.default_rng(0)
    first, second = ({str(q): bool(generator.random() < p) for q in range(300)} for p in (0.6, 0.7))
    ours = paired_interval({1: second}, {1: first}, list(first))
    theirs = bootstrap_difference(Metric.mean(first), Metric.mean(second), samples=10_000, seed=1, confidence=0.95)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.5)


def test_arms_that_were_asked_other_questions_are_refused():
    with pytest.raises(ValueError, match="not all runs were asked question b; evaluate all arms alike"):
        paired_interval({1: RIGHT}, {1: {"a": True}}, ["a", "b"])


@pytest.fixture
def finished(tmp_path):
    """A run that has been evaluated, from its right answers to the questions "1" to "4"."""

    def make(arm: str, seed: int, right: str) -> Run:
        run = Run(arm, seed, tmp_path / f"{arm}{seed}", Command("train.sh", {}), {})
        correct = {question: question in right for question in "1234"}
        groups = {"accuracy": list("1234"), "detailed/count": list("12")}
        scores = {name: {"value": 100 * sum(map(correct.get, ids)) / len(ids)} for name, ids in groups.items()}
        run.scores["test"] = scores
        run.results("test").parent.mkdir(parents=True)
        run.results("test").write_text(json.dumps({"scores": scores, "correct": correct, "groups": groups}))
        return run

    return make


def test_every_metric_gets_its_difference_and_interval(finished):
    runs = [
        finished("plain", 1, "1"),
        finished("plain", 2, "14"),
        finished("ccra", 1, "12"),
        finished("ccra", 2, "124"),
    ]
    summaries = summarise(runs, "test", "plain")
    count = summaries["ccra"]["detailed/count"]
    assert count.values == {1: 100.0, 2: 100.0}
    assert (count.difference, count.difference_error) == (50.0, 0.0)
    assert count.interval == (0.0, 100.0)  # question 1 differs by 0, question 2 by 1
    assert summaries["ccra"]["accuracy"].difference == 25.0
    assert summaries["plain"]["accuracy"].interval is None
    assert table(summaries, "accuracy", "plain").splitlines() == [
        "arm    accuracy   s.e.  seeds  from plain  s.e.  95% over questions",
        "plain     37.50  12.50      2           -     -                   -",
        "ccra      62.50  12.50      2      +25.00  0.00     +0.00 to +75.00",
    ]


def test_without_marks_of_single_questions_there_is_no_interval(finished):
    run, other = finished("plain", 1, "1"), finished("ccra", 1, "12")
    other.results("test").write_text(json.dumps({"scores": other.scores["test"]}))
    found = summarise([run, other], "test", "plain")["ccra"]["accuracy"]
    assert (found.difference, found.interval) == (25.0, None)
