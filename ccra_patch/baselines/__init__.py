"""Methods that CCRA is compared with: projectors that fuse several vision layers, one file each.

Written afresh from their equations, under the contract of every projector here; index conventions and deviations are
in each docstring and in docs/choosing_a_projector.md. Shapes as everywhere: B images, L layers, N patches, T query
tokens, d vision width, D width of the language model.
"""

from dataclasses import dataclass

from ccra_patch.baselines.dense_connector_dci import DenseConnectorDCI, DenseConnectorDCISettings
from ccra_patch.baselines.dense_connector_sci import DenseConnectorSCI, DenseConnectorSCISettings
from ccra_patch.baselines.dense_connector_sti import DenseConnectorSTI, DenseConnectorSTISettings
from ccra_patch.baselines.igva import IGVA, IGVASettings
from ccra_patch.baselines.mlvf_ed import MLVFExternalDirect, MLVFExternalDirectSettings
from ccra_patch.baselines.mmfuser import MMFuser, MMFuserSettings

__all__ = [
    "IGVA",
    "BaselineSettings",
    "DenseConnectorDCI",
    "DenseConnectorDCISettings",
    "DenseConnectorSCI",
    "DenseConnectorSCISettings",
    "DenseConnectorSTI",
    "DenseConnectorSTISettings",
    "IGVASettings",
    "MLVFExternalDirect",
    "MLVFExternalDirectSettings",
    "MMFuser",
    "MMFuserSettings",
]


@dataclass
class BaselineSettings(
    DenseConnectorSTISettings,
    DenseConnectorSCISettings,
    DenseConnectorDCISettings,
    MMFuserSettings,
    IGVASettings,
    MLVFExternalDirectSettings,
):
    """The flags of all baselines, for an argument parser to inherit; each one's own class validates them."""
