"""A chat model's answers to questions without pictures: ``python -m llava.eval.qa_baseline_gpt35 -q ... -o ...``.

See :mod:`llava.eval.judge` for the endpoint. Each answer is a line with ``answer_id``, ``question_id``, ``model_id``
and ``text``, in the order of the question ids; ``#ERROR#`` is the text where the model did not answer.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import shortuuid
from tqdm import tqdm

from llava.errors import UserError, exit_on_user_error
from llava.eval.judge import Judge
from llava.eval.records import read_json_lines, require_keys

MODEL = "gpt-3.5-turbo"
MODEL_ID = "gpt-3.5-turbo:20230327"
SYSTEM = "You are a helpful assistant."
THREADS = 32
TEMPERATURE = 0.2
FAILED = "#ERROR#"


def answer(judge: Judge, question: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    """One line of the output."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question["text"]}]
    try:
        text = judge.ask(messages, temperature=TEMPERATURE, max_tokens=max_tokens)
    except UserError as error:
        print(f"question {question['question_id']}: {error}", file=sys.stderr)
        text = FAILED
    model_id = MODEL_ID if judge.model == MODEL else judge.model
    return {
        "answer_id": shortuuid.uuid(),
        "question_id": question["question_id"],
        "model_id": model_id,
        "text": text,
    }


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(prog="llava.eval.qa_baseline_gpt35", description="Have a chat model answer.")
    parser.add_argument("-q", "--question", required=True, help="questions, JSON Lines")
    parser.add_argument("-o", "--output", required=True, help="where the answers go, JSON Lines")
    parser.add_argument("--max-tokens", type=int, default=1024, help="of an answer (default: 1024)")
    args = parser.parse_args()
    questions = read_json_lines(args.question)
    require_keys(questions, ("question_id", "text"), args.question)
    judge = Judge(MODEL)
    with ThreadPoolExecutor(THREADS) as threads:
        replies = threads.map(lambda question: answer(judge, question, args.max_tokens), questions)
        answers = list(tqdm(replies, total=len(questions), unit="question"))
    answers.sort(key=lambda record: record["question_id"])
    path = Path(args.output).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(record) for record in answers), encoding="utf-8")


if __name__ == "__main__":
    main()
