"""The paper's comparisons as data: arms that differ from one baseline by a few variables of the training script.

The baseline is ``scripts/v1_5/finetune_ccra.sh`` as it stands, with what a sweep gives to all its arms.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Arm:
    """One configuration.

    Attributes:
        name: of its folder and its row.
        changes: variables of the training script.
    """

    name: str
    changes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """Arms that one plot compares.

    Attributes:
        title: below the plot.
        arms: by their labels on its axis.
        is_scale: whether the labels are values of one quantity, in order, so that a line may join them.
    """

    title: str
    arms: dict[str, Arm]
    is_scale: bool = False


@dataclass(frozen=True)
class Study:
    """A comparison: its plots, and the name of the arm that the others are compared with."""

    baseline: str
    panels: tuple[Panel, ...]

    @property
    def arms(self) -> dict[str, Arm]:
        """All arms by name, each once."""
        return {arm.name: arm for panel in self.panels for arm in panel.arms.values()}

    @property
    def varied(self) -> set[str]:
        """The variables that some arm changes."""
        return {name for arm in self.arms.values() for name in arm.changes}


def _one_panel(title: str, baseline: str, changes: dict[str, dict[str, str]]) -> Study:
    return Study(baseline, (Panel(title, {name: Arm(name, delta) for name, delta in changes.items()}),))


def _figure7(hidden_dim: int = 128, kernel_size: int = 5) -> Arm:
    changes = {"MM_CCRA_HIDDEN_DIM": str(hidden_dim), "MM_CCRA_KERNEL_SIZE": str(kernel_size)}
    return Arm(f"h{hidden_dim}_k{kernel_size}", changes)


PROJECTORS = (
    "mlp2x_gelu",
    "ccra",
    "dense_connector_sti",
    "dense_connector_sci",
    "dense_connector_dci",
    "mmfuser",
    "igva",
    "mlvf_ed",
)

ATTANCHOR = {"MM_ATTANCHOR_DIRECTION": "text_into_image"}
GROUPS = {"MM_CCRA_DEPTH_GROUPS": "3"}
NORMALIZED = {"MM_CCRA_NORMALIZE": "query keys"}
GROUNDED = {"MM_CCRA_GROUNDING": "0.1"}


def _photos() -> Study:
    """Everything beside everything: fused layers, CCRA's variants and removals, AttAnchor; each against LLaVA's MLP."""
    plain, ccra = Arm("mlp2x_gelu", {"PROJECTOR": "mlp2x_gelu"}), Arm("ccra", {"PROJECTOR": "ccra"})

    def variant(name: str, **changes: str) -> Arm:
        return Arm(f"ccra_{name}", ccra.changes | changes)

    others = [Arm(name, {"PROJECTOR": name}) for name in ("dense_connector_dci", "mmfuser", "igva", "mlvf_ed")]
    others.append(Arm("mlvf_ed_normalized", {"PROJECTOR": "mlvf_ed", "MM_MLVF_ED_NORMALIZE": "True"}))
    ways = {name: variant(name, MM_CCRA_INTEGRATION=name) for name in ("decoupled", "shuffled")}
    without = {name: variant(f"no_{name}", MM_CCRA_DISABLE=name) for name in ("lpwca", "lwca", "pwca")}
    smoothing = variant("no_smoothing", MM_CCRA_KERNEL_SIZE="1")
    post = variant("post", MM_CCRA_NORM_ORDER="post")
    beyond = {
        "3 groups": variant("groups3", **GROUPS),
        "normalised": variant("normalized", **NORMALIZED),
        "normalised, 3 groups": variant("groups3_normalized", **GROUPS, **NORMALIZED),
        "grounded, 3 groups": variant("groups3_grounded", **GROUPS, **NORMALIZED, **GROUNDED),
    }
    return Study(
        plain.name,
        (
            Panel("projector", {arm.name: arm for arm in (plain, *others, ccra)}),
            Panel("CCRA", {"as it is": ccra, "post": post, **ways, **beyond}),
            Panel("CCRA without", {"nothing left out": ccra, **without, "smoothing": smoothing}),
            Panel(
                "AttAnchor",
                {
                    "mlp2x_gelu": plain,
                    "mlp2x_gelu, pinned": Arm("mlp2x_gelu_attanchor", plain.changes | ATTANCHOR),
                    "ccra": ccra,
                    "ccra, pinned": variant("attanchor", **ATTANCHOR),
                },
            ),
        ),
    )


STUDIES = {
    "table3": _one_panel(
        "integration",
        "pai",
        {"pai": {}} | {name: {"MM_CCRA_INTEGRATION": name} for name in ("decoupled", "shuffled")},
    ),
    "table4": _one_panel(
        "left out",
        "nothing",
        {"nothing": {}}
        | {name: {"MM_CCRA_DISABLE": name} for name in ("pwca", "lwca", "lpwca")}
        | {"smoothing": {"MM_CCRA_KERNEL_SIZE": "1"}},
    ),
    "figure7": Study(
        "h128_k5",
        (
            Panel(
                "hidden width h",
                {str(h): _figure7(hidden_dim=h) for h in (64, 96, 128, 160, 192, 256, 320, 384)},
                is_scale=True,
            ),
            Panel("kernel size k", {str(k): _figure7(kernel_size=k) for k in range(2, 8)}, is_scale=True),
        ),
    ),
    "norm_order": _one_panel("norm and modulation", "pre", {"pre": {}, "post": {"MM_CCRA_NORM_ORDER": "post"}}),
    "photos": _photos(),
    "projectors": _one_panel("projector", "mlp2x_gelu", {name: {"PROJECTOR": name} for name in PROJECTORS}),
}
