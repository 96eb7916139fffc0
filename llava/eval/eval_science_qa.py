"""ScienceQA: ``python -m llava.eval.eval_science_qa --base-dir scienceqa --result-file ... --output-file ...``.

Accuracy over a split's problems (Lu et al., "Learn to Explain", NeurIPS 2022), and over those with a picture, which is
what papers call SQA-IMG. A problem without an answer, or with one that gives no option, is wrong.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_answers, read_json, write_json
from llava.eval.scores import Metric, record_scores

FAILED = "FAILED"
SENTENCE = re.compile(r"The answer is ([A-Z]).")
DEFAULT_OPTIONS = ["A", "B", "C", "D", "E"]


def letter_in_sentence(text: str) -> str:
    """The letter in the only ``The answer is X.``, any mark at its end; FAILED when there is none, or several."""
    letters = SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else FAILED


def parse_answer(text: str, options: Sequence[str]) -> str:
    """The letter an answer gives: alone, as ``X. ...``, or in ``The answer is X.``; else FAILED."""
    if text in options:
        return text
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    return letter_in_sentence(text)


def option_index(letter: str, choices: Sequence[str], options: Sequence[str]) -> int:
    """The place of a letter among a problem's choices; -1 when it is none of them."""
    letters = list(options[: len(choices)])
    return letters.index(letter) if letter in letters else -1


def read_split(base_dir: str, split: str) -> dict[str, dict[str, Any]]:
    """The problems of a split by id. Raises UserError for missing files, split or problems."""
    folder = Path(base_dir).expanduser()
    splits = read_json(folder / "pid_splits.json", "ScienceQA's splits")
    problems = read_json(folder / "problems.json", "ScienceQA's problems")
    if split not in splits:
        raise UserError(f"{folder / 'pid_splits.json'} has no split {split!r}; it has {', '.join(splits)}")
    missing = [name for name in splits[split] if name not in problems]
    if missing:
        raise UserError(f"{folder / 'problems.json'} lacks problem {missing[0]} of split {split}; get the file again")
    return {name: problems[name] for name in splits[split]}


@dataclass(frozen=True)
class Judged:
    """One problem's answer beside the truth."""

    name: str
    prompt: str
    text: str
    letter: str
    index: int
    truth: int

    @property
    def correct(self) -> bool:
        return self.index == self.truth

    @property
    def multimodal(self) -> bool:
        return DEFAULT_IMAGE_TOKEN in self.prompt

    def analysis(self, options: Sequence[str]) -> dict[str, Any]:
        """As the output file lists it."""
        return {
            "question_id": self.name,
            "parsed_ans": self.letter,
            "ground_truth": options[self.truth],
            "question": self.prompt,
            "pred": self.text,
            "is_multimodal": self.multimodal,
        }


def judge(
    problems: dict[str, dict[str, Any]], answers: dict[str, dict[str, Any]], options: Sequence[str]
) -> list[Judged]:
    """All problems with their answers."""
    judged = []
    for name, problem in problems.items():
        answer = answers.get(name, {"text": FAILED, "prompt": "Unknown"})
        letter = parse_answer(answer["text"], options)
        index = option_index(letter, problem["choices"], options)
        judged.append(Judged(name, answer.get("prompt", ""), answer["text"], letter, index, problem["answer"]))
    return judged


def percent(correct: int, total: int) -> float:
    """A share in percent; not a number when there is nothing to take a share of."""
    return 100 * correct / total if total else float("nan")


def summarise(results: dict[str, int], outputs: dict[str, str], correct: int) -> dict[str, Any]:
    """What the result file holds."""
    return {
        "acc": percent(correct, len(results)),
        "correct": correct,
        "count": len(results),
        "results": results,
        "outputs": outputs,
    }


def split_flags(description: str, *required: str) -> argparse.ArgumentParser:
    """The flags that all ScienceQA scores share, and those of one of them, each needed."""
    parser = argparse.ArgumentParser(description=description)
    for flag in ("--base-dir", *required):
        parser.add_argument(flag, type=str, required=True)
    parser.add_argument("--split", type=str, default="test")
    parser.add_argument("--options", type=list, default=DEFAULT_OPTIONS, help="the letters, such as ABCDE")
    return parser


@exit_on_user_error
def main() -> None:
    args = split_flags("Score answers to ScienceQA.", "--result-file", "--output-file", "--output-result").parse_args()
    problems = read_split(args.base_dir, args.split)
    answers = read_answers(args.result_file)
    if not answers.keys() & problems.keys():
        raise UserError(f"{args.result_file} answers no problem of split {args.split}; it is of another question set")
    judged = judge(problems, answers, args.options)

    right = [problem for problem in judged if problem.correct]
    pictured = [problem for problem in judged if problem.multimodal]
    right_pictured = sum(problem.multimodal for problem in right)
    print(
        f"Total: {len(judged)}, Correct: {len(right)}, Accuracy: {percent(len(right), len(judged)):.2f}%, "
        f"IMG-Accuracy: {percent(right_pictured, len(pictured)):.2f}%"
    )
    lists = {
        "correct": [problem.analysis(args.options) for problem in right],
        "incorrect": [problem.analysis(args.options) for problem in judged if not problem.correct],
    }
    write_json(args.output_file, lists, indent=2)
    results = {problem.name: problem.index for problem in judged}
    outputs = {problem.name: problem.text for problem in judged}
    write_json(args.output_result, summarise(results, outputs, len(right)), indent=2)
    metrics = {"sqa_accuracy": Metric.mean({problem.name: problem.correct for problem in judged})}
    if pictured:
        metrics["sqa_image_accuracy"] = Metric.mean({problem.name: problem.correct for problem in pictured})
    record_scores(args.result_file, metrics)


if __name__ == "__main__":
    main()
