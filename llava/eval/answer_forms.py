"""The forms of answers that questions ask for, and how answers of these forms are understood."""

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# The sentence that asks for a letter alone, by the language of the questions.
ANSWER_BY_LETTER = {
    "en": "Answer with the option's letter from the given choices directly.",
    "cn": "请直接回答选项字母。",
}
SHORT_ANSWER = "Answer the question using a single word or phrase."
FIRST_LETTER = re.compile(r"\s*\(?([A-Z])(?![\w'])")
YES_OR_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def list_options(options: Sequence[str]) -> str:
    """The options line by line: ``A. first``, ``B. second``, ..."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def letter_of(answer: str, letters: Sequence[str]) -> str | None:
    """The letter that an answer begins with, as in ``B``, ``(B)``, ``B.`` and ``B: a cat``; None when there is none."""
    match = FIRST_LETTER.match(answer)
    return match[1] if match and match[1] in letters else None


def yes_or_no(answer: str) -> str | None:
    """``yes`` or ``no`` when the answer begins with that word, in any case; None otherwise."""
    match = YES_OR_NO.match(answer)
    return match[1].lower() if match else None
