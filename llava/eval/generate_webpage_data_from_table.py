"""The data of the page that shows reviews: ``python -m llava.eval.generate_webpage_data_from_table``.

Reads what lies in ``llava/eval/table/``: ``question.jsonl`` (``question_id``, ``text``, ``category``), the models'
answers ``answer/answer_<model>.jsonl`` and reviews of pairs of them ``review/*.jsonl`` (``question_id``,
``answer1_id``, ``answer2_id``, ``text``, ``score``). None of these comes with this package. Writes
``llava/eval/webpage/data.json``; the page is ``index.html`` beside it, to be opened through a web server such as
``python -m http.server``.
"""

from pathlib import Path
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.records import read_json_lines, require_keys, write_json

TABLE = Path(__file__).parent / "table"
WEBPAGE = Path(__file__).parent / "webpage"
Records = list[dict[str, Any]]


def read_folder(folder: Path, keys: tuple[str, ...]) -> dict[str, Records]:
    """The records of every JSON Lines file of a folder, by its name. Raises UserError when there is none."""
    files = {path.stem: read_json_lines(str(path)) for path in sorted(folder.glob("*.jsonl"))}
    if not files:
        raise UserError(f"{folder} holds no *.jsonl; put the files there that the page is to show")
    for name, records in files.items():
        require_keys(records, keys, str(folder / f"{name}.jsonl"))
    return files


def collect(questions: Records, answers: dict[str, Records], reviews: dict[str, Records]) -> dict[str, Any]:
    """Questions with all models' answers, and with each review under the model whose answer came first in it."""
    by_question: dict[Any, dict[str, Any]] = {
        question["question_id"]: {
            "id": question["question_id"],
            "category": question["category"],
            "question": question["text"],
            "answers": {},
            "evaluations": {},
            "scores": {},
        }
        for question in questions
    }
    author: dict[str, str] = {}
    for model, records in answers.items():
        for record in records:
            by_question[record["question_id"]]["answers"][model] = record["text"]
            author[record["answer_id"]] = model
    for review in (review for records in reviews.values() for review in records):
        model = author[review["answer1_id"]]
        by_question[review["question_id"]]["evaluations"][model] = review["text"]
        by_question[review["question_id"]]["scores"][model] = review["score"]
    return {"questions": list(by_question.values()), "models": list(answers)}


@exit_on_user_error
def main() -> None:
    questions = read_json_lines(str(TABLE / "question.jsonl"))
    require_keys(questions, ("question_id", "text", "category"), str(TABLE / "question.jsonl"))
    answers = read_folder(TABLE / "answer", ("question_id", "answer_id", "text"))
    models = {name.removeprefix("answer_"): records for name, records in answers.items()}
    reviews = read_folder(TABLE / "review", ("question_id", "answer1_id", "text", "score"))
    try:
        data = collect(questions, models, reviews)
    except KeyError as error:
        raise UserError(f"{TABLE}: a record names {error}, which no question or answer has; check the files") from error
    write_json(WEBPAGE / "data.json", data, indent=1)
    print(f"{len(questions)} questions, {len(models)} models in {WEBPAGE / 'data.json'}")


if __name__ == "__main__":
    main()
