"""The terminal chat: prompts, turns, ends, errors."""

import builtins
import re
from ast import literal_eval

import pytest
from PIL import Image

from llava.conversation import conv_templates
from llava.serve import cli
from llava.serve.engine import Answer, Engine

from .conftest import prompt_of


@pytest.fixture
def red(tmp_path):
    Image.new("RGB", (40, 20), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png")


@pytest.fixture
def run(monkeypatch, capsys, red):
    """Types lines into the chat; gives what it printed."""

    def call(*lines, flags=(), model="m"):
        typed = iter(lines)
        asked = []

        def read(prompt):
            asked.append(prompt)
            line = next(typed, None)
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr(builtins, "input", read)
        monkeypatch.setattr("sys.argv", ["cli", "--model-path", model, "--image-file", red, "--device", "cpu", *flags])
        cli.main()
        return capsys.readouterr(), asked

    return call


class Scripted:
    """An engine that answers from a list, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def answer(self, ask, tell, given_up):
        self.asked.append(ask)
        answer = self.answers.pop(0)
        tell(Answer("A "))
        if isinstance(answer, BaseException):
            raise answer
        tell(Answer(answer, "stop"))
        return Answer(answer, "stop")


@pytest.fixture
def scripted(monkeypatch):
    def use(*answers):
        engine = Scripted(*answers)
        monkeypatch.setattr(Engine, "load", lambda *args, **options: engine)
        return engine

    return use


def test_two_turns_with_the_tiny_ccra_model(run, ccra_folder):
    printed, asked = run(
        "What is it?", "Where?", "", flags=["--temp", "0", "--max-new", "4", "--debug"], model=str(ccra_folder)
    )
    assert asked == ["USER: "] * 3
    assert printed.out.count("ASSISTANT: ") >= 2
    assert printed.out.endswith("exit...\n")
    first, second = (literal_eval(line.strip()) for line in printed.out.splitlines() if line.startswith(" {"))
    assert first["prompt"] == prompt_of("<image>\nWhat is it?")
    assert second["prompt"] == prompt_of("<image>\nWhat is it?", first["outputs"].strip(), "Where?")


def test_attanchor_by_flags(run, ccra_folder, monkeypatch):
    engines, load = [], Engine.load
    monkeypatch.setattr(Engine, "load", lambda *given, **more: engines.append(load(*given, **more)) or engines[0])
    flags = ["--mm_attanchor_direction", "text_into_image", "--mm_attanchor_tau", "0.2"]
    run("What is it?", flags=["--temp", "0", "--max-new", "2", *flags], model=str(ccra_folder))
    config = engines[0].model.config
    assert (config.mm_attanchor_direction, config.mm_attanchor_tau) == ("text_into_image", 0.2)


def test_the_dialogue_holds_no_special_tokens_and_ends_at_its_stop_string(run, scripted):
    engine = scripted("A cup.", "A red one.")
    printed, _ = run("What?", "Colour?", model="llava-v1.5-7b")
    assert printed.out == "ASSISTANT: A cup.\nASSISTANT: A red one.\nexit...\n"
    assert engine.asked[1].prompt.count("</s>") == 1
    assert engine.asked[1].prompt.endswith(" A cup.</s>USER: Colour? ASSISTANT:")
    assert engine.asked[0].stops == ["</s>"]
    assert len(engine.asked[1].pictures) == 1


def test_a_turn_that_fails_is_left_out_and_its_picture_asked_about_again(run, scripted, caplog):
    engine = scripted(RuntimeError("CUDA out of memory."), "A cup.")
    printed, _ = run("What?", "And now?", model="llava-v1.5-7b")
    told = re.search(
        r"^error: the model ran out of memory \(CUDA out of memory\.\).* \(error id (\w+)\)$", printed.err, re.M
    )
    (record,) = caplog.records
    assert told[1] in record.getMessage()
    assert record.exc_info[0] is RuntimeError
    assert "<image>\nAnd now?" in engine.asked[1].prompt
    assert "What?" not in engine.asked[1].prompt


def test_ctrl_c_stops_the_answer_and_keeps_it(run, scripted):
    engine = scripted(KeyboardInterrupt(), "Red.")
    run("What?", "Colour?", model="llava-v1.5-7b")
    assert " A</s>USER: Colour?" in engine.asked[1].prompt


@pytest.mark.parametrize(
    ("model", "flags", "prompt", "begin"),
    [
        ("llava-v1.5-7b", [], "USER: ", conv_templates["llava_v1"].system),
        ("llava-v1.5-7b", ["--conv-mode", "mpt"], "user: ", conv_templates["mpt"].system),
        ("llava-llama-2-13b", [], "USER: ", "[INST] <<SYS>>"),
        ("llava-13b", [], "Human: ", conv_templates["llava_v0"].system),
    ],
)
def test_templates_by_name_and_flag(model, flags, prompt, begin, run, scripted):
    engine = scripted("Yes.")
    _, asked = run("What?", model=model, flags=flags)
    assert asked[0] == prompt
    assert engine.asked[0].prompt.startswith(begin)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--conv-mode", "nothing"], "error: --conv-mode is 'nothing'; it must be one of"),
        (["--image-file", "missing.jpg"], "missing.jpg"),
    ],
)
def test_mistakes_are_one_line(flags, message, run, scripted, capsys):
    scripted()
    with pytest.raises(SystemExit, match="2"):
        run("What?", flags=flags, model="llava-v1.5-7b")
    assert message in capsys.readouterr().err
