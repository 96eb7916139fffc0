"""Dense Connector, sparse token integration (Yao et al., 2024, arXiv 2405.13800): shallow layers as extra tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import reduce
from torch import Tensor, nn

from ccra_patch.baselines.fusion import PlainMLP
from ccra_patch.settings import ProjectorSettings, require_count, require_layers


@dataclass
class DenseConnectorSTISettings(ProjectorSettings):
    """What ``mm_projector_type=dense_connector_sti`` can be told."""

    mm_dense_connector_sti_layers: list[int] = field(
        default_factory=lambda: [7, 15], metadata={"help": "Hidden states pooled into extra tokens (0 = embeddings)."}
    )
    mm_dense_connector_sti_strip: int = field(
        default=8, metadata={"help": "Patches, consecutive in raster order, that are averaged into one token."}
    )

    def validate(self) -> None:
        require_layers("mm_dense_connector_sti_layers", self.mm_dense_connector_sti_layers)
        require_count("mm_dense_connector_sti_strip", self.mm_dense_connector_sti_strip, "the method uses 8")


class DenseConnectorSTI(nn.Module):
    """``MLP([F_v ; P(V_7) ; P(V_15)])``, concatenated along tokens; P averages strips of 8 patches.

    Strips follow the raster: 1 x 8 patches of one row where 8 divides its length, else they run across row ends. What
    is left behind the last whole strip is dropped. The tokens of ``F_v`` come first, and with a plain adapter's weights
    they are bit for bit that adapter's; the extra ones make this method the only baseline that cannot start as LLaVA.

    Layers: indices 7 and 15 of ``hidden_states``, the outputs of blocks 7 and 15, as in the authors' code; their paper
    counts them as the 8th and 16th, which holds with the embeddings as the first.

    Args:
        vision_dim: d.
        text_dim: D.
        strip: patches per extra token.
    """

    def __init__(self, vision_dim: int, text_dim: int, strip: int = 8) -> None:
        super().__init__()
        self.strip = strip
        self.mlp = PlainMLP(vision_dim, text_dim)

    def forward(self, features: Tensor, layers: Tensor) -> Tensor:
        """``F_v [B, N, d]`` and layers ``[B, L, N, d]`` -> ``[B, N + L * (N // strip), D]``.

        Raises ValueError when a picture has fewer patches than a strip.
        """
        strips = layers.shape[2] // self.strip
        if strips == 0:
            raise ValueError(
                f"mm_dense_connector_sti_strip is {self.strip}, but a picture has {layers.shape[2]} patches; "
                "it must be no more than that"
            )
        pooled = reduce(layers[:, :, : strips * self.strip], "b l (n s) d -> b (l n) d", "mean", s=self.strip)
        return self.mlp(torch.cat([features, pooled], dim=1))

    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Give the first N tokens the values of that adapter's. Raises ValueError if it does not fit."""
        self.mlp.load_plain_adapter(state)
