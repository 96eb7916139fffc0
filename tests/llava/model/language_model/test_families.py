"""Mistral and MPT beside Llama: the same mix-in, so what is tested is what differs between decoders."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, MistralForCausalLM, MptForCausalLM

import llava.model
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model import LlavaMistralConfig, LlavaMistralForCausalLM, LlavaMptConfig, LlavaMptForCausalLM
from llava.model.builder import load_pretrained_model
from llava.tokenization import load_tokenizer
from llava.train.arguments import ModelArguments

FAMILIES = {
    "mistral": (LlavaMistralForCausalLM, MistralForCausalLM, "tokenizer_legacy"),
    "mpt": (LlavaMptForCausalLM, MptForCausalLM, "tokenizer_bytelevel"),
}


def config_of(family, **changes):
    if family == "mpt":
        settings = {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 256, "vocab_size": 1200}
        return LlavaMptConfig(**(settings | changes))
    settings = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlavaMistralConfig(**(settings | {"num_key_value_heads": 2, "vocab_size": 1500} | changes))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(family, assets):
    torch.manual_seed(0)
    model = FAMILIES[family][0](config_of(family, initializer_range=0.1)).eval()
    flags = {"vision_tower": str(assets / "clip_tiny"), "mm_vision_select_layer": -2}
    model.get_model().initialize_vision_modules(ModelArguments(mm_projector_type="mlp2x_gelu", **flags))
    model.config.mm_use_im_patch_token = False
    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))


PROMPT = torch.tensor([[1, 9, 30, IMAGE_TOKEN_INDEX, 41, 7]])


def test_names_of_the_package():
    names = {}
    exec("from llava.model import *", names)
    for family in ("", "Mistral", "Mpt"):
        assert f"Llava{family}Config" in names
        assert f"Llava{family or 'Llama'}ForCausalLM" in names
    assert set(llava.model.__all__) <= set(names)


def test_state_dict_names_are_upstreams(family, assets, goldens):
    recorded = json.loads((goldens / "misc.json").read_text())[f"{family}_keys_without_tower"]
    eyes = {"mm_vision_tower": str(assets / "clip_tiny"), "mm_vision_select_layer": -2, "mm_hidden_size": 32}
    layers = {"n_layers": 1} if family == "mpt" else {}
    assert list(FAMILIES[family][0](config_of(family, **eyes, **layers)).state_dict()) == recorded


def test_forward_is_the_decoders_on_the_merged_sequence(family, model, images):
    plain = FAMILIES[family][1](model.config).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        visual = model.encode_images(images[:1])
        table = model.get_input_embeddings().weight
        sequence = torch.cat([table[PROMPT[:, :3]], visual, table[PROMPT[:, 4:]]], dim=1)
        expected = plain(inputs_embeds=sequence).logits
        labels = PROMPT.masked_fill(PROMPT < 0, IGNORE_INDEX)
        output = model(PROMPT, images=images[:1], labels=labels)
        text = model(PROMPT[:, :3]).logits
        expected_text = plain(PROMPT[:, :3]).logits
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(text, expected_text)
    merged = torch.cat([labels[:, :3], torch.full((1, 16), IGNORE_INDEX), labels[:, 4:]], dim=1)
    loss = torch.nn.functional.cross_entropy(expected[0, :-1], merged[0, 1:])
    torch.testing.assert_close(output.loss, loss)


def test_gradients_reach_projector_and_decoder(family, model, images):
    model.train()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model(PROMPT, images=images[:1], labels=PROMPT.masked_fill(PROMPT < 0, IGNORE_INDEX)).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_generation_with_and_without_cache_alone_and_in_a_batch(family, model, images):
    greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    alone = model.generate(PROMPT, images=images[:1], **greedy)
    assert alone.shape == (1, 6)
    assert model.generate(PROMPT, images=images[:1], use_cache=False, **greedy).tolist() == alone.tolist()
    shorter = torch.tensor([[1, IMAGE_TOKEN_INDEX, 12]])
    both = torch.cat([PROMPT, torch.nn.functional.pad(shorter, (3, 0))])
    mask = torch.ones_like(both)
    mask[1, :3] = 0
    together = model.generate(both, images=images, attention_mask=mask, **greedy)
    assert together[0].tolist() == alone[0].tolist()
    assert together[1].tolist() == model.generate(shorter, images=images[1:], **greedy)[0].tolist()


@pytest.mark.parametrize("wish", [{}, {"attn_implementation": "sdpa"}])
def test_a_saved_model_comes_back_by_the_loader(family, wish, model, images, assets, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    load_tokenizer(str(assets / FAMILIES[family][2])).save_pretrained(tmp_path)
    _, again, processor, context = load_pretrained_model(str(tmp_path), None, "a name", device="cpu", **wish)
    assert type(again) is type(model)
    assert processor.crop_size["height"] == 28
    assert context == 2048
    with torch.no_grad():
        torch.testing.assert_close(again(PROMPT, images=images[:1]).logits, model(PROMPT, images=images[:1]).logits)
    expects_message = family == "mpt" and bool(wish)
    assert ("LlavaMptForCausalLM has no attn_implementation sdpa; using its own" in caplog.text) is expects_message
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is type(model)


@pytest.mark.parametrize("items", [None, 11])
def test_loss_alone_is_the_loss_beside_the_logits(model, images, items):
    ids = torch.cat([PROMPT, PROMPT.flip(1)])
    labels = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.5, IGNORE_INDEX)
    labels[ids == IMAGE_TOKEN_INDEX] = IGNORE_INDEX
    widths = []
    model.lm_head.register_forward_hook(lambda head, given, logits: widths.append(logits.shape[:-1].numel()))
    gradients = []
    for loss_only in (False, True):
        found = model(ids, labels=labels, images=images, loss_only=loss_only, num_items_in_batch=items)
        assert (found.logits is None) == loss_only
        found.loss.backward()
        gradients.append([found.loss] + [p.grad.clone() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    for alone, beside in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, beside, rtol=1e-5, atol=1e-6)
    assert widths[1] == (labels[:, 1:] != IGNORE_INDEX).sum() < widths[0]
