"""The look at a training file: what it counts, what it finds, how it ends."""

import json
import shutil
from pathlib import Path

import pytest

from llava.data import check as check_module
from llava.data.check import check, histogram, main, read_with_lines
from llava.errors import UserError
from llava.tokenization import load_tokenizer


def sample(own_id, question="What?", answer="A cup.", **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": own_id, "conversations": turns, **more}


@pytest.fixture
def write(tmp_path):
    def writer(*samples):
        path = tmp_path / "data.json"
        path.write_text(json.dumps(list(samples), indent=1))
        return str(path)

    return writer


@pytest.fixture(scope="module")
def tokenizer(assets):
    tokenizer = load_tokenizer(str(assets / "tokenizer_legacy"))
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def test_lines_are_those_of_the_file(write):
    path = write(sample("a"), sample("b"), "no sample")
    lines = Path(path).read_text().splitlines()
    entries = read_with_lines(path)
    assert [lines[line - 1].strip()[0] for line, _ in entries] == ["{", "{", '"']
    assert entries[1][1]["id"] == "b"
    assert '"b"' in lines[entries[1][0]]


def test_good_data_passes(goldens, tokenizer, capsys):
    path = str(goldens / "data" / "finetune16.json")
    report = check(path, str(goldens / "images"), tokenizer, image_tokens=16, workers=2)
    assert (report.samples, report.text_only, report.pictures, report.tokenised) == (16, 3, 13, 16)
    assert report.passes
    assert not report.findings
    assert sum(report.length_histogram.values()) == 16
    assert report.longest[0].id == "f005"
    shorter = check(path, None, tokenizer, image_tokens=1, model_max_length=100)
    assert shorter.longer_than_limit > 0


def test_length_counts_what_a_picture_becomes(write, tokenizer):
    lengths = []
    for tokens in (1, 577):
        report = check(write(sample("a", "<image>\nWhat?", image="a.png")), None, tokenizer, image_tokens=tokens)
        lengths.append(int(report.longest[0].problem.split()[0]))
    assert lengths[1] - lengths[0] == 576


def test_what_would_stop_training_is_found(write, goldens, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(goldens / "images" / "img_00_28x28.png", folder / "good.png")
    (folder / "broken.png").write_bytes(b"no picture")
    path = write(
        sample("fine", "<image>\nWhat?", image="good.png"),
        sample("gone", "<image>\nWhat?", image="gone.png"),
        sample("broken", "<image>\nWhat?", image="broken.png"),
        sample("no image", "<image>\nWhat?"),
        {"id": "turns", "conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]},
        sample("fine"),
    )
    report = check(path, str(folder))
    assert [finding.id for finding in report.findings] == ["gone", "broken", "no image", "turns"]
    assert report.fatal == 4
    assert report.duplicate_ids == {"fine": 2}
    with pytest.raises(SystemExit) as stop:
        main([path, "--image-folder", str(folder), "--workers", "1"])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert "gone.png does not exist" in out
    assert "ids that occur more than once: 1, such as 'fine' (2 times)" in out
    assert "training would fail: 4 samples break a rule" in out


def test_too_many_samples_without_anything_to_learn(write, tokenizer, monkeypatch):
    path = write(sample("a"), sample("b", answer=""))
    report = check(path, None, tokenizer)
    assert (report.all_masked, report.fatal, report.passes) == (1, 0, False)
    monkeypatch.setattr(check_module, "SHARE_ALL_MASKED", 0.5)
    assert report.passes


def test_json_for_machines(write, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([write(sample("a")), "--json", "-"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["passes"] is True
    with pytest.raises(SystemExit):
        main([write(sample("a")), "--json", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text())["samples"] == 1


def test_a_wrong_command_is_exit_code_2(write, tmp_path, capsys):
    (tmp_path / "object.json").write_text("{}")
    for argv, message in (
        ([str(tmp_path / "object.json")], "holds a JSON dict; it must hold a list of samples"),
        ([write(sample("a")), "--image-folder", "/nowhere"], "--image-folder /nowhere does not exist"),
        ([write(sample("a")), "--version", "v9"], "--version is 'v9'; it must be one of"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_sample_of_the_lengths_is_taken(write, tokenizer):
    report = check(write(*(sample(i) for i in range(40))), None, tokenizer, sample_size=10)
    assert (report.samples, report.tokenised) == (40, 10)


def test_histogram():
    counts = histogram([1, 16, 17, 128, 129], 128)
    assert list(counts.values()) == [2, 1, 0, 0, 0, 0, 0, 1, 1]
    assert [*counts][::8] == ["1-16", "over 128"]


def test_user_errors_name_the_rule(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        check(str(tmp_path / "none.json"))
