"""To transformers' own LLaVA class and back: the same logits, the same greedy text, the same pixels and prompts.

That class is also the oracle: an implementation of the model that is not ours, with the same weights.
"""

import json
import shutil
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava.constants import IMAGE_TOKEN_INDEX
from llava.conversation import conv_templates
from llava.errors import UserError
from llava.mm_utils import process_images, tokenizer_image_token
from llava.model import convert_hf
from llava.model.builder import load_pretrained_model
from llava.model.convert_hf import chat_template, convert
from llava.tokenization import load_tokenizer

PICTURES = ("img_01_64x48.png", "img_03_100x20.png", "photo_90x60.jpg")
QUESTIONS = ("What is on the table?", "Is it  raining?\nAnswer in one word.", "<image> again?")


@pytest.fixture(scope="module")
def there(assets, tmp_path_factory):
    """Upstream's tiny checkpoint in transformers' form."""
    folder = tmp_path_factory.mktemp("convert") / "tiny-hf"
    convert(str(assets / "llava_tiny_mlp2x_gelu"), str(folder))
    return folder


@pytest.fixture(scope="module")
def back(there):
    folder = there.parent / "llava-tiny-back"
    convert(str(there), str(folder))
    return folder


@pytest.fixture(scope="module")
def hf(there):
    model, info = LlavaForConditionalGeneration.from_pretrained(there, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


@pytest.fixture(scope="module")
def ours(assets):
    return load_pretrained_model(str(assets / "llava_tiny_mlp2x_gelu"), None, "llava-tiny", device="cpu")


def prompt_of(question):
    conversation = conv_templates["vicuna_v1"].copy()
    conversation.append_message(conversation.roles[0], f"<image>\n{question.replace('<image>', 'this picture')}")
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


def expanded(ids, model, count=16):
    """Ids as transformers' class takes them: one <image> for each patch."""
    times = torch.where(ids[0] == IMAGE_TOKEN_INDEX, count, 1)
    return ids[0].where(ids[0] != IMAGE_TOKEN_INDEX, model.config.image_token_id).repeat_interleave(times).unsqueeze(0)


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_logits_and_greedy_text_are_transformers_own(question, picture, ours, hf, goldens):
    tokenizer, model, processor, _ = ours
    ids = tokenizer_image_token(prompt_of(question), tokenizer, return_tensors="pt").unsqueeze(0)
    pixels = process_images([Image.open(goldens / "images" / picture)], processor, model.config)
    with torch.no_grad():
        logits = model(ids, images=pixels).logits
        theirs = hf(input_ids=expanded(ids, hf), pixel_values=pixels).logits
    assert theirs.shape[-1] == 1536  # 1500 and two, rounded up
    torch.testing.assert_close(theirs[..., :1500], logits, rtol=0, atol=1e-5)
    greedy = {"max_new_tokens": 8, "do_sample": False}
    generated = model.generate(ids, images=pixels, **greedy)
    whole = hf.generate(input_ids=expanded(ids, hf), pixel_values=pixels, **greedy)
    assert whole[0, -generated.shape[1] :].tolist() == generated[0].tolist()


def test_several_pictures_and_a_padded_batch(ours, hf, goldens):
    tokenizer, model, processor, _ = ours
    two = tokenizer_image_token("USER: <image>\n<image>\nCompare. ASSISTANT:", tokenizer, return_tensors="pt")
    one = tokenizer_image_token("USER: <image>\nSay. ASSISTANT:", tokenizer, return_tensors="pt")
    pixels = process_images([Image.open(goldens / "images" / name) for name in PICTURES], processor, model.config)
    ids = torch.stack([two, torch.nn.functional.pad(one, (0, len(two) - len(one)))])
    mask = torch.stack([torch.ones_like(two), (torch.arange(len(two)) < len(one)).long()])
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, images=pixels).logits
        for row, length, own in ((0, len(two) + 30, slice(0, 2)), (1, len(one) + 15, slice(2, 3))):
            source = (two, one)[row].unsqueeze(0)
            theirs = hf(input_ids=expanded(source, hf), pixel_values=pixels[own]).logits[..., :1500]
            torch.testing.assert_close(logits[row, :length], theirs[0], rtol=0, atol=1e-5)


