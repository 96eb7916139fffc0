"""AMBER: ``python -m llava.eval.eval_amber --annotation annotations.json --result-file ...``.

Wang et al., "AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination Evaluation" (2023), section 3.4:

- discriminative questions: accuracy, and precision, recall and F1 of the answer No, which is what says that a
  hallucination was seen through; over all, and for existence, attribute and relation.
- descriptions: CHAIR, the share of the objects mentioned that are not in the picture; Cover, the share of the picture's
  objects mentioned; Hal, the share of descriptions with a hallucination; Cog, the share of likely hallucinations that
  came true. AMBER score = (100 - CHAIR + F1) / 2.

Objects are nouns of AMBER's own vocabulary (``relation.json``), found with NLTK; words mean the same when spaCy's
vectors are more similar than 0.8. Both need data that does not come with pip; without it, the description metrics are
absent and the command says so. The official program adds 0.001 to denominators and rounds precision and recall before
it takes F1; here nothing is rounded on the way. An answer is Yes or No when it begins with that word; anything else is
wrong.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.errors import UserError, exit_on_user_error
from llava.eval.amber_objects import Description, Vocabulary, describe, load_words
from llava.eval.answer_forms import yes_or_no
from llava.eval.records import read_answers, read_json, read_json_list, require_keys, write_json
from llava.eval.scores import Metric, record_scores

GENERATIVE = "generative"


def score_descriptions(descriptions: dict[str, Description]) -> dict[str, Metric]:
    """CHAIR, Cover, Hal and Cog."""

    def ratio(part: Callable[[Description], float], whole: Callable[[Description], float]) -> Metric:
        return Metric({"": {name: (part(found), whole(found)) for name, found in descriptions.items()}})

    return {
        "amber_chair": ratio(lambda found: found.hallucinated, lambda found: found.mentioned),
        "amber_cover": ratio(lambda found: found.covered, lambda found: found.present),
        "amber_hal": ratio(lambda found: found.hallucinated > 0, lambda found: 1),
        "amber_cog": ratio(lambda found: found.expected, lambda found: found.likely),
    }


def dimension_of(kind: str) -> str:
    """The dimension that a type of discriminative question belongs to."""
    if kind == "discriminative-hallucination":
        return "existence"
    return "attribute" if kind.startswith("discriminative-attribute") else "relation"


def score_decisions(questions: dict[str, tuple[str, str, str | None]]) -> dict[str, Metric]:
    """Accuracy, precision, recall and F1 of No, over (type, truth, answer) by question; and per dimension."""
    metrics: dict[str, Metric] = {}
    for dimension in ("", "existence", "attribute", "relation"):
        chosen = {
            name: (truth, answer)
            for name, (kind, truth, answer) in questions.items()
            if dimension in ("", dimension_of(kind))
        }
        if not chosen:
            continue
        prefix = f"amber_{dimension}_" if dimension else "amber_"
        no = {name: (answer == "no", truth == "no") for name, (truth, answer) in chosen.items()}
        both = {name: float(said and meant) for name, (said, meant) in no.items()}
        metrics |= {
            f"{prefix}accuracy": Metric.mean({name: truth == answer for name, (truth, answer) in chosen.items()}),
            f"{prefix}precision": Metric({"": {name: (both[name], float(no[name][0])) for name in no}}),
            f"{prefix}recall": Metric({"": {name: (both[name], float(no[name][1])) for name in no}}),
            f"{prefix}f1": Metric.f1({"": no}),
        }
    return metrics


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_amber", description="Score answers to AMBER.")
    parser.add_argument("--annotation", type=str, required=True, help="AMBER's annotations.json")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    parser.add_argument("--word-association", type=str, help="AMBER's relation.json, for descriptions")
    parser.add_argument("--safe-words", type=str, help="AMBER's safe_words.txt, for descriptions")
    parser.add_argument("--output-file", type=str, help="the responses in the official format go here")
    args = parser.parse_args()
    annotations = read_json_list(args.annotation)
    require_keys(annotations, ("id", "type", "truth"), args.annotation)
    answers = read_answers(args.result_file)
    asked = {str(entry["id"]): entry for entry in annotations if str(entry["id"]) in answers}
    unknown = answers.keys() - asked.keys()
    if unknown:
        raise UserError(
            f"{args.result_file} answers {sorted(unknown)[0]}, which {args.annotation} does not have; the answers "
            "are of another question set"
        )
    decisions = {
        name: (entry["type"], entry["truth"], yes_or_no(answers[name]["text"]))
        for name, entry in asked.items()
        if entry["type"] != GENERATIVE
    }
    descriptions = {name: entry for name, entry in asked.items() if entry["type"] == GENERATIVE}
    if args.output_file:
        responses = [
            {"id": entry["id"], "response": _official(entry["type"], answers[name]["text"])}
            for name, entry in asked.items()
        ]
        write_json(args.output_file, responses, indent=2)

    metrics = score_decisions(decisions)
    absent = "no description was answered"
    if descriptions:
        try:
            metrics |= score_descriptions(_describe_all(descriptions, answers, args.word_association, args.safe_words))
        except UserError as error:
            absent = str(error)
    scores = record_scores(args.result_file, metrics)
    for name, score in scores.items():
        print(f"{name.removeprefix('amber_'):<22} {score}")
    if "amber_chair" not in scores:
        print(f"CHAIR, Cover, Hal, Cog and the AMBER score are absent: {absent}")
    elif "amber_f1" in scores:
        print(f"AMBER score: {(100 - scores['amber_chair'].value + scores['amber_f1'].value) / 2:.2f}")


def _official(kind: str, text: str) -> str:
    decision = yes_or_no(text)
    return text if kind == GENERATIVE or decision is None else decision.capitalize()


def _describe_all(
    entries: dict[str, dict[str, Any]], answers: dict[str, dict[str, Any]], relation: str | None, safe: str | None
) -> dict[str, Description]:
    if relation is None or safe is None:
        raise UserError("--word-association and --safe-words are needed for descriptions; give AMBER's files")
    safe_words = frozenset(Path(safe).expanduser().read_text(encoding="utf-8").splitlines())
    vocabulary = Vocabulary(read_json(relation, "AMBER's relation.json"), safe_words)
    words = load_words()
    return {
        name: describe(answers[name]["text"], entry["truth"], entry["hallu"], vocabulary, words)
        for name, entry in tqdm(entries.items(), desc="Descriptions")
    }


if __name__ == "__main__":
    main()
