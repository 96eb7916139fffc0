"""The door between ``llava`` and projectors: names, what they build, and what each asks for.

A projector turns vision features into tokens of the language model. LLaVA's own (``linear``, ``mlp2x_gelu``) read one
layer of the vision tower. Others read several layers, or several layers and the question. Each says so in a
:class:`Needs`, and the model passes exactly that, so that no projector's name appears anywhere else in ``llava``.

Adding one is one file with a builder and one :func:`register_projector` line.
"""

import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from llava.errors import UserError

Layers = tuple[int, ...] | Literal["all"]


@dataclass(frozen=True)
class Needs:
    """What a projector's ``forward`` takes beside the selected layer's features ``[B, N, d]``.

    layers: indices into the tower's ``hidden_states`` (0 = embeddings), or "all" encoder blocks, stacked to
        ``[B, L, N, d]`` and passed as ``layers``; empty = not passed.
    class_token: whether the stack keeps each layer's class token, as the first of ``1 + N`` rows.
    query: which human turns of the prompt ("human", "first", "last") are passed as ``query [B, T, D]`` and
        ``query_mask [B, T]``; None = not passed.
    sentence_encoder: folder or hub name of one whose vectors are passed as the query, one for each turn and so wide
        as they are (see :mod:`llava.model.sentence_encoder`); None = the embeddings of the turns' tokens.
    """

    layers: Layers = ()
    class_token: bool = False
    query: str | None = None
    sentence_encoder: str | None = None


SELECTED_LAYER_ONLY = Needs()

Builder = Callable[[Any], nn.Module]
AdapterLoader = Callable[[nn.Module, Mapping[str, Tensor]], None]


def load_exactly(projector: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load an adapter of the projector's own type; raise UserError for the first key that does not fit."""
    own = projector.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise UserError(f"the adapter lacks {name!r}; it was saved from another projector")
        if name not in own:
            raise UserError(f"the adapter holds {name!r}, which this projector does not have")
        if own[name].shape != state[name].shape:
            raise UserError(
                f"the adapter's {name!r} has the shape {list(state[name].shape)}, this model needs "
                f"{list(own[name].shape)}; use an adapter trained with the same vision tower and language model"
            )
    projector.load_state_dict(dict(state), strict=True)


@dataclass(frozen=True)
class ProjectorSpec:
    """One registered projector type; ``settings`` is the dataclass whose fields are its flags and config keys."""

    name: str
    build: Builder
    needs: Callable[[Any], Needs]
    settings: type | None
    load_adapter: AdapterLoader
    pattern: re.Pattern[str] | None


_specs: dict[str, ProjectorSpec] = {}


def register_projector(
    name: str,
    build: Builder,
    *,
    needs: Callable[[Any], Needs] = lambda config: SELECTED_LAYER_ONLY,
    settings: type | None = None,
    load_adapter: AdapterLoader = load_exactly,
    pattern: str | None = None,
) -> None:
    """Make ``mm_projector_type=name`` mean ``build(config)``.

    With ``pattern`` every type that matches the whole regular expression is meant, and ``name`` only describes it.
    Raises ValueError when the name is taken.
    """
    if name in _specs:
        raise ValueError(
            f"projector type {name!r} is registered twice: by {_specs[name].build.__module__} and {build.__module__}"
        )
    _specs[name] = ProjectorSpec(name, build, needs, settings, load_adapter, re.compile(pattern) if pattern else None)


def _all_specs() -> dict[str, ProjectorSpec]:
    """Both packages' projectors. Imported when they are asked for, since these modules import this one."""
    for module in ("llava.model.multimodal_projector.builder", "ccra_patch.register"):
        importlib.import_module(module)
    return _specs


def registered_projectors() -> tuple[ProjectorSpec, ...]:
    """All projector types, in order of registration."""
    return tuple(_all_specs().values())


def setting_names(spec: ProjectorSpec) -> tuple[str, ...]:
    """The flags and config keys of a projector type."""
    return tuple(f.name for f in fields(spec.settings)) if spec.settings is not None else ()


def needs_of(projector: nn.Module) -> Needs:
    """What the builder noted that this projector asks for."""
    return cast(Needs, projector.needs)


def take_auxiliary_loss(projector: nn.Module) -> Tensor | None:
    """What the projector wants minimised beside the cross entropy: its parts' ``auxiliary_loss``, added up; else None.

    A projector (or a part of it) that has such a wish sets that attribute in every ``forward`` under training, to a
    tensor ``[]`` that is a mean over the images of the call. Taking it leaves none behind, so it counts once.
    """
    losses = [vars(part).pop("auxiliary_loss") for part in projector.modules() if "auxiliary_loss" in vars(part)]
    return torch.stack(losses).sum() if losses else None


def find_projector(projector_type: str) -> ProjectorSpec:
    """The spec behind an ``mm_projector_type``; UserError with the known names and the nearest one otherwise."""
    specs = _all_specs()
    if projector_type in specs and specs[projector_type].pattern is None:
        return specs[projector_type]
    for spec in specs.values():
        if spec.pattern and spec.pattern.fullmatch(projector_type):
            return spec
    nearest = difflib.get_close_matches(projector_type, specs, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"Unknown projector type: {projector_type} (known: {', '.join(specs)}){hint}")
