import sys
from typing import Any

import pytest

from llava.errors import UserError
from llava.eval.m4c_evaluator import (
    CONTRACTIONS,
    EvalAIAnswerProcessor,
    STVQAAccuracyEvaluator,
    STVQAANLSEvaluator,
    TextCapsBleu4Evaluator,
    TextVQAAccuracyEvaluator,
    consensus_scores,
)


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [  # upstream's results
        ("The Cat.", "cat"),
        ("two dogs", "2 dogs"),
        ("It's 1,000.50 dollars", "it 's 1000.50 dollars"),
        ("dont know", "don't know"),
        ("a / b", "b"),
        ("hello-world", "hello world"),
        ("none", "0"),
        ("3.5", "3.5"),
        ("A.", ""),
        ("U.S.A.", "usa"),
        ("what's up?", "what 's up"),
        ("10:30", "10:30"),
        ("$5", "$5"),
        ("1,234,567", "1234567"),
        ("let's go", "let 's go"),
        # by the rules
        ("ten\tcats\n", "10 cats"),
        ("(left) side", "left side"),
        ("“quoted”", "“quoted”"),
        (". " * 40, ". . . . . . . ."),  # upstream removes 32 full stops at most
    ],
)
def test_answers_are_normalised_as_upstream_does(answer: str, normalised: str) -> None:
    assert EvalAIAnswerProcessor()(answer) == normalised


def test_contractions_are_found_without_one_apostrophe() -> None:
    known = {
        "couldnt've": "couldn't've",
        "couldn'tve": "couldn't've",
        "y'allll": "y'all'll",
        "ow's'at": "'ow's'at",
        "hed": "he'd",
        "youve": "you've",
        "somebody'd": "somebodyd",
    }
    assert {short: CONTRACTIONS[short] for short in known} == known
    assert "im" not in CONTRACTIONS  # upstream's table has it in capitals, which lower case never meets


def test_processing_changes_no_shared_state() -> None:
    before = dict(CONTRACTIONS)
    EvalAIAnswerProcessor()("unknownword don't 7")
    assert before == CONTRACTIONS


def test_accuracy_by_the_number_of_people_who_agree() -> None:
    people = ["four"] * 4 + ["three"] * 3 + ["two"] * 2 + ["one"]
    assert consensus_scores(people) == pytest.approx({"four": 1.0, "three": 0.9, "two": 0.6, "one": 0.3})
    evaluator = TextVQAAccuracyEvaluator()
    entries: list[dict[str, Any]] = [
        {"pred_answer": answer, "gt_answers": people} for answer in ("4", "Three.", "nothing")
    ]
    assert evaluator.eval_pred_list(entries) == pytest.approx((1.0 + 0.9 + 0) / 3)  # number words are numbers


def test_only_ten_answers_make_an_accuracy() -> None:
    with pytest.raises(UserError, match="a question has 9 answers; the accuracy is defined over 10"):
        TextVQAAccuracyEvaluator().score("a", ["b"] * 9)
    with pytest.raises(UserError, match="there is no answer to score"):
        TextVQAAccuracyEvaluator().eval_pred_list([])


def test_stvqa_counts_equal_answers() -> None:
    entries = [
        {"pred_answer": "The Bank", "gt_answers": ["bank", "x"]},
        {"pred_answer": "banks", "gt_answers": ["bank"]},
    ]
    assert STVQAAccuracyEvaluator().eval_pred_list(entries) == 0.5


def test_anls_forgives_letters_down_to_half() -> None:
    pytest.importorskip("editdistance")
    evaluator = STVQAANLSEvaluator()
    entries = [
        {"pred_answer": " Bank ", "gt_answers": ["x", "bark"]},  # one of four letters: 0.75
        {"pred_answer": "ab", "gt_answers": ["cd"]},  # below 0.5
        {"pred_answer": "ab", "gt_answers": ["ac"]},  # 0.5 itself counts
        {"pred_answer": "", "gt_answers": [""]},
    ]
    assert evaluator.eval_pred_list(entries) == pytest.approx((0.75 + 0 + 0.5 + 1) / 4)


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "editdistance", None)
    with pytest.raises(UserError, match=r'editdistance, which cannot be imported .*pip install -e "\.\[eval\]"'):
        STVQAANLSEvaluator()


def test_captions_get_bleu_4() -> None:
    pytest.importorskip("pycocoevalcap")
    entry = {"pred_answer": "A red bus stands there.", "gt_answers": ["a red bus stands there", "one bus"]}
    assert TextCapsBleu4Evaluator().eval_pred_list([entry]) == pytest.approx(1.0, abs=1e-6)
