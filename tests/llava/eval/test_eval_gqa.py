import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from llava.errors import UserError
from llava.eval import eval_gqa
from llava.eval.eval_gqa import evaluate, read_predictions, read_questions
from llava.eval.provenance import provenance_path, write_provenance
from llava.eval.scores import Score, read_scores


def question(answer: str, structural: str, kind: str, **more: Any) -> dict[str, Any]:
    types = {"structural": structural, "semantic": kind, "detailed": f"{kind}{structural}"}
    return {"answer": answer, "types": types, "isBalanced": True} | more


def program(*steps: str) -> list[dict[str, Any]]:
    return [dict(zip(("operation", "argument"), step.split(": "), strict=True), dependencies=[]) for step in steps]


# q1, q2, q5 right; q3 in the plural and q4 with a word too many are wrong.
QUESTIONS = {
    "1": question("red", "query", "attr", semantic=program("select: dog", "query: color"), entailed=["1", "2", "6"]),
    "2": question("yes", "verify", "attr", semantic=program("select: dog", "verify color: red"), entailed=["1"]),
    "3": question("dog", "query", "obj", semantic=program("select: dog", "query: name"), entailed=["1"]),
    "4": question(
        "no", "logical", "obj", semantic=program("select: cat", "exist: ?", "select: dog", "exist: ?", "or: ")
    ),
    "5": question("left", "choose", "rel", semantic=program("select: dog", "choose rel: left|right")),
}
UNBALANCED = {"6": question("yes", "verify", "attr") | {"isBalanced": False}}
PREDICTIONS = {"1": "Red", "2": "yes", "3": "dogs", "4": "no dog", "5": "left", "6": "no"}


def test_accuracies_are_those_computed_by_hand() -> None:
    scores = evaluate(QUESTIONS, PREDICTIONS)
    assert {name: (round(score.value, 2), score.n) for name, score in scores.items()} == {
        "accuracy": (60.0, 5),
        "binary": (66.67, 3),
        "open": (50.0, 2),
        "structural/choose": (100.0, 1),
        "structural/logical": (0.0, 1),
        "structural/query": (50.0, 2),
        "structural/verify": (100.0, 1),
        "semantic/attr": (100.0, 2),
        "semantic/obj": (0.0, 2),
        "semantic/rel": (100.0, 1),
        "steps/1": (0.0, 1),  # asking for the name is no step
        "steps/2": (100.0, 3),
        "steps/3": (0.0, 1),  # nor is asking whether something is there
        "detailed/attrquery": (100.0, 1),
        "detailed/attrverify": (100.0, 1),
        "detailed/objlogical": (0.0, 1),
        "detailed/objquery": (0.0, 1),
        "detailed/relchoose": (100.0, 1),
    }
    assert list(scores)[:3] == ["accuracy", "binary", "open"]
    assert scores["accuracy"].standard_error == pytest.approx(100 * (0.6 * 0.4 / 5) ** 0.5)
    assert str(scores["accuracy"]) == "60.00% ± 21.91 (n=5)"


def test_types_that_the_file_lacks_are_left_out() -> None:
    bare = {"1": {"answer": "red", "types": {"structural": "query", "semantic": None}}}
    assert list(evaluate(bare, {"1": "red"})) == ["accuracy", "open", "structural/query"]


def test_case_is_the_only_thing_that_is_forgiven() -> None:
    one = {"1": question("t-shirt", "query", "obj")}
    for answer, share in {"T-Shirt": 100.0, "t-shirt.": 0.0, " t-shirt": 0.0, "": 0.0}.items():
        assert evaluate(one, {"1": answer})["accuracy"].value == share


def test_a_missing_prediction_is_an_error_or_counts_as_wrong() -> None:
    given = {"2": "yes"}
    with pytest.raises(UserError, match=r"4 of 5 questions have no prediction, first 1, 3, 4, 5; .*--allow-missing"):
        evaluate(QUESTIONS, given)
    assert evaluate(QUESTIONS, given, allow_missing=True)["accuracy"] == Score(20.0, pytest.approx(17.888544), 5)


