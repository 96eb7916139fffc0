"""TextVQA's accuracy: ``python -m llava.eval.eval_textvqa --annotation-file TextVQA_0.5.1_val.json --result-file ...``.

The accuracy is VQA's over ten answers (Singh et al., "Towards VQA Models That Can Read", CVPR 2019); see
:mod:`llava.eval.m4c_evaluator`. Questions are found again by picture and text, for answers keep the prompt.
"""

import argparse
from pathlib import Path
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.m4c_evaluator import TextVQAAccuracyEvaluator
from llava.eval.provenance import provenance_path
from llava.eval.records import read_json, read_json_lines, require_keys
from llava.eval.scores import Metric, record_scores, scores_path

METRIC = "textvqa_accuracy"
OCR_FIRST = "Reference OCR token:"


def question_of(prompt: str) -> str:
    """The question in a prompt, in lower case, whichever of upstream's three forms the prompt has.

    Raises UserError for any other form.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: ") and "Question: " in prompt and " Short answer:" in prompt:
        question = prompt.split("Question: ", 1)[1].split(" Short answer:", 1)[0]
    elif "Reference OCR token: " in prompt and len(lines) == 3:
        question = lines[1] if prompt.startswith(OCR_FIRST) else lines[0]
    elif len(lines) == 2:
        question = lines[0]
    else:
        raise UserError(f"prompt {prompt!r} has none of TextVQA's forms; answer llava_textvqa_val_v051_ocr.jsonl")
    return question.lower()


def evaluate(annotations: list[dict[str, Any]], result_file: Path) -> Metric:
    """The accuracy of one answers file. Raises UserError for an answer to a question that the annotations lack."""
    people = {(entry["image_id"], entry["question"].lower()): entry["answers"] for entry in annotations}
    answers = read_json_lines(str(result_file))
    require_keys(answers, ("question_id", "prompt", "text"), str(result_file))
    evaluator = TextVQAAccuracyEvaluator()
    values = {}
    for number, answer in enumerate(answers, start=1):
        key = (answer["question_id"], question_of(answer["prompt"]))
        if key not in people:
            raise UserError(
                f"{result_file} answers {key[1]!r} about {key[0]}, which the annotations do not ask; they are of "
                "another question set: check --annotation-file"
            )
        values[f"{number}: {key[0]} {key[1]}"] = evaluator.score(answer["text"], people[key])
    return Metric.mean(values)


def report(annotations: list[dict[str, Any]], result_file: Path) -> None:
    """Prints the accuracy of one answers file, and keeps it."""
    metric = evaluate(annotations, result_file)
    score = record_scores(result_file, {METRIC: metric})[METRIC]
    print(result_file.stem)
    print(f"Samples: {score.n}\nAccuracy: {score.value:.2f}%\n")


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_textvqa", description="Score answers to TextVQA.")
    parser.add_argument("--annotation-file", type=str, help="TextVQA's annotations, such as TextVQA_0.5.1_val.json")
    parser.add_argument("--result-file", type=str, help="answers, JSON Lines")
    parser.add_argument("--result-dir", type=str, help="score every *.jsonl of this folder")
    args = parser.parse_args()
    if not args.annotation_file or not (args.result_file or args.result_dir):
        raise UserError("--annotation-file and one of --result-file and --result-dir are needed; give them")
    annotations = read_json(args.annotation_file, "TextVQA's annotations")["data"]
    if args.result_file:
        report(annotations, Path(args.result_file).expanduser())
    if args.result_dir:
        files = sorted(Path(args.result_dir).expanduser().iterdir())
        ours = {side(file) for file in files for side in (provenance_path, scores_path)}
        for file in files:
            if file.suffix == ".jsonl":
                report(annotations, file)
            elif file not in ours:
                print(f"Skipping {file.name}")


if __name__ == "__main__":
    main()
