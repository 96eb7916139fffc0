"""GQA's metrics: ``python -m llava.eval.eval_gqa --questions testdev_balanced_questions.json --predictions ...``.

Definitions are those of Hudson and Manning, "GQA: A New Dataset for Real-World Visual Reasoning and Compositional
Question Answering" (CVPR 2019), section 4.4, as its official evaluation reads them:

- accuracy: share of balanced questions whose prediction, in lower case, is exactly the answer. No partial credit, no
  synonyms.
- binary and open: accuracy over the questions whose structural type is not, or is, ``query``.
- by type: accuracy over each structural, semantic and detailed type, and over each number of reasoning steps, where
  the questions file has them. Steps are the operations of the question's program but those that only ask for existence
  or for a name.
- consistency: for each question answered correctly, the accuracy over the questions that its answer entails; averaged.
- validity and plausibility: share of predictions in the question's scope, and of predictions that make sense in the
  world, as the official choices file lists them.

Every share comes with its number of questions n and its standard error, sqrt(p (1 - p) / n); consistency is a mean over
questions and has that mean's.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_json, write_json
from llava.eval.scores import Metric, Score, record_scores

IDS_SHOWN = 5
NO_STEP = ("exist", "query: name", "choose name")
Questions = dict[str, dict[str, Any]]


def read_questions(path: Path) -> Questions:
    """GQA's questions by id. Raises UserError when the file is missing or is something else."""
    questions = read_json(path, "a GQA questions file")
    if not isinstance(questions, dict) or not questions:
        raise UserError(
            f"{path} holds no object of questions by id; give GQA's questions, such as testdev_balanced_questions.json"
        )
    for question_id, question in questions.items():
        if not isinstance(question, dict) or not isinstance(question.get("answer"), str):
            raise UserError(
                f"{path}, question {question_id} has no text 'answer'; questions without answers cannot be scored"
            )
        if "structural" not in (question.get("types") or {}):
            raise UserError(
                f"{path}, question {question_id} has no types.structural; binary and open questions differ by it"
            )
    return questions


def read_predictions(path: Path) -> dict[str, str]:
    """Predictions by question id. Raises UserError for a file of another form and for two answers to one question."""
    rows = read_json(path, "a GQA predictions file")
    if not isinstance(rows, list):
        raise UserError(
            f"{path} holds a JSON {type(rows).__name__}; predictions are a list of {{questionId, prediction}}"
        )
    predictions: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or "questionId" not in row or not isinstance(row.get("prediction"), str):
            raise UserError(f"{path}, entry {number} is {row!r}; every entry needs questionId and a text prediction")
        question_id, prediction = str(row["questionId"]), row["prediction"]
        if predictions.setdefault(question_id, prediction) != prediction:
            raise UserError(
                f"{path} answers question {question_id} by {predictions[question_id]!r} and {prediction!r}; keep one"
            )
    return predictions


def read_choices(path: Path) -> dict[str, dict[str, list[str]]]:
    """The official ``valid`` and ``plausible`` answers by question id."""
    return read_json(path, "a GQA choices file")


def mark(questions: Questions, predictions: dict[str, str], *, allow_missing: bool = False) -> dict[str, bool]:
    """Whether each question was answered right. Raises UserError when one was not answered, unless that is allowed."""
    missing = [question_id for question_id in questions if question_id not in predictions]
    if missing and not allow_missing:
        raise UserError(
            f"{len(missing)} of {len(questions)} questions have no prediction, first {', '.join(missing[:IDS_SHOWN])}; "
            "answer them, or count them as wrong with --allow-missing"
        )
    return {
        question_id: predictions.get(question_id, "").lower() == question["answer"]
        for question_id, question in questions.items()
    }


def evaluate(
    questions: Questions,
    predictions: dict[str, str],
    *,
    choices: dict[str, dict[str, list[str]]] | None = None,
    consistency: bool = False,
    allow_missing: bool = False,
) -> dict[str, Score]:
    """All metrics by name, in the order of the report; ``structural/query`` and the like for the types.

    Args:
        questions: as in the official file; those with ``isBalanced`` false count for consistency only.
        predictions: by question id; further ones are ignored.
        choices: gives validity and plausibility.
        consistency: needs the file of all questions, and predictions for them.
        allow_missing: count a question without prediction as wrong.

    Raises UserError when a prediction is missing, or what an optional metric needs.
    """
    scored = _balanced(questions)
    correct = mark(questions if consistency else scored, predictions, allow_missing=allow_missing)
    scores = {name: Score.of(correct[question_id] for question_id in ids) for name, ids in group(scored).items()}
    if consistency:
        scores["consistency"] = _consistency(questions, scored, correct)
    if choices is not None:
        for name, kind in (("validity", "valid"), ("plausibility", "plausible")):
            scores[name] = Score.of(_in_choices(scored, predictions, choices, kind))
    return scores


def _balanced(questions: Questions) -> Questions:
    scored = {name: question for name, question in questions.items() if question.get("isBalanced", True)}
    if not scored:
        raise UserError(
            "no question is balanced (isBalanced); accuracy is defined over balanced questions, give another file"
        )
    return scored


