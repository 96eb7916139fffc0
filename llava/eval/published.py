"""The papers' published scores: ``python -m llava.eval.published`` prints their tables.

With a benchmark and scored answers it prints one line, this score beside the published ones:

    python -m llava.eval.published gqa --answers merge.jsonl --metric gqa_testdev_balanced_accuracy

The numbers are in ``table/published.json``: Tables 1, 3 and 4 of CCRA and both tables of AttAnchor. How a paper
computed its score is not always known; docstrings of the metrics say what is computed here.
"""

import argparse
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llava.errors import UserError, exit_on_user_error
from llava.eval.scores import read_scores

FILE = Path(__file__).parent / "table" / "published.json"
# By the names of scripts/v1_5/eval/*.sh.
COLUMNS = {
    "gqa": "GQA",
    "sqa": "SQA",
    "textvqa": "TextVQA",
    "vizwiz": "VizWiz",
    "mmbench": "MMBench",
    "mmvet": "MM-Vet",
    "seed": "SEED-I",
    "mmmu": "MMMU",
    "mme": "MME-P",
    "mme_total": "MME-P+C",
    "pope": "POPE",
    "vqav2": "VQAv2",
    "amber": "AMBER",
    "hallusion": "HallusionBench",
    "validation_loss": "validation loss",
    "bleu": "BLEU",
    "meteor": "METEOR",
    "cider": "CIDEr",
    "rouge_l": "ROUGE-L",
    "bertscore": "BERTScore",
}


@dataclass(frozen=True)
class Table:
    """One table of a paper: scores by column, by row."""

    source: str
    rows: dict[str, dict[str, float]]
    note: str = ""

    @property
    def columns(self) -> list[str]:
        """All columns of its rows, in their order."""
        return list(dict.fromkeys(column for row in self.rows.values() for column in row))

    def render(self) -> str:
        """The table as text, ``-`` where the paper gives no score."""
        width = max(map(len, self.rows))
        lines = [self.source + (f" ({self.note})" if self.note else "")]
        lines.append("  ".join([" " * width, *(f"{column:>8}" for column in self.columns)]))
        for name, row in self.rows.items():
            cells = [f"{row.get(column, '-'):>{max(8, len(column))}}" for column in self.columns]
            lines.append("  ".join([f"{name:<{width}}", *cells]))
        return "\n".join(lines)


@cache
def read_tables() -> tuple[Table, ...]:
    """All published tables."""
    return tuple(Table(**table) for table in json.loads(FILE.read_text(encoding="utf-8"))["tables"])


def published_scores(benchmark: str) -> dict[str, float]:
    """The scores in a benchmark by model, of the models that lines show. Raises UserError for an unknown benchmark."""
    if benchmark not in COLUMNS:
        raise UserError(f"benchmark is {benchmark!r}; it must be one of {', '.join(COLUMNS)}")
    shown = json.loads(FILE.read_text(encoding="utf-8"))["shown"]
    rows = {name: row for table in read_tables() for name, row in table.rows.items()}
    column = COLUMNS[benchmark]
    return {name: rows[name][column] for name in shown if column in rows[name]}


def result_line(benchmark: str, answers: str, metric: str, absent: str | None) -> str:
    """One line: this score, or why there is none, beside the published ones.

    Raises UserError when the answers have no such score and no reason is given.
    """
    theirs = "".join(f" | {name} {score:g}" for name, score in published_scores(benchmark).items())
    if absent is not None:
        return f"{COLUMNS[benchmark]}: no score here ({absent}){theirs}"
    metrics = read_scores(answers)
    if metric not in metrics:
        raise UserError(f"{answers} has no score {metric!r}; it has {', '.join(metrics)}")
    score = metrics[metric].score()
    return f"{COLUMNS[benchmark]}: {score.value:.2f} ± {score.standard_error:.2f} (n={score.n}){theirs}"


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.published", description="Show the papers' published scores.")
    parser.add_argument("benchmark", nargs="?", help=f"one of {', '.join(COLUMNS)}; without it, all tables are shown")
    parser.add_argument("--answers", help="answers file that was scored")
    parser.add_argument("--metric", help="which of its scores")
    parser.add_argument("--absent", help="why there is no score")
    args = parser.parse_args()
    if args.benchmark is None:
        print("\n\n".join(table.render() for table in read_tables()))
    else:
        print(result_line(args.benchmark, args.answers, args.metric, args.absent))


if __name__ == "__main__":
    main()