def test_there_and_back_is_the_same_weights(there, back, assets):
    source = load_file(assets / "llava_tiny_mlp2x_gelu" / "model.safetensors")
    again = load_file(back / "model.safetensors")
    assert again.keys() == {name for name in source if "vision_tower" not in name}
    assert all(torch.equal(value, source[name]) for name, value in again.items())
    tower = load_file(back / "vision_tower" / "model.safetensors")
    assert tower.keys() == load_file(assets / "clip_tiny" / "model.safetensors").keys()
    assert all(torch.equal(value, source[f"model.vision_tower.vision_tower.{name}"]) for name, value in tower.items())

    config = json.loads((back / "config.json").read_text())
    before = json.loads((assets / "llava_tiny_mlp2x_gelu" / "config.json").read_text())
    own = {"mm_vision_tower": str(back / "vision_tower"), "transformers_version": config["transformers_version"]}
    own |= {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "image_aspect_ratio": "pad"}
    shared = before.keys() & config.keys()
    assert {"mm_hidden_size", "mm_projector_type", "mm_vision_select_layer", "rope_theta", "torch_dtype"} <= shared
    assert {key: config[key] for key in shared} == {key: before[key] for key in shared} | {
        key: value for key, value in own.items() if key in shared
    }


def test_names_are_those_of_the_hub(there, assets):
    """As in llava-hf/llava-1.5-7b-hf, which transformers 4 reads too."""
    names = set(load_file(there / "model.safetensors"))
    theirs = {"language_model.lm_head.weight", "multi_modal_projector.linear_1.bias"}
    theirs |= {"language_model.model.layers.0.self_attn.q_proj.weight", "language_model.model.embed_tokens.weight"}
    assert theirs <= names
    assert {f"vision_tower.{name}" for name in load_file(assets / "clip_tiny" / "model.safetensors")} <= names
    files = {path.name for path in there.iterdir()}
    assert {"config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"} <= files
    assert {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"} <= files


def test_the_converted_folder_loads_and_answers_alike(back, ours, goldens):
    tokenizer, model, processor, _ = ours
    tokenizer_2, model_2, processor_2, _ = load_pretrained_model(str(back), None, "llava-tiny-back", device="cpu")
    prompt = prompt_of(QUESTIONS[0])
    ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt").unsqueeze(0)
    assert tokenizer_image_token(prompt, tokenizer_2) == ids[0].tolist()
    assert tokenizer_2.legacy == tokenizer.legacy
    assert len(tokenizer_2) == len(tokenizer) == 1500
    picture = Image.open(goldens / "images" / PICTURES[0])
    pixels = [process_images([picture], p, m.config) for p, m in ((processor, model), (processor_2, model_2))]
    if getattr(model.config, "image_aspect_ratio", None) == "pad":
        assert torch.equal(*pixels)
    with torch.no_grad():
        logits = [m(ids, images=pixels[0]).logits for m in (model, model_2)]
    assert torch.equal(*logits)


@pytest.mark.parametrize("legacy", [True, False])
def test_the_processor_makes_llavas_inputs(legacy, assets, goldens, tmp_path):
    source = tmp_path / "llava-source"
    shutil.copytree(assets / "llava_tiny_mlp2x_gelu", source)
    shutil.copy(assets / f"tokenizer_{'legacy' if legacy else 'nonlegacy'}" / "tokenizer_config.json", source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"image_aspect_ratio": "pad"}))
    convert(str(source), str(tmp_path / "hf"))
    processor = AutoProcessor.from_pretrained(tmp_path / "hf")
    picture = Image.open(goldens / "images" / PICTURES[0])
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[0]}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt == prompt_of(QUESTIONS[0])

    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    tokenizer, model, image_processor, _ = load_pretrained_model(str(source), None, "llava-source", device="cpu")
    assert torch.equal(inputs["pixel_values"], process_images([picture], image_processor, model.config))
    hf = LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt").unsqueeze(0)
    theirs, llavas = inputs["input_ids"].tolist(), expanded(ids, hf).tolist()
    if legacy:
        assert theirs == llavas
    else:  # LLaVA begins a new text after the picture, with a dummy prefix; transformers goes on without
        assert theirs != llavas
    generated = hf.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 2


