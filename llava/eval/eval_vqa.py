"""VQA accuracy where ten people's answers are at hand: ``python -m llava.eval.eval_vqa --annotation-file ...``.

For VQAv2 (Goyal et al., CVPR 2017) and VizWiz (Gurari et al., CVPR 2018); both papers' test answers are known to their
servers alone, so this is for the validation splits. The accuracy is that of :mod:`llava.eval.m4c_evaluator`.
Annotations are VQAv2's ``{"annotations": [{"question_id", "answers": [{"answer"}]}]}`` or VizWiz's list of ``{"image",
"answers"}``, where the picture's name is the question's.
"""

import argparse
from pathlib import Path
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.m4c_evaluator import TextVQAAccuracyEvaluator
from llava.eval.records import read_answers, read_json, require_keys
from llava.eval.scores import Metric, record_scores


def read_people(path: str) -> dict[str, list[str]]:
    """Ten answers by question. Raises UserError for a file of another form."""
    content: Any = read_json(path, "annotations of VQAv2 or VizWiz")
    entries, key = (content["annotations"], "question_id") if "annotations" in content else (content, "image")
    require_keys(entries, (key, "answers"), path)
    return {str(entry[key]): [answer["answer"] for answer in entry["answers"]] for entry in entries}


def evaluate(answers: dict[str, dict[str, Any]], people: dict[str, list[str]], path: str) -> Metric:
    """The mean accuracy of all answers. Raises UserError when a question is not annotated."""
    unknown = sorted(answers.keys() - people.keys())
    if unknown:
        raise UserError(f"{path} does not have question {unknown[0]}; the answers are of another question set")
    evaluator = TextVQAAccuracyEvaluator()
    return Metric.mean({name: evaluator.score(answer["text"], people[name]) for name, answer in answers.items()})


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_vqa", description="Score answers to VQAv2 or VizWiz.")
    parser.add_argument("--annotation-file", type=str, required=True, help="the split's answers of ten people")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    args = parser.parse_args()
    answers = read_answers(args.result_file)
    metric = evaluate(answers, read_people(args.annotation_file), args.annotation_file)
    print(f"{Path(args.result_file).stem}: {record_scores(args.result_file, {'vqa_accuracy': metric})['vqa_accuracy']}")


if __name__ == "__main__":
    main()
