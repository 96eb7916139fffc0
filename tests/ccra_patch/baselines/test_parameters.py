"""How large each baseline is with the sizes of LLaVA-1.5, and which layers it reads: the published figures."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ccra_patch.baselines import IGVA, MLVFExternalDirect, MMFuser
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.multimodal_projector.registry import registered_projectors


def count(projector) -> int:
    return sum(parameter.numel() for parameter in projector.parameters())


def build(name: str, text_dim: int):
    with torch.device("meta"):
        return build_vision_projector(
            SimpleNamespace(mm_projector_type=name, mm_hidden_size=1024, hidden_size=text_dim)
        )


@pytest.mark.parametrize(
    ("name", "with_7b", "with_13b"),
    [
        ("mlp2x_gelu", 20_979_712, 31_467_520),
        ("dense_connector_sti", 20_979_712, 31_467_520),
        ("dense_connector_sci", 29_368_320, 41_953_280),
        ("dense_connector_dci", 29_368_320, 41_953_280),
        ("mmfuser", 26_170_304, 36_658_112),
        ("mlvf_ed", 29_368_320, 41_953_280),
        # The published 52,221,956 with W_s of the LLM's width instead of 768, see below.
        ("igva", 52_221_956 + 1024 * (4096 - 768), 63_758_340 + 1024 * (5120 - 768)),
    ],
)
def test_parameters_with_llava_7b_and_13b(name, with_7b, with_13b):
    assert count(build(name, 4096)) == with_7b
    assert count(build(name, 5120)) == with_13b


def test_the_table_of_the_docs_counts_alike():
    page = (Path(__file__).parents[3] / "docs" / "choosing_a_projector.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\d+) \| ([\d,]+) \| \+?([\d,]+)", page, flags=re.M)
    assert {name for name, *_ in rows} == {spec.name for spec in registered_projectors() if spec.settings is not None}
    for name, tokens, parameters, more in rows:
        projector = build(name, 4096)
        assert count(projector) == int(parameters.replace(",", "")), name
        assert count(projector) - 20_979_712 == int(more.replace(",", "")), name
        assert tokens == ("720" if name == "dense_connector_sti" else "576")


def test_igva_with_a_sentence_embedding_of_768_numbers():
    with torch.device("meta"):
        igva = IGVA(1024, 4096, question_dim=768)
    assert count(igva.aggregator) == 27_047_940
    assert count(igva.mlp) == 25_174_016
    assert count(igva) == 52_221_956


def test_igva_by_average_has_no_aggregator():
    with torch.device("meta"):
        assert count(IGVA(1024, 4096, average=True)) == 25_174_016


@pytest.mark.parametrize(("groups", "parameters"), [(1, 8_392_704), (2, 10_489_856)])
def test_mlvf_with_its_own_language_model(groups, parameters):
    with torch.device("meta"):
        assert count(MLVFExternalDirect(1024, 2048, groups)) == parameters


@pytest.mark.parametrize(("levels", "parameters"), [(1, 4_600_192), (2, 4_796_992), (4, 5_190_592), (12, 6_764_992)])
def test_the_block_of_mmfuser_and_of_mlvfs_modular_form(levels, parameters):
    with torch.device("meta"):
        fuser = MMFuser(1024, 4096, levels)
    assert count(fuser) - count(fuser.mlp) == parameters


@pytest.mark.parametrize(
    ("name", "layers", "class_token"),
    [
        ("dense_connector_sti", (7, 15), False),
        ("dense_connector_sci", (7, 15), False),
        ("dense_connector_dci", tuple(range(24)), False),
        ("mmfuser", (3, 8, 13, 18), False),
        ("igva", tuple(range(1, 25)), True),
        ("mlvf_ed", (3, 18), False),
    ],
)
def test_layers_read_by_default(name, layers, class_token):
    needs = build(name, 4096).needs
    assert needs.layers == layers
    assert needs.class_token == class_token
    assert needs.query == ("human" if name == "igva" else None)