def test_unbalanced_questions_count_for_consistency_only() -> None:
    everything = QUESTIONS | UNBALANCED
    assert evaluate(everything, PREDICTIONS)["accuracy"].n == 5
    consistency = evaluate(everything, PREDICTIONS, consistency=True)["consistency"]
    # Right questions that entail others: 1 entails 2 (right) and 6 (wrong), 2 entails 1 (right); 3 is wrong itself.
    assert (consistency.value, consistency.n) == (75.0, 2)
    assert consistency.standard_error == pytest.approx(100 * (0.0625 / 2) ** 0.5)


def test_consistency_needs_the_questions_and_their_predictions() -> None:
    with pytest.raises(
        UserError, match=r"question 1 entails 6, which the questions file lacks; .*testdev_all_questions"
    ):
        evaluate(QUESTIONS, PREDICTIONS, consistency=True)
    without = {key: value for key, value in PREDICTIONS.items() if key != "6"}
    with pytest.raises(UserError, match="1 of 6 questions have no prediction, first 6"):
        evaluate(QUESTIONS | UNBALANCED, without, consistency=True)


def test_validity_and_plausibility_follow_the_choices() -> None:
    choices = {key: {"valid": ["red", "dogs", "yes"], "plausible": ["yes"]} for key in QUESTIONS}
    scores = evaluate(QUESTIONS, PREDICTIONS, choices=choices)
    assert (scores["validity"].value, scores["plausibility"].value, scores["validity"].n) == (60.0, 20.0, 5)
    with pytest.raises(UserError, match="choices file has no question 5"):
        evaluate(QUESTIONS, PREDICTIONS, choices={key: choices[key] for key in "1234"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no object of questions by id"),
        ("{", "is not JSON"),
        ('{"1": {"question": "What?"}}', "question 1 has no text 'answer'"),
        ('{"1": {"answer": "a", "types": {"semantic": "obj"}}}', r"question 1 has no types\.structural"),
    ],
)
def test_a_bad_questions_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{message}"):
        read_questions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "holds a JSON dict; predictions are a list"),
        ('[{"question_id": "1", "text": "a"}]', "entry 1 is .*; every entry needs questionId and a text prediction"),
        (
            '[{"questionId": "1", "prediction": "a"}, {"questionId": "1", "prediction": "b"}]',
            "answers question 1 by 'a' and 'b'; keep one",
        ),
    ],
)
def test_a_bad_predictions_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_predictions(path)


def test_number_ids_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('[{"questionId": 1, "prediction": "a"}, {"questionId": "1", "prediction": "a"}]')
    assert read_predictions(path) == {"1": "a"}


def test_the_command_prints_a_table_and_the_accuracy_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(QUESTIONS))
    rows = [{"questionId": key, "prediction": value} for key, value in PREDICTIONS.items()]
    (tmp_path / "testdev_balanced_predictions.json").write_text(json.dumps(rows))
    (tmp_path / "merge.jsonl").write_text("{}\n")
    write_provenance(tmp_path / "merge.jsonl", {"items": 5})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["eval_gqa", "--json", "new/scores.json", "--answers", "merge.jsonl"])
    eval_gqa.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 predictions are for other questions and were ignored"
    assert re.fullmatch(r"binary +66\.67 +27\.22 +3", lines[3])
    assert [line.split()[0] for line in lines if "absent:" in line] == ["consistency", "validity", "plausibility"]
    assert lines[-1] == "Accuracy: 60.00% ± 21.91 (n=5)"
    result = json.loads(Path("new/scores.json").read_text())
    assert result["scores"]["open"]["n"] == 2
    assert result["absent"].keys() == {"consistency", "validity", "plausibility"}
    assert result["correct"] == {"1": True, "2": True, "3": False, "4": False, "5": True}
    assert result["groups"]["binary"] == ["2", "4", "5"]
    score = json.loads(provenance_path(tmp_path / "merge.jsonl").read_text())["scores"]["gqa_testdev_balanced_accuracy"]
    assert score == {"value": 60.0, "standard_error": pytest.approx(21.9089), "n": 5}
    assert read_scores("merge.jsonl")["gqa_testdev_balanced_accuracy"].groups[""]["3"] == (0.0, 1.0)


def test_the_command_ends_with_code_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["eval_gqa", "--questions", str(tmp_path / "q.json")])
    with pytest.raises(SystemExit) as stop:
        eval_gqa.main()
    assert stop.value.code == 2
    error = f"error: {tmp_path / 'q.json'} is not there; it must be a GQA questions file: check the path\n"
    assert capsys.readouterr().err == error
