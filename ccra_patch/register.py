"""The projectors' lines in llava's register: the only place where the two packages meet."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from ccra_patch.baselines import (
    IGVA,
    DenseConnectorDCI,
    DenseConnectorDCISettings,
    DenseConnectorSCI,
    DenseConnectorSCISettings,
    DenseConnectorSTI,
    DenseConnectorSTISettings,
    IGVASettings,
    MLVFExternalDirect,
    MLVFExternalDirectSettings,
    MMFuser,
    MMFuserSettings,
)
from ccra_patch.projector import CCRAProjector
from ccra_patch.settings import CCRASettings, ProjectorSettings
from llava.errors import UserError
from llava.model.multimodal_projector.registry import AdapterLoader, Needs, load_exactly, register_projector
from llava.model.sentence_encoder import sentence_width

S = TypeVar("S", bound=ProjectorSettings)


@contextmanager
def _mistakes_are_the_users() -> Iterator[None]:
    """ccra_patch knows nothing of llava's UserError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def _load_adapter(projector: nn.Module, state: Mapping[str, Tensor]) -> None:
    """An adapter of the projector's own type as it is; LLaVA's ``mlp2x_gelu`` adapter as each projector takes it."""
    if "0.weight" not in state:
        load_exactly(projector, state)
        return
    with _mistakes_are_the_users():
        cast(Any, projector).load_plain_adapter(state)


def _load_igva(projector: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Also the adapter of a stage 1 with ``mm_igva_average``, in which the aggregator does not exist yet."""
    if "mlp.output.weight" in state and not any(name.startswith("aggregator.") for name in state):
        own = projector.state_dict()
        state = {name: value for name, value in own.items() if name.startswith("aggregator.")} | dict(state)
    _load_adapter(projector, state)


def _register(
    name: str,
    settings: type[S],
    build: Callable[[S, int, int], nn.Module],
    needs: Callable[[S], Needs],
    load_adapter: AdapterLoader = _load_adapter,
) -> None:
    """``build(settings, d, D)`` and ``needs(settings)`` as functions of a model's config."""

    def read(config: Any) -> S:
        with _mistakes_are_the_users():
            return settings.from_config(config)

    def build_from(config: Any) -> nn.Module:
        given = read(config)
        with _mistakes_are_the_users():
            return build(given, config.mm_hidden_size, config.hidden_size)

    register_projector(
        name, build_from, needs=lambda config: needs(read(config)), settings=settings, load_adapter=load_adapter
    )


def _ccra(given: CCRASettings, vision_dim: int, text_dim: int) -> CCRAProjector:
    return CCRAProjector(
        vision_dim,
        text_dim,
        hidden_dim=given.mm_ccra_hidden_dim,
        kernel_size=given.mm_ccra_kernel_size,
        sigma=given.mm_ccra_sigma,
        norm_order=given.mm_ccra_norm_order,
        integration=given.mm_ccra_integration,
        disable=given.mm_ccra_disable,
        depth_groups=given.mm_ccra_depth_groups,
        normalize=given.mm_ccra_normalize,
        grounding=given.mm_ccra_grounding,
    )


def _dense_connector_dci(given: DenseConnectorDCISettings, vision_dim: int, text_dim: int) -> DenseConnectorDCI:
    size = given.mm_dense_connector_dci_group_size
    return DenseConnectorDCI(vision_dim, text_dim, len(given.mm_dense_connector_dci_layers) // size, size)


def _mmfuser(given: MMFuserSettings, vision_dim: int, text_dim: int) -> MMFuser:
    return MMFuser(vision_dim, text_dim, len(given.mm_mmfuser_layers), given.mm_mmfuser_heads, given.mm_mmfuser_points)


def _igva(given: IGVASettings, vision_dim: int, text_dim: int) -> IGVA:
    return IGVA(
        vision_dim,
        text_dim,
        num_groups=len(given.mm_igva_layers) // given.mm_igva_group_size,
        group_size=given.mm_igva_group_size,
        hidden_dim=given.mm_igva_hidden_dim,
        blocks=given.mm_igva_blocks,
        heads=given.mm_igva_heads,
        balance=given.mm_igva_balance,
        average=given.mm_igva_average,
        question_dim=sentence_width(given.mm_igva_text_encoder) if given.mm_igva_text_encoder else None,
    )


def _igva_needs(given: IGVASettings) -> Needs:
    query = None if given.mm_igva_average else given.mm_igva_query
    return Needs(
        tuple(given.mm_igva_layers), class_token=True, query=query, sentence_encoder=given.mm_igva_text_encoder
    )


def _mlvf_ed(given: MLVFExternalDirectSettings, vision_dim: int, text_dim: int) -> MLVFExternalDirect:
    size = given.mm_mlvf_ed_group_size
    groups = len(given.mm_mlvf_ed_layers) // size
    return MLVFExternalDirect(vision_dim, text_dim, groups, size, given.mm_mlvf_ed_normalize)


_register(
    "ccra",
    CCRASettings,
    _ccra,
    lambda given: Needs(tuple(given.mm_ccra_layers) or "all", query=given.mm_ccra_query),
)
_register(
    "dense_connector_sti",
    DenseConnectorSTISettings,
    lambda given, vision_dim, text_dim: DenseConnectorSTI(vision_dim, text_dim, given.mm_dense_connector_sti_strip),
    lambda given: Needs(tuple(given.mm_dense_connector_sti_layers)),
)
_register(
    "dense_connector_sci",
    DenseConnectorSCISettings,
    lambda given, vision_dim, text_dim: DenseConnectorSCI(
        vision_dim, text_dim, len(given.mm_dense_connector_sci_layers)
    ),
    lambda given: Needs(tuple(given.mm_dense_connector_sci_layers)),
)
_register(
    "dense_connector_dci",
    DenseConnectorDCISettings,
    _dense_connector_dci,
    lambda given: Needs(tuple(given.mm_dense_connector_dci_layers)),
)
_register("mmfuser", MMFuserSettings, _mmfuser, lambda given: Needs(tuple(given.mm_mmfuser_layers)))
_register("igva", IGVASettings, _igva, _igva_needs, load_adapter=_load_igva)
_register("mlvf_ed", MLVFExternalDirectSettings, _mlvf_ed, lambda given: Needs(tuple(given.mm_mlvf_ed_layers)))
