"""MME: ``python -m llava.eval.eval_mme --data-dir MME_Benchmark_release_version --result-file ...``.

Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models" (2023), section 2.3: each
picture has two yes-or-no questions; a subtask's score is accuracy over questions plus accuracy+ over pictures (both
right), each in percent; perception is the sum of ten subtasks (at most 2000), cognition that of four (at most 800). As
in the official calculation, an answer is the word yes or no alone, or else whichever of them, yes first, is found
within its first four characters, all in lower case; anything else is wrong.

Answers are those to LLaVA's ``llava_mme.jsonl``: the first part of a ``question_id`` is the subtask, the last one the
picture's file. The truth is read from the benchmark's own folders, where ``<picture>.txt`` holds a question, a tab and
Yes or No in each line. With ``--output-dir``, the official files are written too, one per subtask with the lines
``picture, question, truth, answer``.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_json_lines, require_keys
from llava.eval.scores import Metric, Score, record_scores

PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
KINDS = {"mme_perception": PERCEPTION, "mme_cognition": COGNITION, "mme_total": [*PERCEPTION, *COGNITION]}
FORMAT_REQUEST = "Please answer yes or no."


@dataclass(frozen=True)
class Row:
    """One question with its truth and its answer."""

    subtask: str
    picture: str
    question: str
    truth: str
    answer: str

    @property
    def correct(self) -> bool:
        return read_decision(self.answer) == self.truth.lower()


def read_decision(answer: str) -> str:
    """yes, no or other, by the official rule."""
    text = answer.lower()
    if text in ("yes", "no"):
        return text
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def read_truth(data_dir: Path, subtask: str, picture: str) -> dict[str, str]:
    """Yes or No by question for one picture. Raises UserError when its file is missing."""
    name = PurePosixPath(picture).stem + ".txt"
    places = [data_dir / subtask / name, data_dir / subtask / "questions_answers_YN" / name]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"{places[0]} is not there; --data-dir must be MME's release with its subtask folders")
    lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if any(len(line) != 2 for line in lines):
        raise UserError(f"{file} has a line that is not a question, a tab and its answer; get MME's release again")
    return {question.strip(): truth.strip() for question, truth in lines}


def match_answers(answers: list[dict[str, Any]], data_dir: Path) -> list[Row]:
    """Every answer with its truth, found by subtask, picture and question.

    Raises UserError when a question is not the benchmark's.
    """
    rows = []
    for answer in answers:
        place = PurePosixPath(str(answer["question_id"]))
        subtask, picture = place.parts[0], place.name
        truths = read_truth(data_dir, subtask, picture)
        asked = [
            question
            for question in truths
            if answer["prompt"].startswith(question.removesuffix(FORMAT_REQUEST).strip())
        ]
        if len(asked) != 1:
            raise UserError(
                f"question {answer['question_id']!r} asks {answer['prompt']!r}, which is not one of MME's for that "
                "picture; the answers are of another question set"
            )
        rows.append(Row(subtask, picture, asked[0], truths[asked[0]], answer["text"]))
    return rows


def evaluate(rows: Iterable[Row]) -> dict[str, Metric]:
    """Perception, cognition and their total, as far as their subtasks were answered in full.

    Raises UserError for an unknown subtask or for a picture without exactly two answers.
    """
    pictures: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.subtask not in KINDS["mme_total"]:
            raise UserError(f"subtask {row.subtask!r} is not one of MME's: {', '.join(KINDS['mme_total'])}")
        pictures[row.subtask][row.picture].append(row.correct)
    units = {}
    for subtask, decisions in pictures.items():
        for picture, correct in decisions.items():
            if len(correct) != 2:
                raise UserError(f"{subtask}/{picture} has {len(correct)} answers; MME asks two questions a picture")
        units[subtask] = {picture: (sum(correct) / 2 + all(correct), 1.0) for picture, correct in decisions.items()}
    return {
        name: Metric({subtask: units[subtask] for subtask in subtasks}, total=True)
        for name, subtasks in KINDS.items()
        if all(subtask in units for subtask in subtasks)
    }


def write_official(rows: Iterable[Row], folder: Path) -> None:
    """The files that MME's own calculation reads: ``<subtask>.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = defaultdict(list)
    for row in rows:
        answer = " ".join(row.answer.split())
        files[row.subtask].append("\t".join((row.picture, row.question, row.truth, answer)) + "\n")
    for subtask, lines in files.items():
        (folder / f"{subtask}.txt").write_text("".join(lines), encoding="utf-8")


def report(scores: dict[str, Score], metrics: dict[str, Metric]) -> None:
    """A block for each kind with its subtasks."""
    for name, metric in metrics.items():
        if name == "mme_total":
            continue
        print(f"=========== {name.removeprefix('mme_').title()} ===========")
        print(f"total score: {scores[name].value:.4f} ± {scores[name].standard_error:.4f}\n")
        for subtask, units in metric.groups.items():
            print(f"\t {subtask}  score: {Metric({subtask: units}).score().value:.4f}")
        print()


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_mme", description="Score answers to MME.")
    parser.add_argument("--data-dir", type=str, required=True, help="MME_Benchmark_release_version")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--output-dir", type=str, help="folder for the official files, one per subtask")
    args = parser.parse_args()
    answers = read_json_lines(args.result_file)
    require_keys(answers, ("question_id", "prompt", "text"), args.result_file)
    rows = match_answers(answers, Path(args.data_dir).expanduser())
    metrics = evaluate(rows)
    if not metrics:
        raise UserError(f"{args.result_file} answers neither all of perception nor all of cognition; answer all of MME")
    if args.output_dir:
        write_official(rows, Path(args.output_dir).expanduser())
    report(record_scores(args.result_file, metrics), metrics)


if __name__ == "__main__":
    main()
