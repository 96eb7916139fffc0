"""CCRASettings: what is refused, in which words, and how a config is read."""

from dataclasses import fields
from types import SimpleNamespace

import pytest

from ccra_patch.settings import CCRASettings, require_layers

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
    ],
)
def test_a_wrong_value_is_refused_with_value_name_and_rule(name, value, message):
    with pytest.raises(ValueError) as caught:
        CCRASettings(**{name: value}).validate()
    assert str(caught.value) == message


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
