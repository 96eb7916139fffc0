"""Two runs on the same questions: ``python -m llava.eval.compare A.jsonl B.jsonl``, both scored before.

For every metric that both runs have, prints the values and the difference B - A with its interval from a paired
bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: percentile intervals): questions
are drawn with replacement, the same ones for both runs, group by group where a metric has groups.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llava.errors import UserError, exit_on_user_error
from llava.eval.provenance import read_provenance
from llava.eval.records import write_json
from llava.eval.scores import Metric, read_scores

DRAWS_AT_ONCE = 1_000_000  # counts held in memory


@dataclass(frozen=True)
class Difference:
    """``second - first`` with the ends of its interval."""

    first: float
    second: float
    value: float
    low: float
    high: float
    n: int


def bootstrap_difference(first: Metric, second: Metric, samples: int, seed: int, confidence: float) -> Difference:
    """The difference of two metrics over the same units. Raises UserError when the units differ."""
    require_same_units(first, second)
    generator = np.random.default_rng(seed)
    differences = np.zeros(samples)
    # units in the order of the first
    for group, ours in first.groups.items():
        theirs = second.groups[group]
        pairs = np.array([(*ours[unit], *theirs[unit]) for unit in ours])
        differences += _differences(pairs, samples, generator)
    differences *= first.scale / (1 if first.total else len(first.groups))
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    values = first.score(), second.score()
    return Difference(
        values[0].value,
        values[1].value,
        values[1].value - values[0].value,
        float(low),
        float(high),
        values[0].n,
    )


def _differences(pairs: np.ndarray, samples: int, generator: np.random.Generator) -> np.ndarray:
    """For each of ``samples`` draws of units ``[n, 4]`` (two numerators and denominators): second less first value."""
    count = len(pairs)
    at_once = max(1, DRAWS_AT_ONCE // count)
    results = []
    for start in range(0, samples, at_once):
        rows = min(at_once, samples - start)
        sums = generator.multinomial(count, np.full(count, 1 / count), size=rows) @ pairs
        with np.errstate(invalid="ignore"):
            values = np.where(sums[:, 1::2] == 0, 0.0, sums[:, ::2] / sums[:, 1::2])
        results.append(values[:, 1] - values[:, 0])
    return np.concatenate(results)


def require_same_units(first: Metric, second: Metric) -> None:
    """Raises UserError unless both metrics are over the same questions, in the same way."""
    if (first.scale, first.total) != (second.scale, second.total):
        raise UserError("the runs were scored by different versions of the metric; score both again")
    ours = {(group, unit) for group, units in first.groups.items() for unit in units}
    theirs = {(group, unit) for group, units in second.groups.items() for unit in units}
    if ours != theirs:
        apart = sorted(ours ^ theirs)
        raise UserError(
            f"the runs answer different questions: {len(ours)} and {len(theirs)}, of which {len(apart)} are in one run "
            f"only, first {apart[0][1]!r}; compare runs on the same questions"
        )


def compare(
    first: str, second: str, *, metrics: list[str] | None = None, samples: int, seed: int, confidence: float
) -> dict[str, Difference]:
    """The differences of two answers files in the metrics that both have, or in those asked for.

    Raises UserError when there is nothing to compare.
    """
    if samples < 1:
        raise UserError(f"--samples is {samples}; it must be at least 1")
    if not 0 < confidence < 1:
        raise UserError(f"--confidence is {confidence}; it must be between 0 and 1")
    ours, theirs = read_scores(first), read_scores(second)
    shared = [name for name in ours if name in theirs]
    missing = [name for name in metrics or [] if name not in shared]
    if missing or not shared:
        wanted = f"no metric {missing[0]!r}" if missing else "no metric"
        raise UserError(
            f"{first} and {second} share {wanted}; the first has {', '.join(ours)}, the second {', '.join(theirs)}"
        )
    return {
        name: bootstrap_difference(ours[name], theirs[name], samples, seed, confidence) for name in metrics or shared
    }


def inputs_differ(first: str, second: str) -> bool:
    """Whether the models were shown different prompts or pixels, as far as the runs' provenance tells."""
    records = [read_provenance(Path(path).expanduser()) for path in (first, second)]
    digests = {record["inputs_digest"] for record in records if record is not None}
    return len(digests) > 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.compare", description="Compare two runs on the same questions.")
    parser.add_argument("first", metavar="A", help="answers file that was scored")
    parser.add_argument("second", metavar="B", help="another one, of the same questions")
    parser.add_argument("--metric", action="append", help="compare this metric only; may be given again")
    parser.add_argument("--samples", type=int, default=10_000, help="bootstrap samples (default: 10000)")
    parser.add_argument("--seed", type=int, default=42, help="of the samples (default: 42)")
    parser.add_argument("--confidence", type=float, default=0.95, help="of the interval (default: 0.95)")
    parser.add_argument("--json", help="write the differences here as well")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    differences = compare(
        args.first,
        args.second,
        metrics=args.metric,
        samples=args.samples,
        seed=args.seed,
        confidence=args.confidence,
    )
    if inputs_differ(args.first, args.second):
        print("note: the models were shown different inputs (template, tokenizer or image processing)")
    for name, found in differences.items():
        print(
            f"{name}: A {found.first:.2f}, B {found.second:.2f}, B - A = {found.value:+.2f} "
            f"[{found.low:+.2f}, {found.high:+.2f}] (n={found.n})"
        )
    print(f"{args.confidence:.0%} intervals, paired bootstrap, {args.samples} samples, seed {args.seed}")
    if args.json:
        write_json(args.json, {name: asdict(found) for name, found in differences.items()}, indent=2)


if __name__ == "__main__":
    main()
