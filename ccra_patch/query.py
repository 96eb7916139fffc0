"""Which tokens of a conversation are the question: F_t of the paper, found in the token ids alone.

At training the answer stands in the same sequence as the question, at inference it does not exist yet. Working from
the ids and the role markers, and never from the labels, makes one function serve both and give the same tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ccra_patch.settings import QUERY_MODES, require_choice

OUTSIDE_VOCABULARY = -1  # matches no marker, since markers hold ids >= 0


@dataclass(frozen=True)
class QueryMarkers:
    """How a conversation template looks in token ids.

    Attributes:
        open: token sequences that begin a human turn. A role often tokenises differently at the start of the text and
            after a separator; list every form.
        close: token sequences that end a human turn (the assistant's role).
        skip: single ids that are never part of the question, wherever they stand (begin and end of sequence).

    Raises:
        ValueError: for an empty marker, a negative id, or a sequence that both opens and closes.
    """

    open: tuple[tuple[int, ...], ...]
    close: tuple[tuple[int, ...], ...]
    skip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, markers in (("open", self.open), ("close", self.close), ("skip", (self.skip,))):
            for marker in markers:
                if not marker and name != "skip":
                    raise ValueError(f"query markers: {name} holds an empty marker; each needs at least one token id")
                if any(token < 0 for token in marker):
                    raise ValueError(
                        f"query markers: {name} holds {list(marker)}; token ids of a marker must be at least 0"
                    )
        for marker in self.open:
            if marker in self.close:
                raise ValueError(f"query markers: {list(marker)} is in open and in close; keep it in one of them")

    def to_dict(self) -> dict[str, list[Any]]:
        """The markers as JSON-able lists, for ``config.mm_query_markers``."""
        return {
            "open": [list(marker) for marker in self.open],
            "close": [list(marker) for marker in self.close],
            "skip": list(self.skip),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Sequence[Any]]) -> "QueryMarkers":
        """The inverse of :meth:`to_dict`. Raises ValueError naming a key that is missing or unknown."""
        if set(data) != {"open", "close", "skip"}:
            raise ValueError(f"query markers have the keys {sorted(data)}; they must be open, close and skip")
        return cls(
            open=tuple(tuple(marker) for marker in data["open"]),
            close=tuple(tuple(marker) for marker in data["close"]),
            skip=tuple(data["skip"]),
        )


def select_query(input_ids: Tensor, attention_mask: Tensor | None, markers: QueryMarkers, mode: str) -> Tensor:
    """Mark the tokens that :func:`number_turns` numbers: ``[B, S]`` bool. Arguments and errors are the same."""
    return number_turns(input_ids, attention_mask, markers, mode) > 0


def number_turns(input_ids: Tensor, attention_mask: Tensor | None, markers: QueryMarkers, mode: str) -> Tensor:
    """Number the tokens of human turns: what lies between an ``open`` marker and the next ``open`` or ``close`` one.

    The markers themselves, padding, ``skip`` ids and negative ids (image placeholders) are 0. Of the markers
    that match at one position the longest counts, and a match that lies inside another is ignored. Without an opener
    nothing is numbered. Runs on the device of ``input_ids`` and never waits for it.

    Args:
        input_ids: ``[B, S]`` token ids.
        attention_mask: ``[B, S]``, zero or False at padding; None if there is none.
        markers: the conversation template.
        mode: ``human`` (every human turn), ``first`` or ``last`` (the first or last human turn with any token left).

    Returns:
        ``[B, S]``: 0 at what is not the question; the others belong to the same turn where their numbers are equal, and
        to a later one where they are higher.

    Raises:
        ValueError: for an unknown mode or shapes that differ.
    """
    require_choice("mm_ccra_query", mode, QUERY_MODES)
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids has the shape {list(input_ids.shape)}; it must be [batch, tokens]")
    visible = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if visible.shape != input_ids.shape:
        raise ValueError(f"attention_mask has the shape {list(visible.shape)}, input_ids {list(input_ids.shape)}")
    if input_ids.shape[1] == 0:
        return torch.zeros_like(input_ids)

    ids = input_ids.masked_fill(~visible, OUTSIDE_VOCABULARY)
    opens, length = _find_markers(ids, markers)
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    marker_at = torch.where(length > 0, place, -1).cummax(dim=1).values  # the last marker at or before each position
    in_marker = torch.where(length > 0, place + length, 0).cummax(dim=1).values > place
    in_human_turn = opens.gather(1, marker_at.clamp(min=0))  # before the first marker: position 0, which opens nothing

    selected = in_human_turn & ~in_marker & (ids >= 0)
    for token in markers.skip:
        selected = selected & (ids != token)
    turn = opens.cumsum(dim=1) * selected
    if mode == "first":
        return turn * (turn == torch.where(selected, turn, turn.shape[1] + 1).amin(dim=1, keepdim=True))
    if mode == "last":
        return turn * (turn == turn.amax(dim=1, keepdim=True))
    return turn


def _find_markers(ids: Tensor, markers: QueryMarkers) -> tuple[Tensor, Tensor]:
    """Where markers start: ``opens [B, S]`` bool and ``length [B, S]`` (0 where none starts)."""
    opens = torch.zeros_like(ids, dtype=torch.bool)
    length = torch.zeros_like(ids)
    kinds = [(marker, True) for marker in markers.open] + [(marker, False) for marker in markers.close]
    for marker, is_open in sorted(kinds, key=lambda kind: len(kind[0])):  # a longer one overwrites a shorter one
        here = torch.ones_like(opens)
        for offset, token in enumerate(marker):
            here = here & (_shift_left(ids, offset) == token)
        opens = torch.where(here, is_open, opens)
        length = torch.where(here, len(marker), length)

    end = torch.where(length > 0, length + torch.arange(ids.shape[1], device=ids.device), 0)
    reached = end.cummax(dim=1).values.roll(1, dims=1)
    reached[:, 0] = 0
    outermost = end > reached
    return opens & outermost, length * outermost


def _shift_left(ids: Tensor, offset: int) -> Tensor:
    """``ids[:, offset:]``, filled up at the end with an id that no marker holds."""
    return torch.nn.functional.pad(ids[:, offset:], (0, min(offset, ids.shape[1])), value=OUTSIDE_VOCABULARY)
