"""The ways in which other programs call a LLaVA: evaluation harnesses, the hosted demo, their kinds of tensors."""

from argparse import Namespace
from threading import Thread

import pytest
import torch
from PIL import Image
from transformers import TextIteratorStreamer

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import SeparatorStyle, conv_templates
from llava.mm_utils import KeywordsStoppingCriteria, get_model_name_from_path, process_images, tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.utils import disable_torch_init


@pytest.fixture(scope="module")
def path(assets):
    return str(assets / "llava_tiny_mlp2x_gelu")


@pytest.fixture(scope="module")
def pictures(goldens):
    return [Image.open(goldens / "images" / name) for name in ("img_01_64x48.png", "photo_90x60.jpg")]


def prompt_of(question, template="vicuna_v1"):
    conversation = conv_templates[template].copy()
    conversation.append_message(conversation.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{question}")
    conversation.append_message(conversation.roles[1], None)
    return conversation.get_prompt()


def test_lmms_eval(path, pictures):
    """First an argument that it relies on being refused, then batches and log-likelihoods on float16 pictures."""
    name = get_model_name_from_path(path)
    arguments = {"device_map": "cpu", "attn_implementation": "sdpa"}
    with pytest.raises(TypeError):
        load_pretrained_model(path, None, name, multimodal=True, **arguments)
    tokenizer, model, processor, length = load_pretrained_model(path, None, name, **arguments)
    assert length == 2048
    model.eval()
    model.tie_weights()
    model.config.image_aspect_ratio = "pad"
    pixels = process_images(pictures, processor, model.config).to(torch.float16)
    sizes = [picture.size for picture in pictures]
    greedy = {
        "do_sample": False,
        "temperature": 0,
        "top_p": None,
        "num_beams": 1,
        "max_new_tokens": 6,
        "use_cache": True,
    }
    rows = [
        tokenizer_image_token(prompt_of(question), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
        for question in ("What is on the table?", "Why?")
    ]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id or 0)
    mask = torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    together = model.generate(padded, attention_mask=mask, pad_token_id=0, images=pixels, image_sizes=sizes, **greedy)
    assert together.shape == (2, 6)  # new tokens only: all of it is decoded as the answer
    for row, picture, size, answer in zip(rows, pixels, sizes, together, strict=True):
        alone = model.generate(row.unsqueeze(0), images=picture.unsqueeze(0), image_sizes=[size], **greedy)
        assert alone[0].tolist() == answer.tolist()

    labels = rows[0].clone().unsqueeze(0)
    labels[:, :-3] = IGNORE_INDEX
    ids = rows[0].unsqueeze(0)
    with torch.no_grad():
        outputs = model(input_ids=ids, labels=labels, images=pixels[:1], use_cache=True, image_sizes=sizes[:1])
        in_float = model(input_ids=ids, images=pixels[:1].float())
    assert outputs["loss"].isfinite()
    assert outputs["logits"].shape[1] == ids.shape[1] + 15
    torch.testing.assert_close(outputs["logits"], in_float["logits"], atol=2e-2, rtol=0)


def test_vlmevalkit(path, pictures):
    tokenizer, model, processor, _ = load_pretrained_model(
        model_path=path, model_base=None, model_name="llava-tiny", device_map="cpu"
    )
    pixels = process_images(pictures[:1], processor, Namespace(image_aspect_ratio="pad")).to("cpu", torch.float16)
    ids = tokenizer_image_token("USER: <image>\nWhat? ASSISTANT: ", tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")
    ids = ids.unsqueeze(0)
    criteria = KeywordsStoppingCriteria(["</s>"], tokenizer, ids)
    answer = model.generate(
        ids, images=pixels, stopping_criteria=[criteria],
        do_sample=False, temperature=0, max_new_tokens=8, top_p=None, num_beams=1, use_cache=True,
    )  # fmt: skip
    # Its first words as a stop word: the answer ends where they do.
    word = tokenizer.decode(answer[0, :2])
    criteria = KeywordsStoppingCriteria([word], tokenizer, ids)
    stopped = model.generate(ids, images=pixels, stopping_criteria=[criteria], do_sample=False, max_new_tokens=8)
    assert stopped.shape[1] < 8
    assert word in tokenizer.batch_decode(stopped, skip_special_tokens=True)[0]


def test_replicate(path, pictures):
    """By keyword, pictures straight from the processor, a streamer in another thread."""
    undo = disable_torch_init()
    tokenizer, model, processor, _ = load_pretrained_model(
        path, model_name="llava-v1.5-13b", model_base=None, load_8bit=False, load_4bit=False, device="cpu"
    )
    undo.close()
    pixels = processor.preprocess(pictures[0].convert("RGB"), return_tensors="pt")["pixel_values"].half()
    conversation = conv_templates["llava_v1"]
    assert (conversation.sep2, conversation.sep_style) == ("</s>", SeparatorStyle.TWO)
    ids = tokenizer_image_token(prompt_of("What?", "llava_v1"), tokenizer, return_tensors="pt").unsqueeze(0)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=20.0)
    arguments = {"inputs": ids, "images": pixels, "do_sample": False, "max_new_tokens": 6, "use_cache": True}
    thread = Thread(target=model.generate, kwargs=arguments | {"streamer": streamer})
    thread.start()
    streamed = "".join(streamer)
    thread.join()
    assert streamed.strip() == tokenizer.decode(model.generate(**arguments)[0]).strip()


@pytest.mark.parametrize(
    "way", [{"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 2}, {"attention_mask": True}]
)
def test_ways_to_generate(way, path, pictures):
    tokenizer, model, processor, _ = load_pretrained_model(path, None, "llava-tiny", device="cpu")
    pixels = process_images(pictures[:1], processor, model.config)
    ids = tokenizer_image_token(prompt_of("What?"), tokenizer, return_tensors="pt").unsqueeze(0)
    way = way | {"attention_mask": torch.ones_like(ids)} if "attention_mask" in way else way
    expected = model.generate(ids, images=pixels, do_sample=False, max_new_tokens=6)
    got = model.generate(ids, images=pixels, do_sample=False, max_new_tokens=6, **way)
    assert got.shape[1] <= 6
    assert "num_beams" in way or got.tolist() == expected.tolist()


def test_a_long_prompt_is_not_cut_when_it_is_answered(path, pictures):
    """What training cuts off at ``tokenizer_model_max_length`` is the end of the prompt: the question (defect M9)."""
    tokenizer, model, processor, _ = load_pretrained_model(path, None, "llava-tiny", device="cpu")
    pixels = process_images(pictures[:1], processor, model.config)
    ids = tokenizer_image_token(prompt_of("What is it?"), tokenizer, return_tensors="pt").unsqueeze(0)
    expected = model.generate(ids, images=pixels, do_sample=False, max_new_tokens=6)
    model.config.tokenizer_model_max_length = 20
    assert model.generate(ids, images=pixels, do_sample=False, max_new_tokens=6).tolist() == expected.tolist()
    assert model(ids, images=pixels).logits.shape[1] == 20


def test_what_generate_refuses(path):
    _, model, _, _ = load_pretrained_model(path, None, "llava-tiny", device="cpu")
    with pytest.raises(NotImplementedError, match="`inputs_embeds` is not supported"):
        model.generate(torch.tensor([[1]]), inputs_embeds=torch.zeros(1, 1, 64))


@pytest.mark.parametrize("device_map", ["cpu", {"": "cpu"}, "auto", None])
def test_device_maps(device_map, path):
    _, model, _, _ = load_pretrained_model(path, None, "llava-tiny", device_map=device_map)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
