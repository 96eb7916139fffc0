"""Switching AttAnchor on and off for a model that stands, and by flags."""

import argparse
import logging
from types import SimpleNamespace

import pytest
import torch

from ccra_patch.attanchor import AttAnchorSettings
from llava.attanchor import add_attanchor_flags, enable_attanchor, given_attanchor_flags, record_attanchor
from llava.conversation import conv_templates
from llava.errors import UserError
from llava.eval.settings import add_driver_flags
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_pretrained_model
from llava.query_markers import query_markers
from llava.tokenization import load_tokenizer

V1 = conv_templates["v1"]
DEFAULTS = vars(AttAnchorSettings())


@pytest.fixture(scope="module")
def tokenizer(assets):
    return load_tokenizer(str(assets / "vicuna_tiny"))


def model_with(**config) -> SimpleNamespace:
    return SimpleNamespace(config=SimpleNamespace(**config))


def test_on_over_and_off(tokenizer):
    model = model_with()
    enable_attanchor(model, tokenizer, V1, mm_attanchor_direction="image_into_text", mm_attanchor_tau=0.3)
    markers = query_markers(V1, tokenizer).to_dict()
    on = DEFAULTS | {"mm_attanchor_direction": "image_into_text", "mm_attanchor_tau": 0.3}
    assert vars(model.config) == on | {"mm_query_markers": markers}

    think = {"mm_attanchor_think_tokens": 4, "mm_attanchor_think_token": "the"}
    enable_attanchor(model, tokenizer, V1, **think)
    (the,) = tokenizer("the", add_special_tokens=False).input_ids
    assert vars(model.config) == on | think | {"mm_query_markers": markers, "mm_attanchor_think_id": the}

    enable_attanchor(model, tokenizer, V1, mm_attanchor_direction="off")
    assert {name: getattr(model.config, name) for name in DEFAULTS} == DEFAULTS


def test_the_template_in_use_gives_the_markers(tokenizer):
    model = model_with(mm_query_markers=query_markers(V1, tokenizer).to_dict())
    mistral = conv_templates["mistral_instruct"]
    enable_attanchor(model, tokenizer, mistral, mm_attanchor_direction="text_into_image")
    assert model.config.mm_query_markers == query_markers(mistral, tokenizer).to_dict()


def test_a_config_that_never_knew_it_stays_clean(tokenizer):
    config = SimpleNamespace(hidden_size=8)
    record_attanchor(config, AttAnchorSettings(), tokenizer, V1)
    assert vars(config) == {"hidden_size": 8}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mm_attanchor_tau": 0.2}, r"mm_attanchor_tau is 0\.2, but mm_attanchor_direction is off"),
        ({"mm_attanchor_direction": "both"}, r"mm_attanchor_direction is 'both'; it must be one of"),
        (
            {"mm_attanchor_direction": "image_into_text", "mm_attanchor_think_tokens": 2},
            r"mm_attanchor_think_token is '\.\.\.', which this tokenizer writes as 4 tokens; choose a text that",
        ),
    ],
)
def test_refusals(settings, message, tokenizer):
    model = model_with()
    with pytest.raises(UserError, match=message):
        enable_attanchor(model, tokenizer, V1, **settings)
    assert vars(model.config) == {}, "a refusal leaves the model as it was"


def test_an_unknown_key_is_a_type_error(tokenizer):
    with pytest.raises(TypeError, match="mm_attanchor_theta"):
        enable_attanchor(model_with(), tokenizer, V1, mm_attanchor_theta=1)


def test_a_template_without_questions_is_worth_a_word(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        enable_attanchor(model_with(), tokenizer, conv_templates["plain"], mm_attanchor_direction="text_into_image")
    assert "the template has no human turns, so AttAnchor finds no question and changes nothing" in caplog.text


def test_flags_mean_the_configs_keys():
    parser = argparse.ArgumentParser()
    add_attanchor_flags(parser)
    assert given_attanchor_flags(parser.parse_args([])) == {}
    given = parser.parse_args(
        ["--mm_attanchor_direction", "image_into_text", "--mm_attanchor_tau", "0.2", "--mm_attanchor_think_tokens", "3"]
    )
    assert given_attanchor_flags(given) == {
        "mm_attanchor_direction": "image_into_text",
        "mm_attanchor_tau": 0.2,
        "mm_attanchor_think_tokens": 3,
    }
    assert given_attanchor_flags(SimpleNamespace(model_path="x")) == {}


def test_flags_break_no_abbreviation_of_a_driver():
    def understood(with_ours: bool) -> set[str]:
        parser = argparse.ArgumentParser(exit_on_error=False)
        add_driver_flags(parser, max_new_tokens=128)
        known = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
        known = [flag for flag in known if not flag.startswith("--mm_attanchor")]
        if not with_ours:
            parser = argparse.ArgumentParser(exit_on_error=False)
            for flag in known[1:]:  # the first is --help
                parser.add_argument(flag)
        prefixes = {flag[:length] for flag in known for length in range(3, len(flag) + 1)}
        return {prefix for prefix in prefixes if len(parser._get_option_tuples(prefix)) == 1}

    assert understood(True) == understood(False)


def test_a_checkpoint_that_was_trained_without_it(assets):
    """A released LLaVA, switched on and asked: the answer's sequence holds the copies."""
    path = str(assets / "llava_tiny_mlp2x_gelu")
    tokenizer, model, _, _ = load_pretrained_model(path, None, "llava_tiny", device="cpu")
    conv = V1.copy()
    conv.append_message(conv.roles[0], "<image>\nWhat is on the table?")
    conv.append_message(conv.roles[1], None)
    ids = tokenizer_image_token(conv.get_prompt(), tokenizer, return_tensors="pt").unsqueeze(0)
    images = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    before = model(ids, images=images).logits.shape[1]
    enable_attanchor(model, tokenizer, V1, mm_attanchor_direction="text_into_image", mm_attanchor_tau=-1.0)
    assert model(ids, images=images).logits.shape[1] > before
    enable_attanchor(model, tokenizer, V1, mm_attanchor_direction="off")
    assert model(ids, images=images).logits.shape[1] == before