def test_chat_template_of_a_long_dialogue():
    from jinja2 import Environment

    conversation = conv_templates["vicuna_v1"].copy()
    turns = ["<image>\nWhat \"is\" it?\nA 'cat'?", "A {cat}.", "Where?", "Here."]
    for number, text in enumerate(turns):
        conversation.append_message(conversation.roles[number % 2], text)
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": text.removeprefix("<image>\n")}
        for number, text in enumerate(turns)
    ]
    messages[0]["content"] = [{"type": "text", "text": messages[0]["content"]}, {"type": "image"}]
    template = Environment().from_string(chat_template(conversation))
    assert template.render(messages=messages) == conversation.get_prompt()
    system = [{"role": "system", "content": "Be short."}, *messages]
    assert template.render(messages=system) == conversation.get_prompt().replace(conversation.system, "Be short.")
    start_end = Environment().from_string(chat_template(conversation, start_end=True))
    assert "USER: <im_start><image><im_end>\nWhat" in start_end.render(messages=messages)
    assert chat_template(conv_templates["llava_llama_2"]) is None


def test_command_line(assets, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert_hf", *map(str, arguments)])
        convert_hf.main()

    run("--src", assets / "llava_tiny_mlp2x_gelu", "--dst", tmp_path / "hf", "--template", "llava_v1")
    assert "curious human" in (tmp_path / "hf" / "chat_template.jinja").read_text()
    with pytest.raises(SystemExit) as stop:
        run("--src", assets / "llava_tiny_mlp2x_gelu", "--dst", tmp_path / "hf")
    assert stop.value.code == 2
    assert "hf is not empty; give a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_type": "ccra"}, "mm_projector_type is 'ccra'; transformers' LLaVA has mlp2x_gelu only"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'; transformers' LLaVA has mlp2x_gelu only"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is anyres"),
        ({"mm_attanchor_direction": "both"}, "works with AttAnchor"),
        ({"s2": True}, "s2 is on; transformers' LLaVA looks at one scale"),
        ({"model_type": "llava_mpt"}, "runs on MPT"),
    ],
)
def test_what_transformers_does_not_have(change, message, assets, tmp_path):
    folder = tmp_path / "llava-source"
    shutil.copytree(assets / "llava_tiny_mlp2x_gelu", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        convert(str(folder), str(tmp_path / "hf"))
    assert not (tmp_path / "hf").exists()


def test_added_tokens_stay_added(goldens, assets, tmp_path):
    """<im_patch>, <im_start> and <im_end> keep their places in front of <image>, and what they are for."""
    source = tmp_path / "llava-source"
    shutil.copytree(goldens / "load" / "llava-tiny-imstartend", source)
    shutil.copy(assets / "tokenizer.model", source)
    config = (source / "config.json").read_text().replace("@GOLDENS@/assets", str(assets))
    (source / "config.json").write_text(config)
    convert(str(source), str(tmp_path / "hf"))
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["image_token_index"] == 1503
    assert "<im_start><image><im_end>" in (tmp_path / "hf" / "chat_template.jinja").read_text()
    convert(str(tmp_path / "hf"), str(tmp_path / "llava-back"))
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "llava-back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    tokenizer, model, _, _ = load_pretrained_model(str(tmp_path / "llava-back"), None, "llava-back", device="cpu")
    assert tokenizer.convert_tokens_to_ids(["<im_patch>", "<im_start>", "<im_end>"]) == [1500, 1501, 1502]
    assert (model.config.mm_use_im_start_end, model.config.mm_use_im_patch_token) == (True, True)


def test_what_is_not_there(there, assets, tmp_path):
    with pytest.raises(UserError, match="is a text model; there is nothing to convert"):
        convert(str(assets / "vicuna_tiny"), str(tmp_path / "x"))
    without = tmp_path / "without"
    shutil.copytree(there, without)
    (without / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.model; name the language model that has it: --tokenizer"):
        convert(str(without), str(tmp_path / "x"))
    convert(str(without), str(tmp_path / "named"), tokenizer=str(assets / "vicuna_tiny"))
    assert len(load_tokenizer(str(tmp_path / "named"))) == 1500
    config = json.loads((without / "config.json").read_text())
    (without / "config.json").write_text(json.dumps(config | {"image_token_index": 7}))
    with pytest.raises(UserError, match=r"has 1500 tokens, but <image> has the id 7; give the language model's own"):
        convert(str(without), str(tmp_path / "x"), tokenizer=str(assets / "vicuna_tiny"))
    with pytest.raises(UserError, match=r"in the form of transformers' own LLaVA classes; .*convert_hf --src"):
        load_pretrained_model(str(there), None, "llava-tiny-hf", device="cpu")
