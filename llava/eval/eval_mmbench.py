"""MMBench's accuracies, where the table has answers: ``python -m llava.eval.eval_mmbench --annotation-file ...``.

Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?" (ECCV 2024), section 4.1. The table asks a
question several times with its options rotated, under the indices ``i``, ``i + 1,000,000``, ...; CircularEval counts it
as right when every one of them is, vanilla accuracy looks at the first alone. Answers to ``--all-rounds`` are
rotations, too.

The paper has ChatGPT find the option in an answer that does not name one; here such an answer is wrong, so that models
which do not answer with a letter score lower than on the official server, to which papers send their answers.
"""

import argparse
from collections import defaultdict
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.answer_forms import letter_of
from llava.eval.records import read_json_lines, read_table, require_keys
from llava.eval.scores import Metric, record_scores

ROTATION = 1_000_000  # what the index of a question grows by with each rotation


def evaluate(rows: list[dict[str, Any]], answers: list[dict[str, Any]], path: str) -> dict[str, Metric]:
    """Circular and vanilla accuracy. Raises UserError when the table has no answers, or other questions."""
    truths = {row["index"]: row["answer"] for row in rows if isinstance(row.get("answer"), str)}
    if not truths:
        raise UserError(f"{path} has no answers (MMBench's test split has none); send the upload file to its server")
    rounds: dict[int, dict[tuple[int, int], bool]] = defaultdict(dict)
    for answer in answers:
        index = int(answer["question_id"])
        if index not in truths:
            raise UserError(f"question {index} is not in {path}; the answers are of another question set")
        letters = answer["option_char"]
        position = letter_of(answer["text"], "ABCD"[: len(letters)])
        chosen = letters["ABCD".index(position)] if position else None
        rounds[index % ROTATION][index, answer["round_id"]] = chosen == truths[index]
    missing = {index % ROTATION for index in truths} - rounds.keys()
    if missing:
        raise UserError(f"question {min(missing)} of {path} has no answer; answer the whole table first")
    return {
        "mmbench_circular": Metric.mean({str(name): all(right.values()) for name, right in rounds.items()}),
        "mmbench_vanilla": Metric.mean({str(name): right[min(right)] for name, right in rounds.items()}),
    }


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.eval_mmbench", description="Score answers to MMBench.")
    parser.add_argument("--annotation-file", type=str, required=True, help="MMBench's table with answers (dev)")
    parser.add_argument("--result-file", type=str, required=True, help="answers, JSON Lines")
    args = parser.parse_args()
    rows = read_table(args.annotation_file, ("index", "question"))
    answers = read_json_lines(args.result_file)
    require_keys(answers, ("question_id", "round_id", "option_char", "text"), args.result_file)
    for name, score in record_scores(args.result_file, evaluate(rows, answers, args.annotation_file)).items():
        print(f"{name.removeprefix('mmbench_')} accuracy: {score}")


if __name__ == "__main__":
    main()
