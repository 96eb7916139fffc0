"""Scores: how they add up from single questions, how sure they are, and the file beside the answers that keeps them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llava.errors import UserError
from llava.eval.provenance import add_score, file_digest, provenance_path
from llava.eval.records import read_json, write_json


@dataclass(frozen=True)
class Score:
    """A value and its standard error, in percent unless the metric says otherwise, over ``n`` units."""

    value: float
    standard_error: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Score":
        """A mean in percent from at least one value in [0, 1]; for 0 and 1 the error is sqrt(p (1 - p) / n)."""
        return Metric.mean({str(number): value for number, value in enumerate(values)}).score()

    def __str__(self) -> str:
        return f"{self.value:.2f}% ± {self.standard_error:.2f} (n={self.n})"


@dataclass(frozen=True)
class Metric:
    """A score with what every unit (a question, or a picture or pair of questions) contributes to it.

    groups: by group, by unit: (numerator, denominator). A group's value is the sum of its numerators over that of its
        denominators, 0 when they are all 0: a mean when denominators are 1, an F1 when they are 2 TP and 2 TP + FP +
        FN.
    scale: what the values are multiplied by; 100 gives percent.
    total: whether the groups' values are added up (MME) rather than averaged.
    """

    groups: dict[str, dict[str, tuple[float, float]]]
    scale: float = 100.0
    total: bool = False

    @classmethod
    def mean(cls, values: Mapping[str, float], scale: float = 100.0) -> "Metric":
        """The mean over units, all in one group."""
        return cls({"": {unit: (float(value), 1.0) for unit, value in values.items()}}, scale)

    @classmethod
    def f1(cls, decisions: Mapping[str, Mapping[str, tuple[bool, bool]]]) -> "Metric":
        """The F1 averaged over groups, from (predicted positive, is positive) by group and unit."""
        return cls(
            {
                group: {
                    unit: (2.0 * (predicted and positive), float(predicted) + float(positive))
                    for unit, (predicted, positive) in units.items()
                }
                for group, units in decisions.items()
            }
        )

    def parts(self) -> list[np.ndarray]:
        """For each group an array ``[units, 2]`` of numerators and denominators."""
        return [np.array(list(units.values())) for units in self.groups.values()]

    def score(self) -> Score:
        """The value and its standard error: units are independent, ratios are linearised (the delta method)."""
        values, variances = [], []
        for part in self.parts():
            numerator, denominator = part.sum(axis=0)
            value = numerator / denominator if denominator else 0.0
            residuals = part[:, 0] - value * part[:, 1]
            values.append(value)
            variances.append((residuals**2).sum() / denominator**2 if denominator else 0.0)
        weight = self.scale / (1 if self.total else len(values))
        return Score(
            float(weight * sum(values)),
            float(weight * math.sqrt(sum(variances))),
            sum(len(units) for units in self.groups.values()),
        )


def scores_path(answers: Path) -> Path:
    """The file of scores that belongs to an answers file."""
    return answers.with_name(answers.name + ".scores.json")


def record_scores(answers: str | Path, metrics: dict[str, Metric]) -> dict[str, Score]:
    """Keeps metrics beside the answers they were computed from, for :mod:`llava.eval.compare`; returns their scores.

    The scores also join the answers' provenance, if there is one: answers from elsewhere have none. Metrics that the
    same answers were given before are kept.
    """
    path = Path(answers).expanduser()
    digest = file_digest(path)
    kept: dict[str, Any] = {}
    if scores_path(path).exists():
        before = read_json(scores_path(path), "a file of scores")
        kept = before["metrics"] if before["answers_sha256"] == digest else {}
    kept |= {name: asdict(metric) for name, metric in metrics.items()}
    write_json(scores_path(path), {"answers_sha256": digest, "metrics": kept})
    scores = {name: metric.score() for name, metric in metrics.items()}
    if provenance_path(path).exists():
        for name, score in scores.items():
            add_score(path, name, asdict(score))
    return scores


def read_scores(answers: str | Path) -> dict[str, Metric]:
    """The metrics that an answers file was given. Raises UserError when there are none, or answers changed since."""
    path = Path(answers).expanduser()
    if not path.is_file():
        raise UserError(f"{path} is not there; it must be an answers file that was scored: check the path")
    if not scores_path(path).exists():
        raise UserError(f"{path} has no scores yet ({scores_path(path).name}); score the answers first")
    content = read_json(scores_path(path), "a file of scores")
    if content["answers_sha256"] != file_digest(path):
        raise UserError(f"{scores_path(path)} belongs to other answers than {path.name} has now; score them again")
    metrics = {}
    for name, fields in content["metrics"].items():
        groups = {
            group: {unit: (pair[0], pair[1]) for unit, pair in units.items()}
            for group, units in fields["groups"].items()
        }
        metrics[name] = Metric(groups, fields["scale"], fields["total"])
    return metrics
