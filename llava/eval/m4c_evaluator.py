"""Accuracies over answers of ten people, and the normalisation of answers that VQA's evaluation server does.

The normalisation and the accuracy are those of Antol et al., "VQA: Visual Question Answering" (ICCV 2015); ANLS is that
of Biten et al., "Scene Text Visual Question Answering" (ICCV 2019); BLEU-4 as TextCaps reports it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llava.errors import UserError
from llava.eval.extras import import_extra

PEOPLE = 10
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {"none": "0"}
ARTICLES = ("a", "an", "the")
MARKS = ';/[]"{}()=+\\_-><@`,?!'
# upstream gives re.sub a flag where it takes a count, so no more full stops than this go
FULL_STOPS_REMOVED = 32
# Each is also understood with any one of its apostrophes missing.
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {short: word for word in CONTRACTED.split() for short in _without_one_apostrophe(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"  # so in the server's table


class EvalAIAnswerProcessor:
    """An answer in the form in which answers are compared: ``EvalAIAnswerProcessor()("The Cat.")`` is ``cat``."""

    def __call__(self, item: str) -> str:
        text = item.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
        text = text.replace("\n", " ").replace("\t", " ").strip()
        return self.process_digit_article(self.process_punctuation(text))

    def process_punctuation(self, text: str) -> str:
        """Marks beside a space go, others become one; full stops go unless a digit follows."""
        result = text
        for mark in MARKS:
            loose = f"{mark} " in text or f" {mark}" in text or re.search(r"\d,\d", text)
            result = result.replace(mark, "" if loose else " ")
        return re.sub(r"\.(?!\d)", "", result, count=FULL_STOPS_REMOVED)

    def process_digit_article(self, text: str) -> str:
        """Number words become digits, articles go, contractions get their apostrophe back."""
        words = [NUMBERS.get(word, word) for word in text.lower().split()]
        return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def consensus_scores(answers: Sequence[str]) -> dict[str, float]:
    """What each of ten normalised answers is worth: the mean, over leaving one person out, of min(1, matches / 3).

    Raises UserError when there are not ten.
    """
    if len(answers) != PEOPLE:
        raise UserError(
            f"a question has {len(answers)} answers; the accuracy is defined over {PEOPLE}: check the annotations"
        )
    return {
        answer: (count * min(1, (count - 1) / 3) + (PEOPLE - count) * min(1, count / 3)) / PEOPLE
        for answer, count in Counter(answers).items()
    }


class TextVQAAccuracyEvaluator:
    """VQA accuracy, as TextVQA uses it."""

    def __init__(self) -> None:
        self.answer_processor = EvalAIAnswerProcessor()

    def score(self, predicted: str, answers: Sequence[str]) -> float:
        """One question's accuracy."""
        worth = consensus_scores([self.answer_processor(answer) for answer in answers])
        return worth.get(self.answer_processor(predicted), 0.0)

    def eval_pred_list(self, pred_list: Sequence[Mapping[str, Any]]) -> float:
        """The mean over ``{"pred_answer", "gt_answers"}``, from 0 to 1."""
        return _mean([self.score(entry["pred_answer"], entry["gt_answers"]) for entry in pred_list])


class STVQAAccuracyEvaluator:
    """Share of answers that equal one of the given ones after normalisation."""

    def __init__(self) -> None:
        self.answer_processor = EvalAIAnswerProcessor()

    def eval_pred_list(self, pred_list: Sequence[Mapping[str, Any]]) -> float:
        process = self.answer_processor
        return _mean([float(process(entry["pred_answer"]) in map(process, entry["gt_answers"])) for entry in pred_list])


class STVQAANLSEvaluator:
    """Average normalised Levenshtein similarity; below 0.5 counts as 0."""

    def __init__(self) -> None:
        self.distance = import_extra("editdistance", "edit distances are").eval

    def get_anls(self, first: str, second: str) -> float:
        """The similarity of two texts without regard to case and outer blanks."""
        first, second = first.lower().strip(), second.lower().strip()
        longest = max(len(first), len(second))
        similarity = 1 - self.distance(first, second) / longest if longest else 1.0
        return similarity if similarity >= 0.5 else 0.0

    def eval_pred_list(self, pred_list: Sequence[Mapping[str, Any]]) -> float:
        return _mean(
            [max(self.get_anls(entry["pred_answer"], answer) for answer in entry["gt_answers"]) for entry in pred_list]
        )


class TextCapsBleu4Evaluator:
    """BLEU-4 of captions, by pycocoevalcap on the tokens of :mod:`llava.eval.text_metrics`."""

    def eval_pred_list(self, pred_list: Sequence[Mapping[str, Any]]) -> float:
        from llava.eval.text_metrics import bleu  # loads an optional library

        pairs = [(entry["pred_answer"], list(entry["gt_answers"])) for entry in pred_list]
        return bleu(pairs)[3]


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise UserError("there is no answer to score; the answers file must hold at least one")
    return sum(values) / len(values)
