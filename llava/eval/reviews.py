"""Reviews of pairs of answers by a judge, which the three ``eval_gpt_review*`` commands share.

A rule file says for every category who the answers' authors are called and what the judge is asked to do; the judge's
first line must hold two scores. Each review is a line with ``id`` (from 1), ``question_id``, ``answer1_id``,
``answer2_id``, ``category``, ``content`` and ``tuple``, the two scores.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.errors import UserError
from llava.eval.judge import Judge
from llava.eval.records import read_json, read_json_lines, require_keys

TEMPERATURE = 0.2
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
NO_SCORES = [-1, -1]
Record = dict[str, Any]


def build_parser(description: str, *, context: bool) -> argparse.ArgumentParser:
    """The flags that the commands share; ``context`` adds the one for what a picture shows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-q", "--question", required=True, help="questions, JSON Lines")
    if context:
        parser.add_argument("-c", "--context", required=True, help="what the pictures show, JSON Lines")
    parser.add_argument("-a", "--answer-list", nargs=2, required=True, help="two answers files, the reference first")
    parser.add_argument("-r", "--rule", required=True, help="what the judge is asked, by category")
    parser.add_argument("-o", "--output", required=True, help="where the reviews go, JSON Lines")
    parser.add_argument("--max-tokens", type=int, default=1024, help="of a review (default: 1024)")
    return parser


@dataclass(frozen=True)
class Pair:
    """A question with both answers and what the judge is told."""

    question: Record
    answers: tuple[Record, Record]
    category: str
    rule: Record
    context: str | None

    def messages(self) -> list[dict[str, str]]:
        """The chat to send."""
        role = self.rule["role"]
        parts = [] if self.context is None else [f"[Context]\n{self.context}\n\n"]
        parts.append(f"[Question]\n{self.question['text']}\n\n")
        parts += [
            f"[{role} {place}]\n{answer['text']}\n\n[End of {role} {place}]\n\n"
            for place, answer in enumerate(self.answers, start=1)
        ]
        parts.append(f"[System]\n{self.rule['prompt']}\n\n")
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "".join(parts)}]


def parse_scores(review: str) -> list[float]:
    """The two scores in a review's first line; [-1, -1], with a notice, when it is anything else."""
    words = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        scores = [float(word) for word in words]
    except ValueError:
        scores = []
    if len(scores) != 2:
        print(f"error: no two scores in {review!r}")
        return list(NO_SCORES)
    return scores


def read_pairs(
    args: argparse.Namespace, category_of: Callable[[Record, Record], str], context_of: Callable[[Record], str | None]
) -> list[Pair]:
    """Questions and answers, put together line by line.

    ``category_of`` names a question's entry in the rules, which are its second argument. Raises UserError when files
    have different lengths, or the rules lack a category.
    """
    questions = read_json_lines(args.question)
    require_keys(questions, ("question_id", "text"), args.question)
    sides = [read_json_lines(path) for path in args.answer_list]
    for side, path in zip(sides, args.answer_list, strict=True):
        require_keys(side, ("text",), path)
        if len(side) != len(questions):
            raise UserError(f"{path} has {len(side)} answers to {len(questions)} questions; they must be as many")
    rules = read_json(args.rule, "the judge's rules by category")
    pairs = []
    for question, *answers in zip(questions, *sides, strict=True):
        category = category_of(question, rules)
        if category not in rules:
            raise UserError(f"{args.rule} has no rule {category!r}; it has {', '.join(rules)}")
        pairs.append(Pair(question, (answers[0], answers[1]), category, rules[category], context_of(question)))
    return pairs


def review_pairs(pairs: list[Pair], output: str, *, model: str, max_tokens: int, resume: bool) -> None:
    """Has all pairs judged, and writes each review at once; with ``resume`` those in ``output`` are kept.

    Raises UserError when there is no judge, or ``output`` holds reviews of other questions.
    """
    judge = Judge(model)
    path = Path(output).expanduser()
    done = read_json_lines(output) if resume and path.exists() and path.stat().st_size else []
    asked = [pair.question["question_id"] for pair in pairs]
    reviewed = [review["question_id"] for review in done]
    if reviewed != asked[: len(reviewed)]:
        raise UserError(f"{path} holds reviews of other questions; choose another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if resume else "w", encoding="utf-8") as file:
        for number, pair in enumerate(tqdm(pairs[len(done) :], desc="Reviewing"), start=len(done) + 1):
            content = judge.ask(pair.messages(), temperature=TEMPERATURE, max_tokens=max_tokens)
            review = {
                "id": number,
                "question_id": pair.question["question_id"],
                "answer1_id": pair.answers[0].get("answer_id", pair.answers[0].get("question_id")),
                "answer2_id": pair.answers[1].get("answer_id", pair.answers[1].get("question_id")),
                "category": pair.category,
                "content": content,
                "tuple": parse_scores(content),
            }
            file.write(json.dumps(review) + "\n")
            file.flush()
