import json

import pytest

from llava.conversation import conv_templates
from llava.errors import UserError
from llava.serve.templates import stop_of, template_for_name, template_of_checkpoint


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("llava-v1.5-7b", "llava_v1"),
        ("LLaVA-v1.5-7B-ccra", "llava_v1"),
        ("llava-v1-plain", "v1_mmtag"),
        ("llava-v1-plain-finetune", "llava_v1"),
        ("llava-v1-mmtag", "v1_mmtag"),
        ("llava-13b", "llava_v0"),
        ("llava-13b-plain", "v0_mmtag"),
        ("llava-llama-2-13b-chat", "llava_llama_2"),
        ("llava-v1.6-mistral-7b", "mistral_instruct"),
        ("llava-mixtral-hermes", "chatml_direct"),
        ("llava-mistral-orca", "chatml_direct"),  # upstream: KeyError
        ("llava-v1.6-34b", "chatml_direct"),
        ("llava-mpt-7b", "mpt"),
        ("mpt-7b-chat", "mpt"),  # upstream: KeyError
        ("llama-2-7b-chat", "llama_2"),
        ("vicuna-13b", "vicuna_v1"),
        ("Llama-2-7b", "vicuna_v1"),  # case counts without llava
    ],
)
def test_by_name(name, template):
    assert template_for_name(name) == template
    assert template in conv_templates


@pytest.mark.parametrize(
    ("version", "template"),
    [("v1", "v1"), ("mpt", "mpt"), ("v0", "vicuna_v1"), ("v0.5", "vicuna_v1"), ("new", "vicuna_v1")],
)
def test_by_the_record_of_training(version, template, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"version": version}}))
    assert template_of_checkpoint(str(tmp_path)) == template


def test_without_a_record_or_with_a_broken_one(tmp_path):
    assert template_of_checkpoint(str(tmp_path)) is None
    assert template_of_checkpoint("liuhaotian/llava-v1.5-7b") is None
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is not a record of training"):
        template_of_checkpoint(str(tmp_path))


def test_what_ends_an_answer():
    ends = {name: stop_of(conv_templates[name]) for name in ("vicuna_v1", "llava_v0", "mpt", "llava_llama_2", "plain")}
    assert ends == {"vicuna_v1": "</s>", "llava_v0": "###", "mpt": "<|im_end|>", "llava_llama_2": "</s>", "plain": None}
