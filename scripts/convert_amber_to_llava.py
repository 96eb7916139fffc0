"""AMBER -> questions as LLaVA's drivers read them.

Reads ``query_all.json`` (or one of its parts): a list of ``id``, ``image`` and ``query``. AMBER wants Yes or No to the
queries that are not requests for a description, so those get LLaVA's request for a short answer.
"""

import argparse

from llava.errors import exit_on_user_error
from llava.eval.answer_forms import SHORT_ANSWER
from llava.eval.records import read_json_list, require_keys, write_json_lines

DESCRIBE = "Describe this image."


def convert(src: str, dst: str) -> None:
    """Writes the questions to ``dst``. Raises UserError for a file of another form."""
    queries = read_json_list(src)
    require_keys(queries, ("id", "image", "query"), src)
    questions = []
    for query in queries:
        text = query["query"] if query["query"] == DESCRIBE else f"{query['query']}\n{SHORT_ANSWER}"
        questions.append({"question_id": query["id"], "image": query["image"], "text": text})
    write_json_lines(dst, questions)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn AMBER into LLaVA's questions.")
    parser.add_argument("--src", type=str, required=True, help="query_all.json")
    parser.add_argument("--dst", type=str, required=True, help="questions, JSON Lines")
    args = parser.parse_args()
    convert(args.src, args.dst)


if __name__ == "__main__":
    main()
