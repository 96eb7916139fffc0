"""CCRASettings: what is refused, in which words, and how a config is read."""

import re
from dataclasses import fields
from types import SimpleNamespace

import pytest

from ccra_patch.settings import CCRASettings, require_layers
from llava.errors import UserError
from llava.train.arguments import parse_arguments

SIGMA_NOTE = "(to switch smoothing off, set mm_ccra_kernel_size to 1)"


def test_defaults_are_the_papers_and_valid():
    settings = CCRASettings()
    settings.validate()
    assert (settings.mm_ccra_hidden_dim, settings.mm_ccra_kernel_size, settings.mm_ccra_sigma) == (128, 5, 1.0)
    assert (settings.mm_ccra_norm_order, settings.mm_ccra_query) == ("pre", "human")


def test_every_field_is_a_flag_with_help():
    for field in fields(CCRASettings):
        assert field.name.startswith("mm_ccra_")
        assert field.metadata["help"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mm_ccra_kernel_size", 0, "mm_ccra_kernel_size is 0; it must be at least 1 (1 = no smoothing)"),
        ("mm_ccra_kernel_size", 2.5, "mm_ccra_kernel_size is 2.5; it must be a whole number (1 = no smoothing)"),
        ("mm_ccra_hidden_dim", -1, "mm_ccra_hidden_dim is -1; it must be at least 1 (the paper uses 128)"),
        ("mm_ccra_hidden_dim", True, "mm_ccra_hidden_dim is True; it must be a whole number (the paper uses 128)"),
        (
            "mm_ccra_sigma",
            0.0,
            "mm_ccra_sigma is 0.0; it must be a finite number above 0 " + SIGMA_NOTE,
        ),
        (
            "mm_ccra_sigma",
            float("nan"),
            "mm_ccra_sigma is nan; it must be a finite number above 0 " + SIGMA_NOTE,
        ),
        (
            "mm_ccra_sigma",
            "wide",
            "mm_ccra_sigma is 'wide'; it must be a number above 0 " + SIGMA_NOTE,
        ),
        (
            "mm_ccra_norm_order",
            "prae",
            "mm_ccra_norm_order is 'prae'; it must be one of pre, post; did you mean 'pre'?",
        ),
        ("mm_ccra_query", 3, "mm_ccra_query is 3; it must be one of human, first, last"),
        (
            "mm_ccra_integration",
            "suffled",
            "mm_ccra_integration is 'suffled'; it must be one of pai, decoupled, shuffled; did you mean 'shuffled'?",
        ),
        (
            "mm_ccra_disable",
            ["lwca", "pcwa"],
            "mm_ccra_disable is 'pcwa'; it must be one of lpwca, lwca, pwca; did you mean 'pwca'?",
        ),
        ("mm_ccra_disable", "lwca", "mm_ccra_disable is 'lwca'; it must be a list of steps: lpwca, lwca, pwca"),
        (
            "mm_ccra_disable",
            ["pwca", "lwca", "lpwca"],
            "mm_ccra_disable names lpwca, lwca, pwca; keep one of them, or nothing reads the question",
        ),
        (
            "mm_ccra_normalize",
            ["query", "key"],
            "mm_ccra_normalize is 'key'; it must be one of query, keys; did you mean 'keys'?",
        ),
        ("mm_ccra_normalize", "keys", "mm_ccra_normalize is 'keys'; it must be a list of: query, keys"),
        (
            "mm_ccra_grounding",
            -0.1,
            "mm_ccra_grounding is -0.1; it must be a finite number of at least 0 (0 = no such loss)",
        ),
        (
            "mm_ccra_grounding",
            "much",
            "mm_ccra_grounding is 'much'; it must be a number of at least 0 (0 = no such loss)",
        ),
        ("mm_ccra_layers", [3, 3], "mm_ccra_layers is [3, 3]; it must name each hidden state once"),
        (
            "mm_ccra_layers",
            [8, 3],
            "mm_ccra_layers is [8, 3]; it must ascend, from 0 (the embeddings) at least: smoothing follows depth",
        ),
        (
            "mm_ccra_layers",
            [-2, 3],
            "mm_ccra_layers is [-2, 3]; it must ascend, from 0 (the embeddings) at least: smoothing follows depth",
        ),
        (
            "mm_ccra_layers",
            "all",
            "mm_ccra_layers is 'all'; it must list at least one hidden state (0 = embeddings, i = block i)",
        ),
        (
            "mm_ccra_layers",
            [23],
            "mm_ccra_layers is [23], but lwca weighs layers against each other; name two at least, or add lwca to "
            "mm_ccra_disable",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_value_name_and_rule(name, value, message):
    with pytest.raises(ValueError) as caught:
        CCRASettings(**{name: value}).validate()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"mm_ccra_disable": ["lwca"], "mm_ccra_kernel_size": 3},
            "mm_ccra_kernel_size is 3, but mm_ccra_disable leaves out lwca, whose scores it smooths; drop one of them",
        ),
        (
            {"mm_ccra_disable": ["lwca"], "mm_ccra_sigma": 2.0},
            "mm_ccra_sigma is 2.0, but mm_ccra_disable leaves out lwca, whose scores it smooths; drop one of them",
        ),
        (
            {"mm_ccra_kernel_size": 1, "mm_ccra_sigma": 2.0},
            "mm_ccra_sigma is 2.0, but mm_ccra_kernel_size 1 does not smooth; drop one of them",
        ),
        (
            {"mm_ccra_disable": ["pwca", "lpwca"], "mm_ccra_norm_order": "post"},
            "mm_ccra_norm_order is post, but mm_ccra_disable leaves out both steps that modulate; drop one of them",
        ),
        (
            {"mm_ccra_disable": ["lpwca"], "mm_ccra_normalize": ["query", "keys"]},
            "mm_ccra_normalize names keys, but mm_ccra_disable leaves out lpwca, whose keys they are; drop one of them",
        ),
        (
            {"mm_ccra_disable": ["lpwca"], "mm_ccra_grounding": 0.1},
            "mm_ccra_grounding is 0.1, but mm_ccra_disable leaves out lpwca, whose scores it is a loss on; "
            "drop one of them",
        ),
        (
            {"mm_ccra_disable": ["pwca"], "mm_ccra_integration": "decoupled"},
            "mm_ccra_integration is decoupled, but mm_ccra_disable leaves out pwca; decoupled sets lwca and pwca in "
            "relation to each other: take pai, or keep both",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given, message):
    with pytest.raises(ValueError) as caught:
        CCRASettings(**given).validate()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "given",
    [
        *({"mm_ccra_kernel_size": size} for size in range(1, 8)),
        *({"mm_ccra_hidden_dim": dim} for dim in (64, 96, 128, 160, 192, 256, 320, 384)),
        *({"mm_ccra_integration": name} for name in ("pai", "decoupled", "shuffled")),
        *({"mm_ccra_disable": [name]} for name in ("lpwca", "lwca", "pwca")),
        {"mm_ccra_disable": ["lpwca"], "mm_ccra_integration": "shuffled"},
        {"mm_ccra_disable": ["lwca"], "mm_ccra_layers": [23]},
        {"mm_ccra_layers": [0, 8, 16, 24]},
        {"mm_ccra_normalize": ["query", "keys"], "mm_ccra_depth_groups": 3},
        {"mm_ccra_normalize": ["query"], "mm_ccra_disable": ["lpwca", "lwca"]},
        {"mm_ccra_grounding": 0.1, "mm_ccra_integration": "shuffled"},
    ],
)
def test_every_arm_of_the_papers_studies_and_ours_is_legal(given):
    CCRASettings(**given).validate()