def group(questions: Questions) -> dict[str, list[str]]:
    """The questions of each accuracy by its name, in the order of the report."""
    groups: dict[str, list[str]] = defaultdict(list)
    for question_id, question in questions.items():
        for name in _groups(question):
            groups[name].append(question_id)
    return {name: groups[name] for name in sorted(groups, key=_report_order)}


def _groups(question: dict[str, Any]) -> list[str]:
    """The names of all accuracies that a question counts for."""
    types = question["types"]
    groups = ["accuracy", "open" if types["structural"] == "query" else "binary"]
    groups += [f"{kind}/{types[kind]}" for kind in ("structural", "semantic", "detailed") if types.get(kind)]
    if question.get("semantic"):
        program = [f"{step['operation']}: {step['argument']}" for step in question["semantic"]]
        groups.append(f"steps/{sum(not any(part in step for part in NO_STEP) for step in program)}")
    return groups


def _report_order(name: str) -> tuple[int, int, str]:
    kind, _, value = name.partition("/")
    kinds = ("accuracy", "binary", "open", "structural", "semantic", "steps", "detailed")
    return kinds.index(kind), int(value) if kind == "steps" else 0, value


def _consistency(questions: Questions, scored: Questions, correct: dict[str, bool]) -> Score:
    shares = []
    for question_id, question in scored.items():
        entailed = [other for other in question.get("entailed", []) if other != question_id]
        if not correct[question_id] or not entailed:
            continue
        absent = [other for other in entailed if other not in questions]
        if absent:
            raise UserError(
                f"question {question_id} entails {absent[0]}, which the questions file lacks; --consistency needs the "
                "file of all questions, such as testdev_all_questions.json"
            )
        shares.append(fmean(correct[other] for other in entailed))
    if not shares:
        raise UserError("no question that was answered correctly entails another; run without --consistency")
    return Score.of(shares)


def _in_choices(
    scored: Questions, predictions: dict[str, str], choices: dict[str, dict[str, list[str]]], kind: str
) -> Iterable[float]:
    for question_id in scored:
        if question_id not in choices:
            raise UserError(
                f"the choices file has no question {question_id}; it belongs to another split, check --choices"
            )
        yield float(predictions.get(question_id, "").lower() in choices[question_id][kind])


def report(scores: dict[str, Score], absent: dict[str, str], title: str, write: Callable[[str], None] = print) -> None:
    """A table of all scores, a line for each metric that could not be computed, and the accuracy last."""
    width = max(map(len, [*scores, *absent]))
    write(f"{title:<{width}}  {'%':>6}  {'s.e.':>5}  {'n':>6}")
    for name, score in scores.items():
        write(f"{name:<{width}}  {score.value:6.2f}  {score.standard_error:5.2f}  {score.n:6d}")
    for name, reason in absent.items():
        write(f"{name:<{width}}  absent: {reason}")
    write(f"Accuracy: {scores['accuracy']}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_gqa", description="Score GQA predictions.")
    parser.add_argument("--tier", default="testdev_balanced", help="split; gives the files below their default names")
    parser.add_argument("--questions", help="official questions file (default: <tier>_questions.json)")
    parser.add_argument("--predictions", help="list of questionId and prediction (default: <tier>_predictions.json)")
    parser.add_argument("--choices", help="official choices file, for validity and plausibility")
    parser.add_argument(
        "--consistency", action="store_true", help="needs all questions of the split, and their predictions"
    )
    parser.add_argument("--allow-missing", action="store_true", help="count questions without prediction as wrong")
    parser.add_argument("--json", help="write the scores, and which questions are right, here as well")
    parser.add_argument("--answers", help="answers file that the predictions come from: its provenance gets the score")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    questions = read_questions(Path(args.questions or f"{args.tier}_questions.json").expanduser())
    predictions = read_predictions(Path(args.predictions or f"{args.tier}_predictions.json").expanduser())
    choices = read_choices(Path(args.choices).expanduser()) if args.choices else None
    scores = evaluate(
        questions, predictions, choices=choices, consistency=args.consistency, allow_missing=args.allow_missing
    )

    absent = {}
    if not args.consistency:
        absent["consistency"] = "needs --consistency, with predictions for all questions of the split"
    if choices is None:
        absent |= dict.fromkeys(("validity", "plausibility"), "needs the official file of choices, --choices")
    correct = mark(_balanced(questions), predictions, allow_missing=args.allow_missing)
    surplus = len(predictions.keys() - questions.keys())
    if surplus:
        print(f"{surplus} predictions are for other questions and were ignored")
    if args.json:
        result = {
            "tier": args.tier,
            "scores": {name: asdict(score) for name, score in scores.items()},
            "absent": absent,
            "correct": correct,
            "groups": group(_balanced(questions)),
        }
        write_json(args.json, result, indent=2)
    if args.answers:
        record_scores(args.answers, {f"gqa_{args.tier}_accuracy": Metric.mean(correct)})
    report(scores, absent, args.tier)


if __name__ == "__main__":
    main()
