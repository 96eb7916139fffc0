import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.eval import model_vqa_loader
from llava.eval.model_vqa_loader import CustomDataset, create_data_loader
from llava.eval.records import read_json_lines
from llava.model.builder import load_pretrained_model


def test_the_loader_gives_what_generate_takes(
    tiny_llava: Path, tmp_path: Path, write_questions: Callable[[int], Path]
) -> None:
    questions = read_json_lines(str(write_questions(3)))
    tokenizer, model, processor, _ = load_pretrained_model(str(tiny_llava), None, "llava", device="cpu")
    loader = create_data_loader(
        questions, str(tmp_path / "images"), tokenizer, processor, model.config, num_workers=1, conv_mode="vicuna_v1"
    )
    batches = list(loader)
    assert len(batches) == 3
    input_ids, pixels, sizes = batches[2]
    assert (input_ids == IMAGE_TOKEN_INDEX).sum() == 1
    assert (input_ids.shape[0], tuple(pixels.shape), sizes) == (1, (1, 3, 28, 28), [(22, 30)])
    assert model.generate(input_ids, images=pixels, image_sizes=sizes, max_new_tokens=2, do_sample=False).shape == (
        1,
        2,
    )

    with pytest.raises(UserError, match="batch_size is 2; this loader does not pad"):
        create_data_loader(questions, "", tokenizer, processor, model.config, batch_size=2)
    (tmp_path / "images" / "0.png").write_text("no picture")
    dataset = CustomDataset(questions, str(tmp_path / "images"), tokenizer, processor, model.config)
    with pytest.raises(UserError, match=r"0\.png of question 0 cannot be read"):
        dataset[0]
    assert torch.equal(dataset[1][1], batches[1][1][0])


def test_a_mistake_on_the_command_line_is_one_line_and_code_2(
    arguments: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["model_vqa_loader", "--quest", "/nowhere/q.jsonl"])
    with pytest.raises(SystemExit) as stop:
        model_vqa_loader.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: /nowhere/q.jsonl is not there;")
    assert error.count("\n") == 1
