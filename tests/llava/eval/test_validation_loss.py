import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava import conversation
from llava.constants import IGNORE_INDEX
from llava.eval import validation_loss
from llava.eval.scores import read_scores
from llava.eval.validation_loss import build_parser, load_samples
from llava.model.builder import load_pretrained_model
from llava.train.dataset import DataCollatorForSupervisedDataset


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(conversation, "default_conversation", conversation.default_conversation)  # put back afterwards
    Image.new("RGB", (30, 20), "blue").save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "What colour?"}, {"from": "gpt", "value": "It is blue, I think."}]
    pictured = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A house."}]
    samples = [
        {"id": "1", "image": "a.png", "conversations": pictured},
        {"id": "2", "conversations": turns},
        {"id": "3", "image": "a.png", "conversations": [*pictured, *turns]},
    ]
    (tmp_path / "data.json").write_text(json.dumps(samples))
    return tmp_path / "data.json"


def test_the_loss_is_the_models_own_over_all_tokens(
    data: Path, tiny_llava: Path, run_main: Callable[..., str], tmp_path: Path
) -> None:
    flags = ("--model-path", tiny_llava, "--data-path", data, "--image-folder", data.parent)
    out = run_main(validation_loss, *flags, "--batch-size", "2", "--output", tmp_path / "new" / "losses.jsonl")

    args = build_parser().parse_args([str(flag) for flag in flags])
    tokenizer, model, processor, _ = load_pretrained_model(str(tiny_llava), None, "llava", device="cpu")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    collate = DataCollatorForSupervisedDataset(tokenizer)
    units = {}
    for number, item in enumerate(load_samples(args, tokenizer, processor, model.config)):
        with torch.inference_mode():
            loss = model(**collate([item])).loss.item()
        count = int((item["labels"][1:] != IGNORE_INDEX).sum())
        units[str(number)] = (pytest.approx(loss * count, rel=1e-4), count)
    kept = read_scores(tmp_path / "new" / "losses.jsonl")["validation_loss"]
    assert kept.groups[""] == units
    total = sum(count for _, count in units.values())
    assert out.startswith(f"Validation loss: {kept.score().value:.4f} ± ")
    assert out.endswith(f" (3 samples, {total} tokens)\n")
    lines = [json.loads(line) for line in (tmp_path / "new" / "losses.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in lines] == [0, 1, 2]


def test_attanchor_moves_it(data: Path, tiny_llava: Path, run_main: Callable[..., str]) -> None:
    flags = ("--model-path", tiny_llava, "--data-path", data, "--image-folder", data.parent)
    on = ("--mm_attanchor_direction", "text_into_image", "--mm_attanchor_tau")
    plain, nothing, everything = (run_main(validation_loss, *flags, *more) for more in ((), (*on, 1), (*on, -1)))
    assert plain == nothing != everything


def test_mistakes_are_told_in_one_line(data: Path, tiny_llava: Path, assets: Path, refusal: Callable[..., str]) -> None:
    flags = ("--data-path", data, "--image-folder", data.parent)
    assert "vicuna_tiny is a text-only model" in refusal(
        validation_loss, "--model-path", assets / "vicuna_tiny", *flags
    )
    assert "--conv-mode is 'v9'" in refusal(validation_loss, "--model-path", tiny_llava, *flags, "--version", "v9")
    (data.parent / "a.png").unlink()
    assert "a.png does not exist" in refusal(validation_loss, "--model-path", tiny_llava, *flags)
