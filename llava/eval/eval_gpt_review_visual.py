"""A judge compares answers about pictures by captions and boxes: ``python -m llava.eval.eval_gpt_review_visual``.

See :mod:`llava.eval.reviews` for files and :mod:`llava.eval.judge` for the judge. The context file has ``image``,
``captions`` and ``instances`` (``category``, ``bbox``). Reviews that the output holds are kept.
"""

from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_json_lines, require_keys
from llava.eval.reviews import build_parser, read_pairs, review_pairs

JUDGE_MODEL = "gpt-4-0314"


def describe(entry: dict[str, Any]) -> str:
    """The captions, and after a blank line the boxes."""
    boxes = "\n".join(f"{instance['category']}: {instance['bbox']}" for instance in entry["instances"])
    return "\n".join(entry["captions"]) + f"\n\n{boxes}"


def contexts_by_image(path: str, *keys: str) -> dict[str, dict[str, Any]]:
    """The context file by picture. Raises UserError when a record lacks one of ``keys``."""
    entries = read_json_lines(path)
    require_keys(entries, ("image", *keys), path)
    return {entry["image"]: entry for entry in entries}


def context_for(question: dict[str, Any], contexts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry of a question's picture. Raises UserError when there is none."""
    if question.get("image") not in contexts:
        raise UserError(
            f"question {question['question_id']} is about {question.get('image')!r}, which --context does not "
            "describe; give the context of these questions"
        )
    return contexts[question["image"]]


@exit_on_user_error
def main() -> None:
    args = build_parser("Have answers about pictures compared by a judge.", context=True).parse_args()
    contexts = contexts_by_image(args.context, "captions", "instances")
    pairs = read_pairs(
        args,
        category_of=lambda question, rules: str(question.get("category")),
        context_of=lambda question: describe(context_for(question, contexts)),
    )
    review_pairs(pairs, args.output, model=JUDGE_MODEL, max_tokens=args.max_tokens, resume=True)


if __name__ == "__main__":
    main()
