"""HallusionBench -> questions as LLaVA's drivers read them, with LLaVA's request for a short answer.

Reads ``HallusionBench.json``. A question with a ``visual_input`` other than 0 shows
``<category>/<subcategory>/<set_id>_<figure_id>.png``, as the official program finds it.
"""

import argparse

from llava.errors import exit_on_user_error
from llava.eval.answer_forms import SHORT_ANSWER
from llava.eval.eval_hallusion import KEYS, name_of
from llava.eval.records import read_json_list, require_keys, write_json_lines


def convert(src: str, dst: str) -> None:
    """Writes the questions to ``dst``. Raises UserError for a file of another form."""
    entries = read_json_list(src)
    require_keys(entries, (*KEYS, "visual_input"), src)
    questions = []
    for entry in entries:
        question = {"question_id": name_of(entry), "text": f"{entry['question']}\n{SHORT_ANSWER}"}
        if str(entry["visual_input"]) != "0":
            figure = f"{entry['set_id']}_{entry['figure_id']}.png"
            question["image"] = f"{entry['category']}/{entry['subcategory']}/{figure}"
        questions.append(question)
    write_json_lines(dst, questions)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn HallusionBench into LLaVA's questions.")
    parser.add_argument("--src", type=str, required=True, help="HallusionBench.json")
    parser.add_argument("--dst", type=str, required=True, help="questions, JSON Lines")
    args = parser.parse_args()
    convert(args.src, args.dst)


if __name__ == "__main__":
    main()