def test_from_config_fills_in_defaults_and_ignores_the_rest():
    config = SimpleNamespace(mm_ccra_kernel_size=3, mm_ccra_query="last", hidden_size=4096)
    assert CCRASettings.from_config(config) == CCRASettings(mm_ccra_kernel_size=3, mm_ccra_query="last")


def test_from_config_validates():
    with pytest.raises(ValueError, match="mm_ccra_kernel_size is 0"):
        CCRASettings.from_config(SimpleNamespace(mm_ccra_kernel_size=0))


@pytest.mark.parametrize("value", [[], 7, "7", [7, "15"], [True]])
def test_layers_are_a_list_of_indices(value):
    with pytest.raises(
        ValueError, match=r"^mm_x_layers is .*; it must list at least one hidden state \(0 = embeddings"
    ):
        require_layers("mm_x_layers", value)


def test_a_layer_is_named_once():
    require_layers("mm_x_layers", [-2, 7, 0])
    with pytest.raises(ValueError, match=r"^mm_x_layers is \[7, 15, 7\]; it must name each hidden state once$"):
        require_layers("mm_x_layers", [7, 15, 7])


def test_as_training_flags_lists_are_words():
    needed = ["--data_path", "d.json", "--output_dir", "out", "--vision_tower", "x", "--mm_projector_type", "ccra"]
    flags = ["--mm_ccra_disable", "lpwca", "pwca", "--mm_ccra_layers", "3", "8", "23"]
    model_args, *_ = parse_arguments([*needed, "--mm_ccra_normalize", "query", "keys"])
    assert model_args.mm_ccra_normalize == ["query", "keys"]
    model_args, *_ = parse_arguments([*needed, *flags])
    assert (model_args.mm_ccra_disable, model_args.mm_ccra_layers) == (["lpwca", "pwca"], [3, 8, 23])
    model_args, *_ = parse_arguments(needed)
    assert (model_args.mm_ccra_disable, model_args.mm_ccra_layers, model_args.mm_ccra_normalize) == ([], [], [])
    with pytest.raises(UserError, match="mm_ccra_integration is shuffled, but mm_ccra_disable leaves out pwca"):
        parse_arguments([*needed, *flags, "--mm_ccra_integration", "shuffled"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mm_ccra_depth_groups": 0}, "mm_ccra_depth_groups is 0; it must be at least 1"),
        ({"mm_ccra_depth_groups": 2, "mm_ccra_integration": "decoupled"}, "but decoupled adds the mixture"),
        ({"mm_ccra_depth_groups": 3, "mm_ccra_layers": [3, 7]}, "mm_ccra_layers names 2; each group needs one"),
    ],
)
def test_depth_groups_that_have_no_place_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CCRASettings(**settings).validate()
    CCRASettings(mm_ccra_depth_groups=3, mm_ccra_integration="shuffled", mm_ccra_layers=[1, 2, 3]).validate()
