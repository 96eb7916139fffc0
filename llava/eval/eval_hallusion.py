"""HallusionBench: ``python -m llava.eval.eval_hallusion --annotation HallusionBench.json --result-file ...``.

Guan et al., "HallusionBench: An Advanced Diagnostic Suite for Entangled Language Hallucination and Visual Illusion in
Large Vision-Language Models" (CVPR 2024), section 4.1: aAcc is the accuracy over questions; fAcc the share of figures
whose questions are all answered right (questions of the kind VS that are asked without a figure belong to none); qAcc
the share of questions that are answered right with every figure they are asked about. A VS question without figure is
right, too, when the answer leaves it open.

By default an answer is right when it begins with the right one of yes and no, and open when it begins with neither. The
paper lets GPT-4 compare answers with ``gt_answer_details``: ``--judge`` asks a judge (:mod:`llava.eval.judge`) to do
that; its wording is this project's, as is the place for it, ``<result-file>.judged.json``.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.errors import exit_on_user_error
from llava.eval.answer_forms import yes_or_no
from llava.eval.judge import Judge
from llava.eval.records import read_answers, read_json, read_json_list, require_answers, require_keys, write_json
from llava.eval.scores import Metric, record_scores

KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id", "question", "gt_answer")
WRONG, RIGHT, OPEN = "0", "1", "2"  # the official codes
JUDGE_MODEL = "gpt-4"
REQUEST = """You mark answers like a teacher. Read the question, the reference answer and the student's answer. Reply
with one word: correct if the student's answer agrees with the reference, incorrect if it contradicts it, unclear if it
leaves the question open.

Question: {question}
Reference answer: {reference}
Student's answer: {answer}
Reply:"""


def name_of(entry: dict[str, Any], *keys: str) -> str:
    """The name of a question, or with fewer keys of what it belongs to."""
    return "_".join(str(entry[key]) for key in keys or KEYS[:5])


def read_verdict(answer: str, truth: str) -> str:
    """An answer's code, by the yes or no that it begins with."""
    decision = yes_or_no(answer)
    if decision is None:
        return OPEN
    return RIGHT if (decision == "yes") == (str(truth) == "1") else WRONG


def ask_verdict(judge: Judge, entry: dict[str, Any], answer: str) -> str:
    """An answer's code, by a judge's reply."""
    request = REQUEST.format(question=entry["question"], reference=entry["gt_answer_details"], answer=answer)
    reply = judge.ask([{"role": "user", "content": request}], temperature=0, max_tokens=8).lower()
    if "incorrect" in reply:
        return WRONG
    return RIGHT if "correct" in reply else OPEN


def judge_all(entries: dict[str, dict[str, Any]], answers: dict[str, dict[str, Any]], kept: Path) -> dict[str, str]:
    """All codes by a judge; those in ``kept`` for the same answers are not asked for again."""
    before = read_json(kept, "a file of verdicts") if kept.exists() else {}
    judge = Judge(JUDGE_MODEL)
    verdicts: dict[str, dict[str, str]] = {}
    for name, entry in tqdm(entries.items(), desc="Judging"):
        text = answers[name]["text"]
        if before.get(name, {}).get("text") == text:
            verdicts[name] = before[name]
            continue
        verdicts[name] = {"text": text, "verdict": ask_verdict(judge, entry, text)}
        write_json(kept, before | verdicts, indent=1)
    return {name: verdict["verdict"] for name, verdict in verdicts.items()}


def without_figure(entry: dict[str, Any]) -> bool:
    """Whether a VS question is asked without its figure."""
    return entry["category"] == "VS" and str(entry["figure_id"]) == "0"


def evaluate(entries: dict[str, dict[str, Any]], verdicts: dict[str, str]) -> dict[str, Metric]:
    """aAcc, fAcc and qAcc."""
    right = {
        name: verdicts[name] == RIGHT or (without_figure(entry) and verdicts[name] == OPEN)
        for name, entry in entries.items()
    }
    figures, pairs = defaultdict(list), defaultdict(list)
    for name, entry in entries.items():
        pairs[name_of(entry, "category", "subcategory", "set_id", "question_id")].append(right[name])
        if not without_figure(entry):
            figures[name_of(entry, "category", "subcategory", "set_id", "figure_id")].append(right[name])
    return {
        "hallusion_aacc": Metric.mean(right),
        "hallusion_facc": Metric.mean({figure: all(values) for figure, values in figures.items()}),
        "hallusion_qacc": Metric.mean({pair: all(values) for pair, values in pairs.items()}),
    }


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_hallusion", description="Score answers to HallusionBench.")
    parser.add_argument("--annotation", type=str, required=True, help="HallusionBench.json")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--output-file", type=str, help="the official file with model_prediction goes here")
    parser.add_argument("--judge", action="store_true", help="let a judge compare answers, as the paper does")
    args = parser.parse_args()
    listed = read_json_list(args.annotation)
    require_keys(listed, KEYS, args.annotation)
    entries = {name_of(entry): entry for entry in listed}
    answers = read_answers(args.result_file)
    require_answers(answers, entries, args.result_file)
    if args.output_file:
        official = [entry | {"model_prediction": answers[name]["text"]} for name, entry in entries.items()]
        write_json(args.output_file, official, indent=2)
    if args.judge:
        verdicts = judge_all(entries, answers, Path(f"{args.result_file}.judged.json").expanduser())
    else:
        verdicts = {name: read_verdict(answers[name]["text"], entry["gt_answer"]) for name, entry in entries.items()}
    for name, score in record_scores(args.result_file, evaluate(entries, verdicts)).items():
        print(f"{name.removeprefix('hallusion_').replace('acc', 'Acc')}: {score}")


if __name__ == "__main__":
    main()
