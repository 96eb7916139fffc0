"""Dense Connector, dense channel integration (Yao et al., 2024, arXiv 2405.13800): all layers as two means."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from einops import rearrange, reduce
from torch import Tensor, nn

from ccra_patch.baselines.fusion import WideMLP
from ccra_patch.baselines.groups import require_groups
from ccra_patch.settings import ProjectorSettings


@dataclass
class DenseConnectorDCISettings(ProjectorSettings):
    """What ``mm_projector_type=dense_connector_dci`` can be told."""

    mm_dense_connector_dci_layers: list[int] = field(
        default_factory=lambda: list(range(24)), metadata={"help": "Hidden states to average (0 = embeddings)."}
    )
    mm_dense_connector_dci_group_size: int = field(
        default=12, metadata={"help": "So many of those layers, in the order given, are averaged into one."}
    )

    def validate(self) -> None:
        require_groups(
            "mm_dense_connector_dci", self.mm_dense_connector_dci_layers, self.mm_dense_connector_dci_group_size
        )


class DenseConnectorDCI(nn.Module):
    """``MLP([F_v || mean(V_0..V_11) || mean(V_12..V_23)])``, concatenated along channels, without normalisation.

    Layers: indices of ``hidden_states`` as in the authors' code, so the first group begins with the embeddings, V_23
    counts twice (it is ``F_v`` too), and V_24 is not used.

    Args:
        vision_dim: d.
        text_dim: D.
        num_groups: g, groups of layers beside the selected one.
        group_size: layers in each.
    """

    def __init__(self, vision_dim: int, text_dim: int, num_groups: int = 2, group_size: int = 12) -> None:
        super().__init__()
        self.group_size = group_size
        self.mlp = WideMLP(vision_dim, num_groups * vision_dim, text_dim)

    def forward(self, features: Tensor, layers: Tensor) -> Tensor:
        """``F_v [B, N, d]`` and layers ``[B, g * group_size, N, d]``, group by group -> ``[B, N, D]``."""
        return self.mlp(features, rearrange(self.groups(layers), "b g n d -> b n (g d)"))

    def groups(self, layers: Tensor) -> Tensor:
        """What stands beside ``F_v``: the mean of each group, ``[B, g * group_size, N, d] -> [B, g, N, d]``."""
        return reduce(layers, "b (g size) n d -> b g n d", "mean", size=self.group_size)

    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Start as that adapter, bit for bit. Raises ValueError if it does not fit."""
        self.mlp.load_plain_adapter(state)
