"""The settings of CCRA: one dataclass whose fields are the command-line flags and the keys of the model's config."""

import math
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Self

INTEGRATIONS = ("pai", "decoupled", "shuffled")
STEPS = ("lpwca", "lwca", "pwca")
NORMALIZABLE = ("query", "keys")
NORM_ORDERS = ("pre", "post")
QUERY_MODES = ("human", "first", "last")


@dataclass
class ProjectorSettings:
    """Base of a projector's settings: a dataclass whose fields are named ``mm_<projector>_<setting>``.

    Nothing is checked at construction, so that an argument parser may fill the fields in any order; call
    :meth:`validate` once they are final. :meth:`from_config` does both.
    """

    def validate(self) -> None:
        """Raise ValueError, in one line, for the first setting that cannot work."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Read the settings among the attributes of a model's config; a missing one takes its default. Validates."""
        given = {f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)}
        settings = cls(**given)
        settings.validate()
        return settings


@dataclass
class CCRASettings(ProjectorSettings):
    """What ``mm_projector_type=ccra`` can be told."""

    mm_ccra_hidden_dim: int = field(
        default=128, metadata={"help": "Width h of the space in which question and patches are compared (paper: 128)."}
    )
    mm_ccra_kernel_size: int = field(
        default=5, metadata={"help": "Taps of the Gaussian that smooths layer scores along depth; 1 = no smoothing."}
    )
    mm_ccra_sigma: float = field(
        default=1.0, metadata={"help": "Standard deviation of that Gaussian, in layers. No effect at kernel size 1."}
    )
    mm_ccra_norm_order: str = field(
        default="pre",
        metadata={
            "help": "'pre': LN(F) * (1 + W), the maps reach the language model. "
            "'post': LN(F * (1 + W)), Eq. 5 and 13 as printed, where LayerNorm undoes the modulation."
        },
    )
    mm_ccra_query: str = field(
        default="human",
        metadata={"help": "Which turns are the question: every 'human' turn, or only the 'first' or 'last' one."},
    )
    mm_ccra_integration: str = field(
        default="pai",
        metadata={
            "help": "How the steps go together: 'pai' (LPWCA, LWCA, PWCA), 'shuffled' (LPWCA, PWCA, LWCA), or "
            "'decoupled' (after LPWCA, LWCA on all layers beside PWCA on the deepest one)."
        },
    )
    mm_ccra_disable: list[str] = field(
        default_factory=list, metadata={"help": "Steps to leave out, any of: lpwca lwca pwca (none unless named)."}
    )
    mm_ccra_depth_groups: int = field(
        default=1,
        metadata={
            "help": "Beyond the paper: cut the layers into that many groups by depth, and keep one mixture of each "
            "side by side instead of one mixture of all (1)."
        },
    )
    mm_ccra_normalize: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Beyond the paper: what to bring to one size before it is compared, any of: query (the question's "
            "embeddings) keys (the layers that LPWCA scores); none unless named."
        },
    )
    mm_ccra_grounding: float = field(
        default=0.0,
        metadata={
            "help": "Beyond the paper: weight of a loss by which each question has to tell its picture from the others "
            "of its batch by LPWCA's scores; 0 = none. One sample a batch has nothing to be told from."
        },
    )
    mm_ccra_layers: list[int] = field(
        default_factory=list,
        metadata={"help": "Hidden states that CCRA reads, shallow first (0 = embeddings); every block unless named."},
    )

    def validate(self) -> None:
        require_count("mm_ccra_hidden_dim", self.mm_ccra_hidden_dim, "the paper uses 128")
        require_count("mm_ccra_kernel_size", self.mm_ccra_kernel_size, "1 = no smoothing")
        require_positive("mm_ccra_sigma", self.mm_ccra_sigma, "to switch smoothing off, set mm_ccra_kernel_size to 1")
        require_choice("mm_ccra_norm_order", self.mm_ccra_norm_order, NORM_ORDERS)
        require_choice("mm_ccra_query", self.mm_ccra_query, QUERY_MODES)
        require_steps(self.mm_ccra_integration, self.mm_ccra_disable)
        require_depth_groups(self.mm_ccra_depth_groups, self.mm_ccra_integration)
        require_normalize(self.mm_ccra_normalize)
        require_weight("mm_ccra_grounding", self.mm_ccra_grounding, "0 = no such loss")
        if self.mm_ccra_layers != []:
            require_layers("mm_ccra_layers", self.mm_ccra_layers)
            if list(self.mm_ccra_layers) != sorted(self.mm_ccra_layers) or self.mm_ccra_layers[0] < 0:
                raise ValueError(
                    f"mm_ccra_layers is {list(self.mm_ccra_layers)}; it must ascend, from 0 (the embeddings) at least: "
                    "smoothing follows depth"
                )
            if len(self.mm_ccra_layers) < self.mm_ccra_depth_groups:
                raise ValueError(
                    f"mm_ccra_depth_groups is {self.mm_ccra_depth_groups}, but mm_ccra_layers names "
                    f"{len(self.mm_ccra_layers)}; each group needs one layer at least"
                )
        self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        """A setting that changes nothing beside the others is a misunderstanding, or an arm of a study run twice."""
        if "lwca" in self.mm_ccra_disable:
            for name in ("mm_ccra_kernel_size", "mm_ccra_sigma"):
                self._refuse_given(name, "mm_ccra_disable leaves out lwca, whose scores it smooths")
        elif len(self.mm_ccra_layers) == 1:
            raise ValueError(
                f"mm_ccra_layers is {list(self.mm_ccra_layers)}, but lwca weighs layers against each other; "
                "name two at least, or add lwca to mm_ccra_disable"
            )
        if self.mm_ccra_kernel_size == 1:
            self._refuse_given("mm_ccra_sigma", "mm_ccra_kernel_size 1 does not smooth")
        if {"lpwca", "pwca"} <= set(self.mm_ccra_disable):
            self._refuse_given("mm_ccra_norm_order", "mm_ccra_disable leaves out both steps that modulate")
        if "lpwca" in self.mm_ccra_disable:
            self._refuse_given("mm_ccra_grounding", "mm_ccra_disable leaves out lpwca, whose scores it is a loss on")
            if "keys" in self.mm_ccra_normalize:
                raise ValueError(
                    "mm_ccra_normalize names keys, but mm_ccra_disable leaves out lpwca, whose keys they are; "
                    "drop one of them"
                )

    def _refuse_given(self, name: str, reason: str) -> None:
        if getattr(self, name) != getattr(CCRASettings, name):
            raise ValueError(f"{name} is {getattr(self, name)}, but {reason}; drop one of them")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``; names the nearest one."""
    if value in choices:
        return
    near = get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}{hint}")


def require_steps(integration: str, disabled: Collection[str]) -> None:
    """Raise ValueError unless some step is left, and those whose relation ``integration`` describes.

    ``decoupled`` and ``shuffled`` say how LWCA and PWCA stand to each other, so they take both.
    """
    require_choice("mm_ccra_integration", integration, INTEGRATIONS)
    if isinstance(disabled, str):
        raise ValueError(f"mm_ccra_disable is {disabled!r}; it must be a list of steps: {', '.join(STEPS)}")
    for step in disabled:
        require_choice("mm_ccra_disable", step, STEPS)
    if set(STEPS) <= set(disabled):
        raise ValueError(f"mm_ccra_disable names {', '.join(STEPS)}; keep one of them, or nothing reads the question")
    lost = [step for step in ("lwca", "pwca") if step in disabled]
    if lost and integration != "pai":
        raise ValueError(
            f"mm_ccra_integration is {integration}, but mm_ccra_disable leaves out {lost[0]}; {integration} sets lwca "
            "and pwca in relation to each other: take pai, or keep both"
        )


def require_depth_groups(groups: int, integration: str) -> None:
    """Raise ValueError unless ``groups`` is a count that ``integration`` has a place for."""
    require_count("mm_ccra_depth_groups", groups, "1 = one mixture of all layers, as in the paper")
    if groups > 1 and integration == "decoupled":
        raise ValueError(
            f"mm_ccra_depth_groups is {groups}, but decoupled adds the mixture of the layers to the deepest one; "
            "leave it at 1, or take mm_ccra_integration pai or shuffled"
        )


def require_normalize(normalize: Collection[str]) -> None:
    """Raise ValueError unless ``normalize`` lists what can be normalised."""
    if isinstance(normalize, str):
        raise ValueError(f"mm_ccra_normalize is {normalize!r}; it must be a list of: {', '.join(NORMALIZABLE)}")
    for name in normalize:
        require_choice("mm_ccra_normalize", name, NORMALIZABLE)


def require_count(name: str, value: int, note: str) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least 1."""
    if type(value) is not int:
        raise ValueError(f"{name} is {value!r}; it must be a whole number ({note})")
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1 ({note})")


def require_positive(name: str, value: float, note: str) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0."""
    _require_number(name, value, operator.gt, "above 0", note)


def require_weight(name: str, value: float, note: str) -> None:
    """Raise ValueError unless ``value`` is a finite number of at least 0."""
    _require_number(name, value, operator.ge, "of at least 0", note)


def _require_number(name: str, value: float, fits: Callable[[float, float], bool], bound: str, note: str) -> None:
    if type(value) not in (int, float):
        raise ValueError(f"{name} is {value!r}; it must be a number {bound} ({note})")
    if not (math.isfinite(value) and fits(value, 0)):
        raise ValueError(f"{name} is {value}; it must be a finite number {bound} ({note})")


def require_layers(name: str, value: Sequence[int]) -> None:
    """Raise ValueError unless ``value`` lists distinct hidden states; whether they exist, only the tower knows."""
    if not isinstance(value, (list, tuple)) or not value or any(type(index) is not int for index in value):
        raise ValueError(f"{name} is {value!r}; it must list at least one hidden state (0 = embeddings, i = block i)")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} is {list(value)}; it must name each hidden state once")
