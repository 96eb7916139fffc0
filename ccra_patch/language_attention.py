"""Where in the picture the language model looks while it reads the question: the paper's Figures 2 and 6.

Of its own attention, averaged over its middle layers, its heads and the question's tokens.

Shapes: S places of the sequence, N patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ccra_patch.picture import grid_of, overlay, png_path, rows_of_panels, save, show

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_NAME = 34  # characters above a panel


def middle_layers(count: int) -> range:
    """The middle third of so many layers, from 0; all of fewer than three."""
    return range(count // 3, count - count // 3)


def text_to_image(attentions: Sequence[Tensor], question: Tensor, patch: Tensor, patches: int) -> Tensor:
    """How much attention the question pays to each patch.

    Args:
        attentions: of the layers to average, ``[heads, S, S]`` each, rows of a softmax.
        question: ``[S]`` bool, the question's places.
        patch: ``[S]``, which patch of the picture stands at a place; others than 0 to ``patches - 1`` do not count.
        patches: N.

    Returns:
        ``[N]``, float32: shares of the attention, so at most 1 in all. What several places show of a patch adds up.
    """
    on_places = torch.stack([layer[:, question].float().mean(dim=(0, 1)) for layer in attentions]).mean(dim=0)
    seen = (patch >= 0) & (patch < patches)
    return on_places.new_zeros(patches).index_add(0, patch[seen], on_places[seen])


@dataclass(frozen=True)
class Reading:
    """One question about one picture, and where each model looks: a row of the figure.

    Attributes:
        question: as asked.
        picture: the PIL picture before any preprocessing.
        attention: ``[N]`` by the model's name, from :func:`text_to_image`.
        fit: by the model's name, see :class:`~ccra_patch.picture.Example`.
    """

    question: str
    picture: "Image"
    attention: dict[str, Tensor]
    fit: dict[str, str]

    def numbers(self) -> dict[str, Any]:
        """Everything that the row draws, JSON-able; maps are nested lists, rows of the patch grid."""
        models = {
            name: {
                "fit": self.fit[name],
                "attention_on_picture": values.sum().item(),
                "map": grid_of(values).tolist(),
            }
            for name, values in self.attention.items()
        }
        return {"question": self.question, "picture_size": list(self.picture.size), "models": models}


def draw_attention(readings: Sequence[Reading], path: str | Path) -> list[dict[str, Any]]:
    """Draw one row for each reading: the picture, then each model's attention over it, and the question above them.

    Args:
        readings: at least one.
        path: of the PNG to write; the numbers go into a JSON file of the same name.

    Returns:
        the numbers, one entry for each reading.

    Raises:
        ValueError: without readings, for a path that is not a PNG's, an unknown fit, or a patch grid that is no square.
        ImportError: without matplotlib.
    """
    path = png_path(path)
    if not readings:
        raise ValueError("there is no example to draw; give at least one")
    rows = [reading.numbers() for reading in readings]
    counts = [1 + len(row["models"]) for row in rows]
    figure, panels = rows_of_panels([reading.question for reading in readings], counts)
    for reading, row, (original, *others) in zip(readings, rows, panels, strict=True):
        show(original, reading.picture)
        for panel, (name, model) in zip(others, row["models"].items(), strict=True):
            short = name if len(name) <= LONGEST_NAME else "…" + name[1 - LONGEST_NAME :]
            overlay(panel, reading.picture, model["map"], model["fit"], short)
    save(figure, rows, path)
    return rows
