"""ScienceQA -> LLaVA's training and question format, or lines of instruction and output.

python scripts/convert_sqa_to_llava.py convert_to_llava --base-dir scienceqa --split test --prompt-format CQM-A
"""

import argparse
from pathlib import Path
from typing import Any

from convert_sqa_to_llava_base_prompt import build_prompt_chatbot

from llava.errors import UserError, exit_on_user_error
from llava.eval.eval_science_qa import read_split
from llava.eval.records import write_json, write_json_lines


def read_examples(base_dir: str, split: str, prompt_format: str) -> list[tuple[str, str | None, str, str]]:
    """(id, picture or None, input, output) of a split's problems. Raises UserError for an unknown format."""
    problems = read_split(base_dir, split)
    try:
        examples = build_prompt_chatbot(problems, list(problems), prompt_format)
    except ValueError as error:
        raise UserError(f"--prompt-format is {prompt_format!r}: {error}") from error
    return [
        (
            name,
            f"{name}/{problems[name]['image']}" if problems[name].get("image") else None,
            asked.removeprefix("Question: "),
            answered.removeprefix("Answer: "),
        )
        for name, (asked, answered) in examples.items()
    ]


def convert_to_llava(base_dir: str, split: str, prompt_format: str = "QCM-LEA") -> None:
    """Writes ``<base_dir>/llava_<split>_<prompt_format>.json``."""
    samples = []
    for name, image, asked, answered in read_examples(base_dir, split, prompt_format):
        sample: dict[str, Any] = {"id": name} | ({"image": image} if image else {})
        sample["conversations"] = [
            {"from": "human", "value": f"{asked}\n<image>" if image else asked},
            {"from": "gpt", "value": answered},
        ]
        samples.append(sample)
    print(f"Number of samples: {len(samples)}")
    write_json(Path(base_dir) / f"llava_{split}_{prompt_format}.json", samples, indent=2)


def convert_to_jsonl(base_dir: str, split: str, prompt_format: str = "QCM-LEPA") -> None:
    """Writes ``<base_dir>/scienceqa_<split>_<prompt_format>.jsonl``."""
    lines = [
        {"id": name, "image": image, "instruction": asked, "output": answered}
        for name, image, asked, answered in read_examples(base_dir, split, prompt_format)
    ]
    print(f"Number of samples: {len(lines)}")
    write_json_lines(Path(base_dir) / f"scienceqa_{split}_{prompt_format}.jsonl", lines)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Convert ScienceQA.")
    commands = parser.add_subparsers(dest="command", required=True)
    for convert, default in ((convert_to_llava, "QCM-LEA"), (convert_to_jsonl, "QCM-LEPA")):
        command = commands.add_parser(convert.__name__, help=convert.__doc__)
        command.add_argument("--base-dir", "--base_dir", required=True, help="folder of problems.json")
        command.add_argument("--split", required=True, help="one of pid_splits.json")
        command.add_argument("--prompt-format", "--prompt_format", default=default, help=f"default: {default}")
        command.set_defaults(convert=convert)
    args = parser.parse_args()
    args.convert(args.base_dir, args.split, args.prompt_format)


if __name__ == "__main__":
    main()
