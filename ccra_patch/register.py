"""CCRA's line in llava's register of projectors: the only place where the two packages meet."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from ccra_patch.projector import CCRAProjector
from ccra_patch.settings import CCRASettings
from llava.errors import UserError
from llava.model.multimodal_projector.registry import Needs, load_exactly, register_projector


def _settings(config: Any) -> CCRASettings:
    try:
        return CCRASettings.from_config(config)
    except ValueError as error:
        raise UserError(str(error)) from error


def _build(config: Any) -> nn.Module:
    settings = _settings(config)
    return CCRAProjector(
        vision_dim=config.mm_hidden_size,
        text_dim=config.hidden_size,
        hidden_dim=settings.mm_ccra_hidden_dim,
        kernel_size=settings.mm_ccra_kernel_size,
        sigma=settings.mm_ccra_sigma,
        norm_order=settings.mm_ccra_norm_order,
    )


def _needs(config: Any) -> Needs:
    return Needs(layers="all", query=_settings(config).mm_ccra_query)


def _load_adapter(projector: nn.Module, state: Mapping[str, Tensor]) -> None:
    """A CCRA adapter as it is; LLaVA's ``mlp2x_gelu`` adapter widened, so that step 0 is that LLaVA."""
    if "0.weight" not in state:
        load_exactly(projector, state)
        return
    try:
        cast(CCRAProjector, projector).load_plain_adapter(state)
    except ValueError as error:
        raise UserError(str(error)) from error


register_projector("ccra", _build, needs=_needs, settings=CCRASettings, load_adapter=_load_adapter)
