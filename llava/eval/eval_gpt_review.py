"""A judge compares two models' answers to questions without pictures: ``python -m llava.eval.eval_gpt_review``.

See :mod:`llava.eval.reviews` for files and :mod:`llava.eval.judge` for the judge. The output is overwritten.
"""

from llava.errors import exit_on_user_error
from llava.eval.reviews import build_parser, read_pairs, review_pairs

JUDGE_MODEL = "gpt-4"


@exit_on_user_error
def main() -> None:
    args = build_parser("Have two models' answers compared by a judge.", context=False).parse_args()
    pairs = read_pairs(
        args,
        category_of=lambda question, rules: question["category"] if question.get("category") in rules else "default",
        context_of=lambda question: None,
    )
    review_pairs(pairs, args.output, model=JUDGE_MODEL, max_tokens=args.max_tokens, resume=False)


if __name__ == "__main__":
    main()
