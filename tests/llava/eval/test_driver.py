import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava.errors import UserError
from llava.eval import driver, model_vqa_loader
from llava.eval.model_vqa_loader import eval_model
from llava.eval.provenance import provenance_path
from llava.model.builder import load_pretrained_model

pytestmark = pytest.mark.usefixtures("one_load")
Arguments = Callable[..., SimpleNamespace]
AnswersOf = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(arguments: Arguments, path: Path, **changes: Any) -> Path:
    eval_model(arguments(answers_file=str(path), **changes))
    return path


def provenance(path: Path) -> dict[str, Any]:
    return json.loads(provenance_path(path).read_text(encoding="utf-8"))


@pytest.mark.slow
def test_batches_of_four_answer_what_one_by_one_answers(
    write_questions: Callable[..., Path], arguments: Arguments, answers_of: AnswersOf, out: Path
) -> None:
    """200 questions of one to seven sentences, every fifth without a picture."""
    write_questions(200)
    one = run(arguments, out / "one.jsonl")
    four = run(arguments, out / "four.jsonl", batch_size=4, workers=2)
    answers = answers_of(one)
    assert answers_of(four) == answers
    assert [answer["question_id"] for answer in answers] == list(range(200))
    assert len({answer["text"] for answer in answers}) > 50  # the comparison would be worth nothing otherwise
    assert provenance(one)["inputs_digest"] == provenance(four)["inputs_digest"]


def test_tiled_pictures_batch_as_well(
    assets: Path, write_questions: Callable[..., Path], arguments: Arguments, answers_of: AnswersOf, out: Path
) -> None:
    write_questions(10)
    anyres = {"model_path": str(assets / "llava_tiny_anyres_unpad")}
    one = run(arguments, out / "one.jsonl", **anyres)
    four = run(arguments, out / "four.jsonl", batch_size=4, **anyres)
    assert answers_of(one) == answers_of(four)


class Generator:
    """Counts the batches that the model answers, and dies at one of them."""

    def __init__(self, generate_texts: Callable[..., list[str]]) -> None:
        self.generate_texts = generate_texts
        self.calls = 0
        self.kill_at: int | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        self.calls += 1
        if self.calls == self.kill_at:
            raise KeyboardInterrupt
        return self.generate_texts(*args, **kwargs)


@pytest.mark.parametrize(("temperature", "batch_size", "killed_at"), [(0, 1, 6), (0, 4, 4), (0.8, 4, 4)])
def test_a_killed_run_resumes_to_what_an_uninterrupted_one_gives(
    write_questions: Callable[..., Path],
    arguments: Arguments,
    answers_of: AnswersOf,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    temperature: float,
    batch_size: int,
    killed_at: int,
) -> None:
    write_questions(14)
    monkeypatch.setattr("llava.eval.batches.BATCHES_IN_WINDOW", 2)
    settings = {"temperature": temperature, "batch_size": batch_size}
    generator = Generator(driver.generate_texts)
    monkeypatch.setattr(driver, "generate_texts", generator)
    whole = run(arguments, out / "whole.jsonl", **settings)
    batches = generator.calls

    broken = out / "broken.jsonl"
    generator.kill_at = batches + killed_at
    with pytest.raises(KeyboardInterrupt):
        run(arguments, broken, **settings)
    assert provenance(broken)["status"] == "running"
    broken.write_bytes(broken.read_bytes()[:-9])  # kill -9 in the middle of the last line
    kept = broken.read_text().splitlines()[:-1]
    assert 0 < len(kept) < 13

    generator.kill_at, generator.calls = None, 0
    run(arguments, broken, resume=True, **settings)
    assert 0 < generator.calls < batches  # what stood was not answered again
    assert broken.read_text().splitlines()[: len(kept)] == kept
    assert answers_of(broken) == answers_of(whole)
    records = provenance(whole), provenance(broken)
    assert records[1]["resumed_at"] == [len(kept)]
    for same in ("status", "settings", "questions", "items", "inputs_digest", "model"):
        assert records[0][same] == records[1][same]


def test_attanchor_by_flags(
    write_questions: Callable[..., Path],
    arguments: Arguments,
    answers_of: AnswersOf,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    assets: Path,
) -> None:
    """A checkpoint that was trained without it; what was switched on stands in the record and may not change."""
    monkeypatch.setattr(driver, "load_pretrained_model", load_pretrained_model)  # not the one that tests share
    write_questions(6)
    plain, anchored = out / "plain.jsonl", out / "anchored.jsonl"
    on = {"mm_attanchor_direction": "text_into_image", "mm_attanchor_tau": -1.0}
    run(arguments, plain)
    run(arguments, anchored, **on)
    assert answers_of(plain) != answers_of(anchored)
    assert not [name for name in provenance(plain)["settings"] if "attanchor" in name]
    record = provenance(anchored)
    assert on.items() <= record["settings"].items()
    assert on.items() <= record["model"]["config"].items()
    with pytest.raises(UserError, match=r"was made with mm_attanchor_tau -1\.0, not 0\.5; settings must not mix"):
        run(arguments, anchored, resume=True, **on | {"mm_attanchor_tau": 0.5})
    with pytest.raises(UserError, match=r"was made with mm_attanchor_direction None, not 'text_into_image'"):
        run(arguments, plain, resume=True, **on)
    with pytest.raises(UserError, match="vicuna_tiny is a text-only model; AttAnchor needs one with a vision tower"):
        run(arguments, out / "text.jsonl", model_path=str(assets / "vicuna_tiny"), **on)


