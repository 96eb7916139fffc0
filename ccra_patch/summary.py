"""What the runs of a sweep say: means over seeds, and differences from a baseline with intervals.

Two things could have come out otherwise, and each has its number. Other *seeds*: the standard error of the mean
difference, from its spread over the seeds. Other *questions*: an interval from a paired bootstrap (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: percentile intervals). It draws questions with
replacement, as many as there are, the same ones for both arms and for all their seeds, and keeps the seeds as they are.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccra_patch.runs import Run, read_results

SAMPLES = 10_000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 42

Correct = Mapping[str, bool]  # by question


@dataclass(frozen=True)
class Summary:
    """What the seeds of one arm say about one metric.

    Attributes:
        values: the metric by seed.
        mean: over the seeds.
        standard_error: of that mean, from the spread over seeds; None with one seed.
        difference: mean difference from the baseline arm over the seeds that both have; None where there is none.
        difference_error: standard error of that mean; None with one such seed.
        interval: of that mean, over questions; None where the evaluation does not say which questions are right.
    """

    values: dict[int, float]
    mean: float
    standard_error: float | None
    difference: float | None = None
    difference_error: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(
        cls, values: dict[int, float], baseline: Mapping[int, float], interval: tuple[float, float] | None = None
    ) -> "Summary":
        """Of an arm's values by seed, beside those of the arm to compare it with."""
        differences = [value - baseline[seed] for seed, value in values.items() if seed in baseline]
        mean, error = mean_and_error(list(values.values()))
        difference, difference_error = mean_and_error(differences) if differences else (None, None)
        return cls(values, mean, error, difference, difference_error, interval)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, None for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def estimate(values: Sequence[float]) -> dict[str, float | None]:
    """The same as a report writes it."""
    return dict(zip(("mean", "standard_error"), mean_and_error(values), strict=True))


def paired_interval(
    arm: Mapping[int, Correct],
    baseline: Mapping[int, Correct],
    questions: Sequence[str],
    samples: int = SAMPLES,
    seed: int = BOOTSTRAP_SEED,
    confidence: float = CONFIDENCE,
) -> tuple[float, float] | None:
    """The bootstrap interval of ``arm`` less ``baseline`` in percent, both by seed; None if they share no seed.

    Raises ValueError if one of them was not asked all ``questions``.
    """
    seeds = [number for number in arm if number in baseline]
    if not seeds:
        return None
    try:
        differences = [
            sum(int(arm[number][question]) - int(baseline[number][question]) for number in seeds)
            for question in questions
        ]
    except KeyError as error:
        raise ValueError(f"not all runs were asked question {error.args[0]}; evaluate all arms alike") from error
    # A draw of n questions matters by how often it has each difference; there are few different ones.
    sums, counts = np.unique(differences, return_counts=True)
    n = len(questions)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=samples) @ sums
    low, high = np.quantile(100 * drawn / (n * len(seeds)), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def summarise(runs: Iterable[Run], evaluation: str, baseline: str) -> dict[str, dict[str, Summary]]:
    """By arm that has a finished run, in their order, by metric: beside the arm called ``baseline``."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs:
        if evaluation in run.scores:
            results.setdefault(run.arm, {})[run.seed] = read_results(run.results(evaluation))
    compare_with = results.get(baseline, {})
    return {
        arm: {
            metric: _one(found, {} if arm == baseline else compare_with, metric)
            for metric in next(iter(found.values()))["scores"]
        }
        for arm, found in results.items()
    }


def _one(found: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]], metric: str) -> Summary:
    def values(results: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
        return {
            seed: result["scores"][metric]["value"] for seed, result in results.items() if metric in result["scores"]
        }

    questions = next(iter(found.values())).get("groups", {}).get(metric)
    interval = None
    if questions:
        interval = paired_interval(
            {seed: result["correct"] for seed, result in found.items()},
            {seed: result["correct"] for seed, result in others.items()},
            questions,
        )
    return Summary.of(values(found), values(others), interval)


def describe(runs: Sequence[Run]) -> dict[str, Any]:
    """Of the runs of one arm: parameters of the projector and of all that trains, steps, mean seconds by command.

    What the training script does not record is absent.
    """
    about: dict[str, Any] = {"variables": runs[0].train.variables}
    record, state = runs[0].model / "run.json", runs[0].model / "trainer_state.json"
    if record.exists():
        parameters = json.loads(record.read_text(encoding="utf-8"))["parameters"]
        about["projector_parameters"] = parameters["projector"][0]
        about["trained_parameters"] = sum(trained for _, trained in parameters.values())
    if state.exists():
        about["steps"] = json.loads(state.read_text(encoding="utf-8"))["global_step"]
    names = dict.fromkeys(name for run in runs for name in run.seconds)
    about["seconds"] = {
        name: round(statistics.fmean(run.seconds[name] for run in runs if name in run.seconds), 1) for name in names
    }
    return about


def table(summaries: Mapping[str, Mapping[str, Summary]], metric: str, baseline: str) -> str:
    """A row per arm: mean and standard error over seeds, the same of the difference from the baseline, its interval."""

    def cell(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.2f}"

    lines = [("arm", metric, "s.e.", "seeds", f"from {baseline}", "s.e.", f"{CONFIDENCE:.0%} over questions")]
    for arm, found in ((arm, metrics[metric]) for arm, metrics in summaries.items()):
        lines.append(
            (
                arm,
                cell(found.mean),
                cell(found.standard_error),
                str(len(found.values)),
                cell(found.difference, "+"),
                cell(found.difference_error),
                "-" if found.interval is None else "{:+.2f} to {:+.2f}".format(*found.interval),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(word.rjust(width) for word, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
