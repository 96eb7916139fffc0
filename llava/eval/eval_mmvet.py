"""MM-Vet: ``python -m llava.eval.eval_mmvet --annotation mm-vet.json --prediction results/NAME.json --answers ...``.

Yu et al., "MM-Vet: Evaluating Large Multimodal Models for Integrated Capabilities" (ICML 2024), section 3.3: a judge
gives every answer a mark from 0.0 to 1.0 by a prompt with worked examples; the score is the mean mark in percent, over
all questions and over those that need a capability. ``<AND>`` in the truth joins elements that are all needed, ``<OR>``
those of which one is enough.

A judge is needed (:mod:`llava.eval.judge`); the official one is gpt-4-0613, asked at temperature 0. Marks depend on the
prompt, and this one is the project's own: for official figures give MM-Vet's own prompt as ``--prompt-file``, or use
its notebook. Marks are kept beside the predictions as ``<name>.graded.json`` and not asked for again.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.errors import UserError, exit_on_user_error
from llava.eval.judge import Judge
from llava.eval.records import read_json, require_answers, write_json
from llava.eval.scores import Metric, record_scores

JUDGE_MODEL = "gpt-4-0613"
TRIES = 5  # at a reply that is no mark
PROMPT_FILE = Path(__file__).parent / "table" / "mmvet_prompt.txt"
MARK = re.compile(r"\s*(0(?:\.\d+)?|1(?:\.0+)?)\b")


def request(prompt: str, question: str, truth: str, answer: str) -> str:
    """The prompt with one more line for the judge to finish."""
    truth = truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{prompt.rstrip()}\n{' | '.join([question, truth, answer, ''])}"


def ask_mark(judge: Judge, text: str, name: str) -> float:
    """The judge's mark. Raises UserError when none of its replies is one."""
    replies = []
    for attempt in range(TRIES):
        messages = [
            {"role": "user", "content": text if not attempt else f"{text}\nThe mark, as a number from 0.0 to 1.0: "}
        ]
        replies.append(judge.ask(messages, temperature=0.5 * attempt, max_tokens=5))
        match = MARK.match(replies[-1])
        if match:
            return float(match[1])
    raise UserError(f"{judge.model} gave no mark for {name} in {TRIES} tries, last {replies[-1]!r}; use another judge")


def grade(questions: dict[str, dict[str, Any]], answers: dict[str, str], prompt: str, kept: Path) -> dict[str, float]:
    """All marks; those in ``kept`` for the same judge and request are not asked for again."""
    before = read_json(kept, "a file of marks") if kept.exists() else {}
    judge = Judge(JUDGE_MODEL)
    marks: dict[str, dict[str, Any]] = {}
    for name, question in tqdm(questions.items(), desc="Judging"):
        text = request(prompt, question["question"], question["answer"], answers[name])
        asked = {"judge": judge.model, "request": text.splitlines()[-1]}
        if before.get(name, {}) | asked != before.get(name):
            before[name] = asked | {"mark": ask_mark(judge, text, name)}
            write_json(kept, before, indent=1)
        marks[name] = before[name]
    return {name: entry["mark"] for name, entry in marks.items()}


def evaluate(questions: dict[str, dict[str, Any]], marks: dict[str, float]) -> dict[str, Metric]:
    """The mean mark over all questions, then over those of each capability."""
    by_capability: dict[str, dict[str, float]] = defaultdict(dict)
    for name, question in questions.items():
        for capability in question["capability"]:
            by_capability[capability][name] = marks[name]
    capabilities = {f"mmvet_{name}": Metric.mean(values) for name, values in sorted(by_capability.items())}
    return {"mmvet_total": Metric.mean(marks)} | capabilities


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_mmvet", description="Have answers to MM-Vet marked.")
    parser.add_argument("--annotation", type=str, required=True, help="MM-Vet's mm-vet.json")
    parser.add_argument("--prediction", type=str, required=True, help="converted answers, by v1_<question>")
    parser.add_argument("--answers", type=str, required=True, help="the answers file, which gets the score")
    parser.add_argument("--prompt-file", type=str, default=str(PROMPT_FILE), help="what the judge reads before a line")
    args = parser.parse_args()
    questions = read_json(args.annotation, "MM-Vet's questions")
    predictions = read_json(args.prediction, "the converted answers to MM-Vet")
    require_answers(predictions, questions, args.prediction)
    prediction = Path(args.prediction).expanduser()
    prompt = Path(args.prompt_file).expanduser().read_text(encoding="utf-8")
    marks = grade(questions, predictions, prompt, prediction.with_suffix(".graded.json"))
    for name, score in record_scores(args.answers, evaluate(questions, marks)).items():
        print(f"{name.removeprefix('mmvet_'):<10} {score}")


if __name__ == "__main__":
    main()