KILLED_IN_A_LINE = """
import os, signal
from llava.eval import answers, model_vqa_loader

write_line = answers.AnswersFile._line

def half_a_line(file, item, text):
    line = write_line(file, item, text)
    if file.finished == 5:
        file._file.write(line[: len(line) // 2])
        file._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return line

answers.AnswersFile._line = half_a_line
model_vqa_loader.main()
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_line_costs_nothing_but_that_line(
    write_questions: Callable[..., Path],
    arguments: Arguments,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_questions(9)
    flags = {name: value for name, value in vars(arguments()).items() if value is not None and name != "answers_file"}

    def command(path: Path, *more: str) -> list[str]:
        dashed = {"top_p", "num_beams", "max_new_tokens"}
        names = {name: f"--{name if name in dashed else name.replace('_', '-')}" for name in flags}
        words = [word for name, value in flags.items() for word in (names[name], str(value))]
        return [*words, "--answers-file", str(path), *more]

    def finish(path: Path, *more: str) -> bytes:
        monkeypatch.setattr("sys.argv", ["model_vqa_loader", *command(path, *more)])
        model_vqa_loader.main()
        return re.sub(rb'"answer_id": "\w+"', b"", path.read_bytes())

    broken = out / "broken.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_A_LINE, *command(broken)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = broken.read_bytes()
    assert left.count(b"\n") == 5
    assert not left.endswith(b"\n")
    assert finish(broken, "--resume") == finish(out / "whole.jsonl")
    assert broken.read_bytes().startswith(left[: left.rindex(b"\n") + 1])
    assert provenance(broken)["resumed_at"] == [5]


def test_a_complete_run_is_left_alone(
    write_questions: Callable[..., Path],
    arguments: Arguments,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_questions(2)
    path = run(arguments, out / "a.jsonl")
    before = path.read_bytes(), provenance_path(path).read_bytes()
    monkeypatch.delattr(driver, "load_pretrained_model")
    run(arguments, path, resume=True)
    assert (path.read_bytes(), provenance_path(path).read_bytes()) == before
    assert "is complete: nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 9}, "max_new_tokens 8, not 9"),
        ({"conv_mode": "llava_v0"}, "conv_mode 'vicuna_v1', not 'llava_v0'"),
        ({"temperature": 0.5}, "batch_size None, not 1"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    write_questions: Callable[..., Path], arguments: Arguments, out: Path, change: dict[str, Any], message: str
) -> None:
    write_questions(2)
    path = run(arguments, out / "a.jsonl")
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"a.jsonl was made with {message}"):
        run(arguments, path, resume=True, **change)
    assert path.read_bytes() == before


def test_resuming_with_another_checkpoint_of_the_same_name_is_refused(
    write_questions: Callable[..., Path], arguments: Arguments, out: Path, tiny_llava: Path, tmp_path: Path
) -> None:
    write_questions(2)
    path = run(arguments, out / "a.jsonl")
    retrained = shutil.copytree(tiny_llava, tmp_path / "retrained" / tiny_llava.name)
    assert run(arguments, path, resume=True, model_path=str(retrained))  # the same weights elsewhere
    weights = bytearray((retrained / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (retrained / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="was made with checkpoint"):
        run(arguments, path, resume=True, model_path=str(retrained))


def test_without_resume_an_answers_file_is_overwritten(
    write_questions: Callable[..., Path], arguments: Arguments, answers_of: AnswersOf, out: Path
) -> None:
    write_questions(3)
    out.mkdir()
    (out / "a.jsonl").write_text("something else\n" * 9)
    assert len(answers_of(run(arguments, out / "a.jsonl"))) == 3


def test_mistakes_are_found_before_the_model_loads_and_nothing_is_lost(
    write_questions: Callable[..., Path],
    arguments: Arguments,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_questions(3)
    path = run(arguments, out / "a.jsonl")
    before = path.read_bytes(), provenance_path(path).read_bytes()
    monkeypatch.delattr(driver, "load_pretrained_model")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "no_id.jsonl").write_text('{"text": "a"}\n')
    for changes, message in (
        ({"question_file": str(tmp_path / "empty.jsonl")}, "empty.jsonl is empty"),
        ({"question_file": str(tmp_path / "no_id.jsonl")}, "record 1 has no 'question_id'"),
        ({"image_folder": "/nowhere"}, "3 of 3 pictures are not there, first /nowhere/0.png of question 0"),
        ({"conv_mode": "v9"}, "--conv-mode is 'v9'"),
        ({"model_path": "nobody/has-this"}, "nobody/has-this is neither a folder here nor to be had from the hub"),
        ({"num_chunks": 2, "chunk_idx": 2}, "--chunk-idx is 2 of --num-chunks 2"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"workers": -1}, "--workers is -1"),
        ({"temperature": -0.1}, "--temperature is -0.1"),
        ({"top_p": 1.5}, "--top_p is 1.5"),
        ({"num_beams": 0}, "--num_beams is 0"),
    ):
        with pytest.raises(UserError, match=message):
            run(arguments, path, **changes)
        assert (path.read_bytes(), provenance_path(path).read_bytes()) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_stops_the_run_by_name_and_keeps_the_answers_before_it(
    write_questions: Callable[..., Path],
    arguments: Arguments,
    answers_of: AnswersOf,
    out: Path,
    tmp_path: Path,
    workers: int,
) -> None:
    write_questions(4)
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    with pytest.raises(
        UserError, match=r"2\.png of question 2 cannot be read as a picture \(.*\); replace the file"
    ) as error:
        run(arguments, out / "a.jsonl", workers=workers)
    assert "\n" not in str(error.value)
    assert len(answers_of(out / "a.jsonl")) == 2


def test_a_text_only_model_is_refused(
    assets: Path, write_questions: Callable[..., Path], arguments: Arguments, out: Path
) -> None:
    write_questions(1)
    with pytest.raises(UserError, match="vicuna_tiny is a text-only model"):
        run(arguments, out / "a.jsonl", model_path=str(assets / "vicuna_tiny"))
    assert not out.exists()


def test_a_chunk_without_questions_is_an_empty_file(
    write_questions: Callable[..., Path], arguments: Arguments, out: Path
) -> None:
    write_questions(5)  # ceil(5 / 4) = 2 each, so the fourth chunk is empty
    path = run(arguments, out / "4_3.jsonl", num_chunks=4, chunk_idx=3)
    assert path.read_bytes() == b""
    assert (provenance(path)["status"], provenance(path)["items"]) == ("complete", 0)


def test_provenance_tells_how_to_repeat_the_run(
    write_questions: Callable[..., Path], arguments: Arguments, out: Path, tiny_llava: Path
) -> None:
    questions = write_questions(6)
    record = provenance(run(arguments, out / "a.jsonl", num_chunks=2, chunk_idx=1, batch_size=2, random_seed=7))
    assert record["status"] == "complete"
    assert record["checkpoint"] == str(tiny_llava)
    assert record["settings"]["prompt_template"].endswith("USER: {question} ASSISTANT:")
    assert record["settings"]["temperature"] == 0
    assert record["questions"]["file"] == str(questions)
    assert (record["questions"]["num_chunks"], record["questions"]["chunk_idx"], record["items"]) == (2, 1, 3)
    assert (record["batch_size"], record["random_seed"]) == (2, 7)
    assert record["model"]["config"]["mm_projector_type"] == "mlp2x_gelu"
    assert record["model"]["dtype"] in ("float32", "float16")
    assert {"python", "torch", "transformers"} <= record["environment"]["versions"].keys()
    for digest in (
        record["settings"]["checkpoint"]["sha256"],
        record["model"]["vision_tower"]["sha256"],
        record["questions"]["sha256"],
        record["inputs_digest"],
    ):
        assert len(digest) == 64
        assert int(digest, 16)


def test_the_digest_changes_with_a_pixel_and_with_a_word(
    write_questions: Callable[..., Path], arguments: Arguments, out: Path, tmp_path: Path
) -> None:
    questions = write_questions(2)
    first = provenance(run(arguments, out / "a.jsonl"))["inputs_digest"]
    assert provenance(run(arguments, out / "a.jsonl"))["inputs_digest"] == first
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "images" / "0.png")
    second = provenance(run(arguments, out / "a.jsonl"))["inputs_digest"]
    questions.write_text(questions.read_text().replace("object", "thing"))
    third = provenance(run(arguments, out / "a.jsonl"))["inputs_digest"]
    assert len({first, second, third}) == 3


def test_a_bare_file_name_lies_in_the_current_folder(
    write_questions: Callable[..., Path], arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_questions(1)
    monkeypatch.chdir(tmp_path)
    eval_model(arguments(answers_file="bare.jsonl"))
    assert (tmp_path / "bare.jsonl").read_text().count("\n") == 1
