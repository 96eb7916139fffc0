"""ScienceQA with GPT-4's help: ``python -m llava.eval.eval_science_qa_gpt4 --gpt4-result ... --our-result ...``.

Where GPT-4's answer names no option, ours is taken. Problems that either side lacks are left out. An answer of ours
that names no option becomes a random choice, drawn from a fixed seed.
"""

import random
from typing import Any

from llava.errors import UserError, exit_on_user_error
from llava.eval.eval_science_qa import FAILED, letter_in_sentence, option_index, percent, read_split, split_flags
from llava.eval.records import read_answers, read_json

SEED = 42


def read_outputs(path: str) -> dict[str, str]:
    """GPT-4's answers by problem, from a result file of :mod:`llava.eval.eval_science_qa`."""
    content: dict[str, Any] = read_json(path, "a result file with the outputs of GPT-4")
    if not isinstance(content.get("outputs"), dict):
        raise UserError(f"{path} has no object 'outputs' of answers by problem; give a result file of GPT-4")
    return content["outputs"]


def choose(letter: str, choices: list[str], options: list[str], generator: random.Random) -> int:
    """The choice that a letter names, or a random one."""
    index = option_index(letter, choices, options)
    return index if index >= 0 else generator.randrange(len(choices))


@exit_on_user_error
def main() -> None:
    args = split_flags("Score answers joined with GPT-4's.", "--gpt4-result", "--our-result").parse_args()
    problems = read_split(args.base_dir, args.split)
    theirs, ours = read_outputs(args.gpt4_result), read_answers(args.our_result)
    generator = random.Random(SEED)
    correct = bound = unanswered = total = 0
    for name, problem in problems.items():
        if name not in theirs or name not in ours:
            continue
        total += 1
        gpt4_letter = letter_in_sentence(theirs[name])
        our_choice = choose(letter_in_sentence(ours[name]["text"]), problem["choices"], args.options, generator)
        gpt4_choice = choose(gpt4_letter, problem["choices"], args.options, generator)
        unanswered += gpt4_letter == FAILED
        correct += (our_choice if gpt4_letter == FAILED else gpt4_choice) == problem["answer"]
        bound += problem["answer"] in (our_choice, gpt4_choice)
    if not total:
        raise UserError(f"{args.gpt4_result} and {args.our_result} share no problem of split {args.split}")
    print(f"Total: {total}, Correct: {correct}, Accuracy: {percent(correct, total):.2f}%")
    print(f"Total: {total}, Upper bound: {bound}, Accuracy: {percent(bound, total):.2f}%")
    print(f"Total: {total}, GPT-4 NO-ANS: {unanswered}, Share: {percent(unanswered, total):.2f}%")


if __name__ == "__main__":
    main()
