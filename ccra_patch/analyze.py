"""Table 2 for any CCRA checkpoint and question set: how consistent the layers are, before and after LPWCA.

    python -m ccra_patch.analyze --model-path checkpoints/llava-v1.5-7b-ccra \
        --question-file playground/data/eval/gqa/llava_gqa_testdev_balanced.jsonl \
        --image-folder playground/data/eval/gqa/data/images --output consistency.json

prints a table (mean over the questions, standard error) and writes it as JSON with the numbers of every question. The
question file is that of ``llava.eval.model_vqa_loader``; questions without a picture are passed over. Of several
pictures the first counts, and of an anyres picture the view of the whole. What each number is: ccra_patch.metrics.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ccra_patch.markdown import markdown_table, number_cell
from ccra_patch.metrics import COLUMNS, consistency
from ccra_patch.observing import (
    add_checkpoint_arguments,
    add_question_arguments,
    checkpoint_asked,
    file_asked,
    read_items,
    require_counts,
)
from llava.errors import UserError, exit_on_user_error
from llava.eval.items import Item
from llava.eval.observe import Checkpoint, observe
from llava.eval.provenance import environment

Row = dict[str, float]  # by column
# Table 2 as published, for LLaVA-1.5-7B with CCRA.
PAPER: dict[str, Row] = {
    name: dict(zip(COLUMNS, values, strict=True))
    for name, values in {
        "F_stack": (0.218, 0.731, 0.064, 0.052, 0.173, 0.754, 0.060, 2.41),
        "F_lp": (0.147, 0.812, 0.041, 0.038, 0.119, 0.835, 0.028, 2.95),
    }.items()
}


def measure(checkpoint: Checkpoint, items: Sequence[Item], conv_mode: str, batch_size: int, workers: int) -> list[Any]:
    """One record per question: its id, and a row for each of ``F_stack``, ``LN(F_stack)`` and ``F_lp``.

    Raises UserError if the checkpoint has no LPWCA.
    """
    records = []
    for batch_items, call in observe(checkpoint, items, conv_mode, batch_size, workers):
        try:
            rows = consistency(*call)
        except ValueError as error:
            raise UserError(f"{checkpoint.path}: {error}") from error
        for index, item in enumerate(batch_items):
            numbers = {
                name: {column: getattr(row, column)[index].item() for column in COLUMNS} for name, row in rows.items()
            }
            records.append({"question_id": item.record["question_id"], **numbers})
    return records


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Mean and standard error over the questions, by row and column; None where there is no number."""
    summary: dict[str, dict[str, dict[str, float | None]]] = {}
    for name in (key for key in records[0] if key != "question_id"):
        summary[name] = {}
        for column in COLUMNS:
            values = [record[name][column] for record in records]
            error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
            cell = {"mean": fmean(values), "standard_error": error}
            summary[name][column] = {key: None if math.isnan(value) else value for key, value in cell.items()}
    return summary


def table(summary: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    """Markdown, the published rows last."""
    lines = [["", *COLUMNS.values()]]
    for name, row in summary.items():
        cells = [(row[column]["mean"], row[column]["standard_error"]) for column in COLUMNS]
        lines.append([name, *(number_cell(mean, error) for mean, error in cells)])
    lines += [[f"{name}, published", *(f"{row[column]:g}" for column in COLUMNS)] for name, row in PAPER.items()]
    return markdown_table(lines)


def analyze(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole report; also printed and written. Raises UserError for a user's mistake."""
    require_counts(arguments)
    items = read_items(arguments)
    checkpoint = Checkpoint.load(arguments.model_path, arguments.model_base)
    records = measure(checkpoint, items, arguments.conv_mode, arguments.batch_size, arguments.workers)
    summary = summarise(records)
    report = {
        "checkpoint": checkpoint_asked(arguments),
        "questions": {
            **file_asked(arguments),
            "measured": len(records),
            "without_picture": len(items) - len(records),
        },
        "layers": list(checkpoint.layers),
        "columns": COLUMNS,
        "summary": summary,
        "published": PAPER,
        "environment": environment(),
        "records": records,
    }
    print(table(summary))
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(_json_able(report), indent=1) + "\n", encoding="utf-8")
    return report


def _json_able(value: Any) -> Any:
    """NaN is no JSON."""
    if isinstance(value, dict):
        return {key: _json_able(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json_able(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccra_patch.analyze", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_checkpoint_arguments(parser, output="consistency.json")
    add_question_arguments(parser)
    return parser


@exit_on_user_error
def main() -> None:
    analyze(build_parser().parse_args())


if __name__ == "__main__":
    main()
