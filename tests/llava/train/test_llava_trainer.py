"""What the trainer watches: losses that are no numbers, samples left out, tokens per second."""

import itertools
import json
import re

import pytest
import torch
from accelerate import Accelerator

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.model import LlavaLlamaForCausalLM
from llava.train import reporting
from llava.train.dataset import LazySupervisedDataset
from llava.train.llava_trainer import LLaVATrainer
from llava.train.reporting import TokenMeter


def test_a_loss_that_is_no_number_stops_with_the_samples_of_its_batch(run, recording, monkeypatch, tmp_path):
    """Sample 6 has pixels that are no numbers. The message names its batch, and the steps before it are kept."""
    order = [0, 1, 2, 3, 9, 6, 4, 5]
    monkeypatch.setattr(LLaVATrainer, "_get_train_sampler", lambda self, dataset=None: order)
    pixels = LazySupervisedDataset._pixels

    def with_a_poisoned_picture(self, paths):
        fields = pixels(self, paths)
        return fields | {"image": fields["image"] * float("nan")} if paths == ["img_14_84x28.png"] else fields

    monkeypatch.setattr(LazySupervisedDataset, "_pixels", with_a_poisoned_picture)
    with pytest.raises(UserError) as error:
        run("finetune_fp32tower", group_by_modality_length=False, max_steps=4, save_steps=1000)
    assert str(error.value) == (
        "the loss is nan at step 3, in the batch of samples 9 (id 'f009'), 6 (id 'f006'); look at these, "
        "or lower --learning_rate"
    )
    assert (tmp_path / "out" / "checkpoint-2" / "trainer_state.json").exists()
    assert all(torch.isfinite(parameter).all() for parameter in recording["trainers"][0].model.parameters())


def test_a_gradient_that_is_no_number_stops_before_the_update(run, recording, monkeypatch):
    monkeypatch.setattr(LLaVATrainer, "_get_train_sampler", lambda self, dataset=None: list(range(16)))
    step = LLaVATrainer.training_step

    def with_an_endless_gradient(self, model, inputs, *args, **kwargs):
        loss = step(self, model, inputs, *args, **kwargs)
        if self.state.global_step == 1:
            next(p for p in model.parameters() if p.requires_grad).grad.view(-1)[0] = float("inf")
        return loss

    monkeypatch.setattr(LLaVATrainer, "training_step", with_an_endless_gradient)
    message = "the gradient is inf at step 2, in the batch of samples 4 (id 'p004'), 5 (id 'p005'), 6 (id 'p006'), 7"
    with pytest.raises(UserError, match=re.escape(message)):
        run("pretrain_fp32tower", gradient_accumulation_steps=2, max_steps=3)
    assert all(torch.isfinite(parameter).all() for parameter in recording["trainers"][0].model.parameters())


def test_samples_left_out_are_reported_at_the_end(run, goldens, tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    for picture in (goldens / "images").iterdir():
        (folder / picture.name).write_bytes(picture.read_bytes())
    samples = json.loads((goldens / "data" / "pretrain16.json").read_text())
    for sample in samples[:3]:
        (folder / sample["image"]).unlink()
    run("pretrain_fp32tower", image_folder=folder, bad_image_policy="skip", max_steps=8)  # one epoch
    messages = [record.getMessage() for record in caplog.records]
    assert messages[-1] == "3 samples with bad pictures were left out; the warnings above name them"
    for sample in samples[:3]:
        assert any(sample["image"] in message and repr(sample["id"]) in message for message in messages)


def test_tokens_per_second_go_to_the_log_and_the_bar(run, monkeypatch, capfd):
    """One second between two looks at the clock; every position that the decoder reads counts, padding does not."""
    monkeypatch.setattr(LLaVATrainer, "_get_train_sampler", lambda self, dataset=None: list(range(16)))
    monkeypatch.setattr(reporting.time, "perf_counter", itertools.count().__next__)
    read = []
    prepare = LlavaLlamaForCausalLM.prepare_inputs_labels_for_multimodal

    def counted(self, *args, **kwargs):
        prepared = prepare(self, *args, **kwargs)
        read.append(int(prepared[2].sum()))
        return prepared

    monkeypatch.setattr(LlavaLlamaForCausalLM, "prepare_inputs_labels_for_multimodal", counted)
    out = run("finetune_fp32tower", group_by_modality_length=False, max_steps=3, disable_tqdm=False)
    history = [e for e in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in e]
    assert [entry["tokens_per_second"] for entry in history] == pytest.approx(read)
    assert f"loss {history[-1]['loss']:.3f}, {read[-1]} tokens/s" in capfd.readouterr().err


@pytest.mark.parametrize(("images", "pictures"), [("tensor", 2), ("tiles", 5), ("none", 0)])
def test_every_tile_counts_and_the_blank_picture_of_a_text_does_not(images, pictures):
    """Two samples of 6 and 4 tokens, the second a text when there are pictures of the first only."""
    ids = torch.ones(2, 6, dtype=torch.long)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if images == "tensor":
        ids[:, 1] = IMAGE_TOKEN_INDEX
        inputs["images"] = torch.zeros(2, 3, 4, 4)
    elif images == "tiles":
        ids[0, 1] = IMAGE_TOKEN_INDEX
        inputs["images"] = [torch.zeros(5, 3, 4, 4), torch.zeros(1, 3, 4, 4)]
    meter = TokenMeter(Accelerator(cpu=True), image_tokens=7)
    meter.add(inputs)
    assert meter.tokens == 10 - (ids == IMAGE_TOKEN_INDEX).sum() + 7 * pictures
