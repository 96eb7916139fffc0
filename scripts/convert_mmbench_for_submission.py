"""Answers to MMBench -> the table that its server takes: the benchmark's own, without pictures, with ``prediction``."""

import argparse
from pathlib import Path

from llava.errors import exit_on_user_error
from llava.eval.extras import import_extra
from llava.eval.records import read_json_lines, read_table, require_keys

DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_COLUMN = 6


def convert(annotation_file: str, result_dir: str, upload_dir: str, experiment: str) -> None:
    """Writes ``<upload_dir>/<experiment>.xlsx``. Raises UserError for missing files and for damaged ones."""
    pandas = import_extra("pandas", "MMBench's tables are")
    forbidden = import_extra("openpyxl.cell.cell", "xlsx files are").ILLEGAL_CHARACTERS_RE
    result_file = Path(result_dir).expanduser() / f"{experiment}.jsonl"
    answers = read_json_lines(str(result_file))
    require_keys(answers, ("question_id", "text"), str(result_file))
    predictions = {int(answer["question_id"]): forbidden.sub("", answer["text"]) for answer in answers}

    table = pandas.DataFrame(read_table(annotation_file, ("index",))).drop(columns=list(DROPPED), errors="ignore")
    place = min(PREDICTION_COLUMN, len(table.columns))
    table.insert(place, "prediction", table["index"].map(predictions))
    upload = Path(upload_dir).expanduser()
    upload.mkdir(parents=True, exist_ok=True)
    table.to_excel(upload / f"{experiment}.xlsx", index=False, engine="openpyxl")


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn answers to MMBench into its upload file.")
    parser.add_argument("--annotation-file", type=str, required=True, help="MMBench's table")
    parser.add_argument("--result-dir", type=str, required=True, help="folder of <experiment>.jsonl")
    parser.add_argument("--upload-dir", type=str, required=True, help="folder for <experiment>.xlsx")
    parser.add_argument("--experiment", type=str, required=True, help="name of both files")
    args = parser.parse_args()
    convert(args.annotation_file, args.result_dir, args.upload_dir, args.experiment)


if __name__ == "__main__":
    main()
