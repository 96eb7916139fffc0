"""Multi-layer visual fusion, external direct (Lin et al., CVPR 2025, arXiv 2503.06063): chosen layers side by side."""

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F

from ccra_patch.baselines.dense_connector_dci import DenseConnectorDCI
from ccra_patch.baselines.groups import require_groups
from ccra_patch.settings import ProjectorSettings


@dataclass
class MLVFExternalDirectSettings(ProjectorSettings):
    """What ``mm_projector_type=mlvf_ed`` can be told."""

    mm_mlvf_ed_layers: list[int] = field(
        default_factory=lambda: [3, 18], metadata={"help": "Hidden states beside the selected one (0 = embeddings)."}
    )
    mm_mlvf_ed_group_size: int = field(
        default=1, metadata={"help": "So many of those layers, in the order given, are averaged into one."}
    )
    mm_mlvf_ed_normalize: bool = field(
        default=False,
        metadata={
            "help": "Beyond the paper: bring every layer to one size (LayerNorm without parameters) "
            "before they are concatenated."
        },
    )

    def validate(self) -> None:
        require_groups("mm_mlvf_ed", self.mm_mlvf_ed_layers, self.mm_mlvf_ed_group_size)


class MLVFExternalDirect(DenseConnectorDCI):
    """``MLP([V_3 || V_18 || F_v])``, concatenated along channels; the paper does not normalise.

    The authors' choices of layers, by their names and ours (``layers``, ``group_size``), all beside ``F_v``:

    ========================  ===============  ====
    ``18``                    18               1
    ``3-18``, ``3-18-23``     3 18             1
    ``former``                1 2 ... 12       12
    ``latter``                13 14 ... 24     12
    ``all``                   1 2 ... 24       12
    ========================  ===============  ====

    Layers are indices of ``hidden_states``; groups begin with block 1 and not with the embeddings as in Dense
    Connector's dense form. With a two-level MMFuser (``mmfuser`` at layers 3 and 18) one has the paper's "external
    modular" form. What is computed is Dense Connector's dense form; which layers it is given makes the method.

    Beyond the paper, ``normalize`` brings what stands beside ``F_v``, layers or means of groups, to one size, as CCRA
    does with its mixtures: a shallow layer then counts for no less by being small. ``F_v`` stays as it is.

    Args:
        vision_dim: d.
        text_dim: D.
        num_groups: g, layers or groups of layers beside the selected one.
        group_size: layers in each group.
        normalize: LayerNorm over d, without parameters and in float32, of each group and patch.
    """

    def __init__(
        self, vision_dim: int, text_dim: int, num_groups: int = 2, group_size: int = 1, normalize: bool = False
    ) -> None:
        super().__init__(vision_dim, text_dim, num_groups, group_size)
        self.normalize = normalize

    def groups(self, layers: Tensor) -> Tensor:
        """The mean of each group, at one size if ``normalize``: ``[B, g * group_size, N, d] -> [B, g, N, d]``."""
        means = super().groups(layers)
        if not self.normalize:
            return means
        return F.layer_norm(means.float(), means.shape[-1:]).to(means.dtype)
