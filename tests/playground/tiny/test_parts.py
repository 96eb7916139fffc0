"""The tiny parts, with a few steps in place of the recipe's, through the loaders that the real ones go through."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, CLIPModel, CLIPVisionModel, LlamaForCausalLM

from llava.conversation import conv_templates
from llava.mm_utils import load_image_processor
from llava.tokenization import encode_with_offsets, load_tokenizer
from playground.tiny import clip, easy_vqa, language_model, text, tokenizer

PICTURES = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first pictures of the train split, in the layout of the whole."""
    folder = tmp_path_factory.mktemp("easy_vqa")
    easy_vqa.write_training_files(folder, easy_vqa.Recipe())
    for name in ("pretrain.json", "finetune.json"):
        samples = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(samples[:PICTURES]))
    (folder / "images" / "train").mkdir(parents=True)
    for number, path in easy_vqa.read_picture_paths("train").items():
        if number < PICTURES:
            (folder / "images" / "train" / f"{number}.png").write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tokenizer_folder(cache: Path, data: Path) -> Path:
    return tokenizer.build(cache, data, tokenizer.Recipe(vocab_size=500))


@pytest.fixture(autouse=True)
def no_randomness_left_behind() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), state)


def test_dialogues_are_the_training_prompt_without_the_picture(data: Path) -> None:
    first, *_ = text.dialogues(data)
    sample = json.loads((data / "finetune.json").read_text())[0]
    question = sample["conversations"][0]["value"].removeprefix("<image>\n")
    answer = sample["conversations"][1]["value"]
    assert first.startswith(f"{conv_templates['v1'].system} USER: {question} ASSISTANT: {answer}</s>USER: ")
    assert first.endswith("</s>")
    assert "<image>" not in first
    assert len(text.corpus(data)) == 2 * PICTURES


def test_told_samples_put_the_caption_in_the_pictures_place(data: Path) -> None:
    told = text.told_samples(data, questions=3)
    caption, *_ = text.captions(data)
    turns = json.loads((data / "finetune.json").read_text())[0]["conversations"]
    first, second = ("".join(segment.text for segment in segments) for segments in told[:2])
    assert f"USER: {caption}\n{turns[0]['value'].removeprefix('<image>').strip()} ASSISTANT:" in first
    assert f"USER: {caption}\n{turns[6]['value']}{easy_vqa.SHORT_ANSWER} ASSISTANT:" in second
    assert first.count("USER:") == second.count("USER:") == 3
    assert [segment.text for segment in told[0] if segment.trained] == [
        f" {turn['value']}</s>" for turn in turns[1:6:2]
    ]
    plain = told[-PICTURES]
    assert [(segment.text, segment.trained) for segment in plain] == [(caption, False), (f"{caption}\n", True)]
    asked = sum(len(sample["conversations"]) // 2 for sample in json.loads((data / "finetune.json").read_text()))
    assert sum("".join(segment.text for segment in segments).count("USER:") for segments in told) == asked


def test_tokenizer_has_llamas_layout(tokenizer_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_folder))
    config = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    assert {path.name for path in tokenizer_folder.iterdir()} >= {"tokenizer.model", "tokenizer_config.json"}
    assert (config["tokenizer_class"], config["add_bos_token"], config["legacy"]) == ("LlamaTokenizer", True, False)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert len(tokenizer) == 500
    assert tokenizer("red").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.convert_ids_to_tokens(tokenizer("\n").input_ids)[-1] == "<0x0A>"
    assert tokenizer.decode(tokenizer("größer ☃").input_ids, skip_special_tokens=True) == "größer ☃"


def test_tokenizer_is_the_same_in_each_build(tmp_path: Path, tokenizer_folder: Path, data: Path) -> None:
    again = tokenizer.build(tmp_path, data, tokenizer.Recipe(vocab_size=500))
    assert (again / "tokenizer.model").read_bytes() == (tokenizer_folder / "tokenizer.model").read_bytes()


def test_each_answer_is_one_token(tokenizer_folder: Path) -> None:
    """Then the loss weighs all answers alike, and an answer needs one step of decoding."""
    tokenizer = load_tokenizer(str(tokenizer_folder))
    for answer in easy_vqa.ANSWERS:
        assert len(tokenizer(answer).input_ids) == 2, answer


