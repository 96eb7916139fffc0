"""The scores in files of reviews: ``python -m llava.eval.summarize_gpt_review -f reviews.jsonl``.

For every category and for all of it: the second model's mean score in percent of the first's, then both means times
ten. Reviews without two scores are left out, and counted in a notice.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_json_lines, require_keys
from llava.eval.reviews import NO_SCORES
from llava.eval.scores import Metric, record_scores

RULE = "=" * 33
PREFIXES = ("gpt4_text", "reviews_", "review_")


def version_of(name: str) -> str:
    """Which GPT-4 reviewed, by the file's name."""
    return "0613" if "0613" in name else "0314"


def find_files(folder: Path) -> list[Path]:
    """The review files of a folder: all ``.jsonl`` if it is called after reviews, else those whose name begins so."""
    files = sorted(file for file in folder.iterdir() if file.suffix == ".jsonl")
    return [file for file in files if "review" in folder.name or file.name.startswith(PREFIXES)]


def summarise(file: Path, ignored: Sequence[str]) -> None:
    """Prints one file's block, and keeps its scores for :mod:`llava.eval.compare`."""
    reviews = read_json_lines(str(file))
    require_keys(reviews, ("question_id", "tuple"), str(file))
    reviews = [review for review in reviews if str(review["question_id"]) not in ignored]
    scored = [review for review in reviews if review["tuple"] != NO_SCORES]
    if not scored:
        raise UserError(f"{file} has no review with two scores; have the answers reviewed again")
    pairs: dict[str, list[list[float]]] = defaultdict(list)
    for review in scored:
        for category in {review.get("category", "all"), "all"}:
            pairs[category].append(review["tuple"])

    print(file.name.removeprefix("gpt4_text_").removesuffix(".jsonl"))
    if len(scored) < len(reviews):
        print(f"{len(reviews) - len(scored)} of {len(reviews)} reviews have no scores and are left out")
    for category in sorted(pairs):
        first, second = (round(fmean(side), 3) for side in zip(*pairs[category], strict=True))
        print(category, f"{100 * second / first:.1f}", f"{10 * first:.1f}", f"{10 * second:.1f}")
    print(RULE)
    units = {str(review["question_id"]): (review["tuple"][1], review["tuple"][0]) for review in scored}
    record_scores(file, {"review_relative": Metric({"": units})})


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.summarize_gpt_review", description="Summarise reviews.")
    parser.add_argument("-d", "--dir", help="summarise the review files of this folder")
    parser.add_argument("-v", "--version", help="only reviews by this GPT-4: 0314 or 0613")
    parser.add_argument("-s", "--select", nargs="*", default=[], help="only files with all of these in their name")
    parser.add_argument("-f", "--files", nargs="*", default=[], help="summarise these files")
    parser.add_argument("-i", "--ignore", nargs="*", default=[], help="ids of questions to leave out")
    args = parser.parse_args()
    if not args.files and not args.dir:
        raise UserError("nothing to summarise; give --files or --dir")
    files = [Path(file).expanduser() for file in args.files] or find_files(Path(args.dir).expanduser())
    for file in files:
        if args.version not in (None, version_of(file.name)) or not all(part in file.name for part in args.select):
            continue
        summarise(file, args.ignore)


if __name__ == "__main__":
    main()
