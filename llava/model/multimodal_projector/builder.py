"""LLaVA's own projectors, and the builder that turns ``config.mm_projector_type`` into a module."""

from typing import Any, cast

from torch import Tensor, nn

from llava.errors import UserError
from llava.model.multimodal_projector.registry import find_projector, register_projector


class IdentityMap(nn.Module):
    """Vision features are the image tokens; the vision width must equal the language model's."""

    def forward(self, features: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[B, N, d] -> [B, N, d]``."""
        return features

    @property
    def config(self) -> dict[str, str]:
        return {"mm_projector_type": "identity"}


class SimpleResBlock(nn.Module):
    """Residual two-layer GELU MLP behind a LayerNorm. Kept for forks that build on it; no type here uses it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(channels)
        self.proj = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., channels] -> [..., channels]``."""
        normed = self.pre_norm(x)
        return normed + self.proj(normed)


def _linear(config: Any) -> nn.Module:
    return nn.Linear(config.mm_hidden_size, config.hidden_size)


def _mlp(config: Any) -> nn.Module:
    depth = int(config.mm_projector_type.removeprefix("mlp").removesuffix("x_gelu"))
    layers: list[nn.Module] = [nn.Linear(config.mm_hidden_size, config.hidden_size)]
    for _ in range(1, depth):
        layers += [nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)]
    return nn.Sequential(*layers)


def _identity(config: Any) -> nn.Module:
    return IdentityMap()


register_projector("linear", _linear)
register_projector("mlp<N>x_gelu", _mlp, pattern=r"mlp(\d+)x_gelu")
register_projector("identity", _identity)


def build_vision_projector(config: Any, delay_load: bool = False, **kwargs: Any) -> nn.Module:
    """The projector that ``config.mm_projector_type`` (default ``linear``) names; its ``needs`` are set on it.

    Raises UserError for an unknown type or settings that contradict each other. ``delay_load`` is accepted for
    upstream's callers; a projector has nothing to load.
    """
    spec = find_projector(getattr(config, "mm_projector_type", "linear"))
    projector = spec.build(config)
    needs = cast(Any, projector).needs = spec.needs(config)
    feature = getattr(config, "mm_vision_select_feature", "patch")
    if needs.layers and feature != "patch":
        raise UserError(
            f"mm_vision_select_feature is {feature!r}; {spec.name} fuses layers patch by patch and needs 'patch'"
        )
    return projector
