"""ScienceQA's problems as prompts; a format such as ``QCM-LEA`` says what stands before and after the dash.

Q question, C context, M options, L lecture, E explanation (the solution), A answer. Lectures and explanations of the
input follow ``BECAUSE:``. Of the outputs, ``AL`` gives the solution and ``AE`` the lecture, as upstream's do. ``LEPA``
lays lecture, solution and answer out in lines of their own; that layout is this project's.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

INPUTS = ("CQM", "QCM", "QCML", "QCME", "QCMLE", "QCLM", "QCEM", "QCLEM")
# What comes with the answer, in order; the answer is first or last as in the name.
OUTPUTS = {"A": "", "AL": "E", "AE": "L", "ALE": "LE", "AEL": "EL", "LA": "L", "EA": "E", "LEA": "LE", "ELA": "EL"}
TITLES = {"Q": "Question", "C": "Context", "M": "Options"}
DEFAULT_OPTIONS = ("A", "B", "C", "D", "E")
Problem = Mapping[str, Any]


def get_question_text(problem: Problem) -> str:
    return problem["question"]


def get_context_text(problem: Problem, use_caption: bool) -> str:
    """The hint, and the picture's caption if it is wanted; ``N/A`` when there is neither."""
    caption = problem.get("caption", "") if use_caption else ""
    return " ".join(filter(None, (problem["hint"], caption))).strip() or "N/A"


def get_choice_text(problem: Problem, options: Sequence[str]) -> str:
    """``(A) first (B) second``."""
    return " ".join(f"({letter}) {choice}" for letter, choice in zip(options, problem["choices"], strict=False))


def get_answer(problem: Problem, options: Sequence[str]) -> str:
    """The right option's letter."""
    return options[problem["answer"]]


def get_lecture_text(problem: Problem) -> str:
    """The lecture in one line."""
    return problem["lecture"].replace("\n", "\\n")


def get_solution_text(problem: Problem) -> str:
    """The solution in one line."""
    return problem["solution"].replace("\n", "\\n")


def input_text(form: str, parts: Mapping[str, str]) -> str:
    """One line for each of Q, C and M, and one for lecture and explanation where they stand together."""
    if form not in INPUTS:
        raise ValueError(f"prompt format begins with {form!r}; it must be one of {', '.join(INPUTS)}")
    lines = []
    for is_reason, letters in groupby(form, key=lambda letter: letter in "LE"):
        if is_reason:
            lines.append(f"BECAUSE: {' '.join(parts[letter] for letter in letters)}")
        else:
            lines += [f"{TITLES[letter]}: {parts[letter]}" for letter in letters]
    return _tidy("\n".join(lines) + "\n")


def output_text(form: str, parts: Mapping[str, str]) -> str:
    """The answer with what comes before or after it."""
    if form == "LEPA":
        reasons = [
            f"{title}: {parts[letter]}" for title, letter in (("LECTURE", "L"), ("SOLUTION", "E")) if parts[letter]
        ]
        return "\n".join([*reasons, "###", f"ANSWER: {parts['A']}."])
    if form not in OUTPUTS:
        raise ValueError(f"prompt format ends with {form!r}; it must be LEPA or one of {', '.join(OUTPUTS)}")
    sentence = f"The answer is {parts['A']}."
    reasons = " ".join(parts[letter] for letter in OUTPUTS[form])
    if form.startswith("A"):
        return _tidy(f"Answer: {sentence}" + (f" BECAUSE: {reasons}" if reasons else ""))
    return _tidy(f"Answer: {reasons} {sentence}")


def _tidy(text: str) -> str:
    return text.replace("  ", " ").strip().removesuffix("BECAUSE:").strip()


def create_one_example_chatbot(format: str, *parts: str, test_example: bool = True) -> tuple[str, str]:
    """A problem as input and output; a ``test_example`` leaves the output at ``Answer:``.

    ``parts`` are question, context, choices, answer, lecture and solution, as texts.
    """
    before, _, after = format.partition("-")
    by_letter = dict(zip("QCMALE", parts, strict=True))
    return input_text(before, by_letter), "Answer:" if test_example else output_text(after, by_letter)


def create_one_example(format: str, *parts: str, test_example: bool = True) -> str:
    """A problem as one text."""
    return "\n".join(create_one_example_chatbot(format, *parts, test_example=test_example))


def create_one_example_gpt4(format: str, *parts: str, test_example: bool = True) -> list[dict[str, str]]:
    """A problem as turns of a chat: the user's, and unless it is a ``test_example`` the assistant's."""
    asked, answered = create_one_example_chatbot(format, *parts, test_example=test_example)
    turns = [{"role": "user", "content": asked}]
    return turns if test_example else [*turns, {"role": "assistant", "content": answered}]


def _parts(problem: Problem, options: Sequence[str], use_caption: bool) -> tuple[str, str, str, str, str, str]:
    return (
        get_question_text(problem),
        get_context_text(problem, use_caption),
        get_choice_text(problem, options),
        get_answer(problem, options),
        get_lecture_text(problem),
        get_solution_text(problem),
    )


def build_prompt_chatbot(
    problems: Mapping[str, Problem],
    shot_qids: Sequence[str],
    prompt_format: str,
    use_caption: bool = False,
    options: Sequence[str] = DEFAULT_OPTIONS,
    is_test: bool = False,
) -> dict[str, tuple[str, str]]:
    """Input and output by problem."""
    return {
        name: create_one_example_chatbot(
            prompt_format, *_parts(problems[name], options, use_caption), test_example=is_test
        )
        for name in shot_qids
    }


def build_prompt(problems: Mapping[str, Problem], shot_qids: Sequence[str], test_qid: str, args: Any) -> str:
    """Solved problems and one to solve in one text; ``args`` has ``prompt_format``, ``use_caption`` and ``options``."""
    examples = [(name, False) for name in shot_qids] + [(test_qid, True)]
    return "\n\n".join(
        create_one_example(
            args.prompt_format, *_parts(problems[name], args.options, args.use_caption), test_example=is_test
        )
        for name, is_test in examples
    )


def build_prompt_gpt4(
    problems: Mapping[str, Problem], shot_qids: Sequence[str], test_qid: str, args: Any
) -> list[dict[str, str]]:
    """The same as a chat."""
    examples = [(name, False) for name in shot_qids] + [(test_qid, True)]
    return [
        turn
        for name, is_test in examples
        for turn in create_one_example_gpt4(
            args.prompt_format, *_parts(problems[name], args.options, args.use_caption), test_example=is_test
        )
    ]
