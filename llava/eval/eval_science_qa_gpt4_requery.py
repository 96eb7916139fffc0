"""ScienceQA where GPT-4 was asked again: ``python -m llava.eval.eval_science_qa_gpt4_requery``.

Where GPT-4 and we differ, GPT-4 was shown both answers and decided (the "requery"); where that decision names no
option, or was not asked for, GPT-4's first answer counts, and ours where that names none either.
"""

import random

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import exit_on_user_error
from llava.eval.eval_science_qa import FAILED, letter_in_sentence, percent, read_split, split_flags, summarise
from llava.eval.eval_science_qa_gpt4 import SEED, choose, read_outputs
from llava.eval.records import read_answers, read_json_lines, require_answers, require_keys, write_json


@exit_on_user_error
def main() -> None:
    parser = split_flags(
        "Score answers that GPT-4 decided on.", "--gpt4-result", "--requery-result", "--our-result", "--output-result"
    )
    args = parser.parse_args()
    problems = read_split(args.base_dir, args.split)
    theirs, ours = read_outputs(args.gpt4_result), read_answers(args.our_result)
    requeried = read_json_lines(args.requery_result)
    require_keys(requeried, ("question_id", "text"), args.requery_result)
    decided = {str(record["question_id"]): str(record["text"]) for record in requeried}
    require_answers(theirs, problems, args.gpt4_result)
    require_answers(ours, problems, args.our_result)

    generator = random.Random(SEED)
    tally = dict.fromkeys(("ours", "gpt4", "final", "pictured", "bound", "unanswered"), 0)
    results, outputs = {}, {}
    pictured_total = 0
    for name, problem in problems.items():
        texts = (decided.get(name, FAILED), theirs[name], ours[name]["text"])
        letters = [letter_in_sentence(text) for text in texts]
        choices = [choose(letter, problem["choices"], args.options, generator) for letter in letters]
        used = next((place for place, letter in enumerate(letters) if letter != FAILED), 2)
        results[name], outputs[name] = choices[used], texts[used]

        right = [choice == problem["answer"] for choice in choices]
        pictured = DEFAULT_IMAGE_TOKEN in ours[name].get("prompt", "")
        pictured_total += pictured
        tally["ours"] += right[2]
        tally["gpt4"] += right[1]
        tally["final"] += right[used]
        tally["pictured"] += right[used] and pictured
        tally["bound"] += right[1] or right[2]
        tally["unanswered"] += letters[1] == FAILED
        if name in decided and not right[0]:
            print(f"wrong requery {name}: {decided[name]!r}, the answer is {args.options[problem['answer']]}")

    total = len(problems)
    print(f"Total: {total}, Our-Correct: {tally['ours']}, Accuracy: {percent(tally['ours'], total):.2f}%")
    print(f"Total: {total}, GPT-4 Correct: {tally['gpt4']}, Accuracy: {percent(tally['gpt4'], total):.2f}%")
    print(f"Total: {total}, GPT-4 NO-ANS: {tally['unanswered']}, Share: {percent(tally['unanswered'], total):.2f}%")
    print(f"Total: {total}, Upper bound: {tally['bound']}, Accuracy: {percent(tally['bound'], total):.2f}%")
    print(f"Total: {total}, Requery-Correct: {tally['final']}, Accuracy: {percent(tally['final'], total):.2f}%")
    print(
        f"Total: {pictured_total}, Requery-IMG-Correct: {tally['pictured']}, "
        f"IMG-Accuracy: {percent(tally['pictured'], pictured_total):.2f}%"
    )
    write_json(args.output_result, summarise(results, outputs, tally["final"]), indent=2)


if __name__ == "__main__":
    main()
