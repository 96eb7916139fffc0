"""Layers averaged in groups: how such a choice is written down and checked."""

from collections.abc import Sequence

from ccra_patch.settings import require_count, require_layers


def require_groups(prefix: str, layers: Sequence[int], group_size: int) -> None:
    """Raise ValueError unless ``{prefix}_layers`` falls into groups of ``{prefix}_group_size``, in the order given."""
    require_layers(f"{prefix}_layers", layers)
    require_count(f"{prefix}_group_size", group_size, "1 = each layer by itself")
    if len(layers) % group_size:
        raise ValueError(
            f"{prefix}_layers names {len(layers)} hidden states; it must be a multiple of "
            f"{prefix}_group_size, which is {group_size}"
        )
