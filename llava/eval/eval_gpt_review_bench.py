"""A judge compares answers to LLaVA-Bench by captions: ``python -m llava.eval.eval_gpt_review_bench``.

See :mod:`llava.eval.reviews` for files and :mod:`llava.eval.judge` for the judge. The context file has ``image`` and
``caption``, a text or a list of texts. Reviews that the output holds are kept.
"""

from typing import Any

from llava.errors import exit_on_user_error
from llava.eval.eval_gpt_review_visual import JUDGE_MODEL, context_for, contexts_by_image
from llava.eval.reviews import build_parser, read_pairs, review_pairs


def caption_of(entry: dict[str, Any]) -> str:
    """The caption, one line for each text."""
    caption = entry["caption"]
    return "\n".join(caption) if isinstance(caption, list) else caption


@exit_on_user_error
def main() -> None:
    args = build_parser("Have answers to LLaVA-Bench compared by a judge.", context=True).parse_args()
    contexts = contexts_by_image(args.context, "caption")
    pairs = read_pairs(
        args,
        category_of=lambda question, rules: f"llava_bench_{question.get('category')}",
        context_of=lambda question: caption_of(context_for(question, contexts)),
    )
    review_pairs(pairs, args.output, model=JUDGE_MODEL, max_tokens=args.max_tokens, resume=True)


if __name__ == "__main__":
    main()
