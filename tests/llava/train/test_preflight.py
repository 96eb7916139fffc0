"""What is found out before the first step instead of after the last."""

import json
import shutil
from collections import namedtuple

import pytest

from llava.errors import UserError
from llava.train import preflight
from llava.train import train as train_module
from llava.train.llava_trainer import LLaVATrainer
from llava.train.preflight import space_needed

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def never_started(monkeypatch):
    """No step may be made."""
    monkeypatch.setattr(LLaVATrainer, "training_step", lambda *_args, **_kwargs: pytest.fail("a step was made"))


@pytest.fixture
def samples(goldens, tmp_path):
    """A data file of 200 samples, of which the given ones have a question longer than the model reads."""

    def write(too_long: list[int]):
        sample = json.loads((goldens / "data" / "finetune16.json").read_text())[0]
        question = {"from": "human", "value": "<image>\n" + "why " * 600}
        long = sample | {"conversations": [question, sample["conversations"][1]]}
        data = [(long if index in too_long else sample) | {"id": f"s{index}"} for index in range(200)]
        (tmp_path / "data.json").write_text(json.dumps(data))
        return tmp_path / "data.json"

    return write


def test_data_without_labels_are_refused_with_an_example(samples, run, never_started, tmp_path):
    with pytest.raises(UserError) as error:
        run("finetune_fp32tower", data_path=samples([7, 100, 199]), model_max_length=512)
    assert str(error.value) == (
        f"{tmp_path}/data.json, sample 7 (id 's7'): nothing to learn from, its labels are all masked, like those of 3 "
        "out of 200 samples looked at (1.0% may be); is --version v1 right, and --model_max_length 512 long enough? "
        "If so, raise --max_masked_share"
    )


@pytest.mark.parametrize(("too_long", "share"), [([7, 100], 0.01), ([7, 100, 199], 0.02)])
def test_a_few_samples_without_labels_are_let_through(samples, too_long, share, run):
    path = samples(too_long)
    run("finetune_fp32tower", data_path=path, model_max_length=512, max_masked_share=share, max_steps=1)


def test_the_length_of_a_picture_counts(samples, run, recording, never_started):
    """The answer begins at token 76, and at 79 once four image tokens have taken the place of one."""
    with pytest.raises(UserError, match=r"like those of 200 out of 200 samples .*--model_max_length 79 long enough"):
        run("finetune_fp32tower", data_path=samples([]), model_max_length=79)
    preflight.check_labels(recording["trainers"][0].train_dataset, image_tokens=1, max_share=0.0)


def test_an_output_folder_that_cannot_be_written(run, monkeypatch, tmp_path):
    """Known before a model is loaded."""
    monkeypatch.setattr(train_module, "load_language_model", lambda *_args: pytest.fail("a model was loaded"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--output_dir .*file/out cannot be written \(Not a directory\); choose"):
        run("finetune_fp32tower", output_dir=tmp_path / "file" / "out")


@pytest.fixture
def generating(assets, tmp_path):
    """A model whose generation_config.json says so."""

    def model(**config):
        folder = shutil.copytree(assets / "vicuna_tiny", tmp_path / "model")
        (folder / "generation_config.json").write_text(json.dumps(config))
        return folder

    return model


def test_a_generation_config_that_cannot_be_saved(run, generating, never_started):
    with pytest.raises(UserError, match=r"could not be saved to .*`early_stopping`: `num_beams` is set to") as error:
        run("finetune_fp32tower", model_name_or_path=generating(early_stopping=True))
    assert "\n" not in str(error.value)


def test_a_generation_config_that_samples_without_saying_so_is_saved(run, generating):
    """Vicuna's own. transformers takes it at loading and refuses it at saving."""
    out = run("finetune_fp32tower", model_name_or_path=generating(temperature=0.9, typical_p=0.5), max_steps=1)
    assert json.loads((out / "generation_config.json").read_text())["do_sample"] is True


def test_a_disk_that_is_too_small(run, never_started, monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _path: Usage(10**10, 10**10, 10**6))
    message = r"has room for 0\.0 GB, but 2 checkpoints of about 0\.0 GB and the final weights need 0\.0 GB; free some"
    with pytest.raises(UserError, match=message):
        run("finetune_fp32tower", save_steps=1, save_total_limit=1)


@pytest.mark.parametrize("recorded", ["pretrain_fp32tower", "finetune_fp32tower", "lora"])
def test_space_needed_is_what_is_written(recorded, run, recording):
    """At most what a save takes, and not much less."""
    out = run(recorded, max_steps=1, save_steps=1)
    weights, checkpoint, kept = space_needed(recording["trainers"][0])
    assert kept == 1
    for needed, folder in ((weights, out), (checkpoint, out / "checkpoint-1")):
        written = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt", ".bin", ".pth")]
        size = sum(p.stat().st_size for p in written)
        assert 0.4 * size < needed < size, folder


def test_nothing_of_the_rehearsal_stays(run):
    out = run("lora", max_steps=1)
    assert not (out / preflight.REHEARSAL).exists()
