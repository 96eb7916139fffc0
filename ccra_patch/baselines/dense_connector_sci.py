"""Dense Connector, sparse channel integration (Yao et al., 2024, arXiv 2405.13800): a few layers side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from einops import rearrange
from torch import Tensor, nn

from ccra_patch.baselines.fusion import WideMLP
from ccra_patch.settings import ProjectorSettings, require_layers


@dataclass
class DenseConnectorSCISettings(ProjectorSettings):
    """What ``mm_projector_type=dense_connector_sci`` can be told."""

    mm_dense_connector_sci_layers: list[int] = field(
        default_factory=lambda: [7, 15], metadata={"help": "Hidden states beside the selected one (0 = embeddings)."}
    )

    def validate(self) -> None:
        require_layers("mm_dense_connector_sci_layers", self.mm_dense_connector_sci_layers)


class DenseConnectorSCI(nn.Module):
    """``MLP([F_v || V_7 || V_15])``, concatenated along channels, without normalisation.

    Layers: see :class:`~ccra_patch.baselines.dense_connector_sti.DenseConnectorSTI`.

    Args:
        vision_dim: d.
        text_dim: D.
        num_layers: L, layers beside the selected one.
    """

    def __init__(self, vision_dim: int, text_dim: int, num_layers: int = 2) -> None:
        super().__init__()
        self.mlp = WideMLP(vision_dim, num_layers * vision_dim, text_dim)

    def forward(self, features: Tensor, layers: Tensor) -> Tensor:
        """``F_v [B, N, d]`` and layers ``[B, L, N, d]`` -> ``[B, N, D]``."""
        return self.mlp(features, rearrange(layers, "b l n d -> b n (l d)"))

    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Start as that adapter, bit for bit. Raises ValueError if it does not fit."""
        self.mlp.load_plain_adapter(state)