def test_offsets_cover_a_dialogue(tokenizer_folder: Path, data: Path) -> None:
    prompt = text.dialogues(data)[0]
    ids, spans = encode_with_offsets(load_tokenizer(str(tokenizer_folder)), prompt)
    assert ids == load_tokenizer(str(tokenizer_folder))(prompt).input_ids
    assert spans[-1] == (len(prompt) - len("</s>"), len(prompt))


def test_clip_loads_as_openais_do(cache: Path, data: Path, tokenizer_folder: Path) -> None:
    recipe = clip.Recipe(steps=2, batch_size=8)
    folder = clip.build(cache, data, tokenizer_folder, recipe)
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "clip"
    assert config.vision_config.num_hidden_layers >= 6
    assert config.text_config.eos_token_id == config.text_config.vocab_size - 1
    processor = load_image_processor(str(folder))
    pixels = clip.load_pixels(data, processor)
    assert pixels.shape == (PICTURES, 3, 64, 64)
    whole = CLIPModel.from_pretrained(folder).eval()
    tower = CLIPVisionModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = tower(pixels[:2], output_hidden_states=True).hidden_states
        expected = whole.vision_model(pixels[:2]).last_hidden_state
    assert [tuple(state.shape) for state in states] == [(2, 65, 64)] * 7
    torch.testing.assert_close(states[-1], expected)


def test_clip_is_the_same_for_a_seed_and_another_for_another(cache: Path, data: Path, tokenizer_folder: Path) -> None:
    recipe = clip.Recipe(steps=1, batch_size=8)
    folders = [cache / name for name in ("first", "second", "third")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        folder.mkdir()
        clip.make(folder, data, tokenizer_folder, replace(recipe, seed=seed))
    first, second, third = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert first != third


def test_contrastive_loss_shares_positives() -> None:
    captions = torch.eye(2)
    caption_of = torch.tensor([0, 0, 1])
    perfect = clip.contrastive_loss(captions[caption_of], captions, caption_of, torch.tensor(50.0))
    # Two pictures share the first caption, so its best softmax over pictures is one half each: log 2, half of the
    # captions, half of the two directions.
    torch.testing.assert_close(perfect, torch.tensor(2.0).log() / 4)
    wrong = clip.contrastive_loss(captions[1 - caption_of], captions, caption_of, torch.tensor(50.0))
    assert wrong > 10


def test_shift_moves_within_reach_and_repeats_the_edge() -> None:
    picture = torch.zeros(1, 1, 9, 9)
    picture[..., 4, 4] = 1
    generator = torch.Generator().manual_seed(0)
    places = {tuple(clip.shifted(picture, 2, generator)[0, 0].nonzero()[0].tolist()) for _ in range(200)}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert clip.shifted(torch.full((1, 1, 4, 4), 7.0), 3, generator).unique().tolist() == [7.0]


def test_batches_count_steps_and_pass_over_all() -> None:
    drawn = list(clip.batches(10, 3, 7, torch.Generator().manual_seed(0)))
    assert [len(indices) for indices in drawn] == [3] * 7
    assert len(torch.cat(drawn[:3]).unique()) == 9
    assert len(torch.cat(drawn[3:6]).unique()) == 9


def test_language_model_loads_and_learns(cache: Path, data: Path, tokenizer_folder: Path) -> None:
    recipe = language_model.Recipe(width=32, layers=1, heads=2, batch_size=4, steps=30, learning_rate=1e-2)
    folder = language_model.build(cache, data, tokenizer_folder, recipe)
    model = LlamaForCausalLM.from_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 2
    ids, labels = language_model.encode(text.told_samples(data, recipe.questions)[:1], tokenizer)[0]
    with torch.no_grad():
        loss = model(ids.unsqueeze(0), labels=labels.unsqueeze(0)).loss
    assert loss < 3 < torch.tensor(float(len(tokenizer))).log()


def test_a_part_is_built_anew_when_what_it_rests_on_changes(cache: Path, data: Path, tokenizer_folder: Path) -> None:
    recipe = language_model.Recipe(width=16, layers=1, heads=2, batch_size=2, steps=1)
    first = language_model.build(cache, data, tokenizer_folder, recipe)
    assert language_model.build(cache, data, tokenizer_folder, recipe) == first
    assert language_model.build(cache, data, tokenizer_folder, replace(recipe, steps=2)) != first
    other = tokenizer.build(cache, data, tokenizer.Recipe(vocab_size=501))
    assert other != tokenizer_folder
    assert language_model.build(cache, data, other, recipe) != first
