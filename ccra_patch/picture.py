"""Attention maps drawn over their picture, with the numbers beside them as JSON (the paper's Figure 3).

matplotlib is imported when something is drawn, not before. What further figures are made of is here too.
"""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ccra_patch.pai import AttentionMaps
from ccra_patch.settings import require_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

FITS = ("pad", "crop", "stretch")

# Inches, and dots for each of them.
PANEL, GAP, CAPTION, TITLE_LINE, FOOT = 2.2, 0.35, 0.35, 0.2, 0.5
DPI = 100
CHARACTERS_PER_INCH = 12  # of a title
LONGEST_SIDE = 448  # pixels a picture is drawn with; a panel has fewer


@dataclass(frozen=True)
class Example:
    """One question about one picture, and what the attentions made of it: a row of the figure.

    Attributes:
        question: as asked.
        picture: the PIL picture before any preprocessing.
        maps: what the projector returned with ``return_maps=True``, on any device.
        index: which image of the maps' batch this is.
        fit: how the vision tower's square was made of the picture: ``pad`` (centred on a square as wide as its longer
            side; ``image_aspect_ratio=pad``), ``crop`` (the square in its middle; CLIP's own preprocessing) or
            ``stretch`` (squeezed into a square; the overview image of ``anyres``).
        layers: what the L layers are called, as indices into ``hidden_states``; the default is 1 to L.
    """

    question: str
    picture: "Image"
    maps: AttentionMaps
    index: int = 0
    fit: str = "pad"
    layers: Sequence[int] = ()

    def numbers(self) -> dict[str, Any]:
        """Everything that the row draws, JSON-able; maps are nested lists, rows of the patch grid."""
        maps = {name: value[self.index].detach().float().cpu() for name, value in vars(self.maps).items()}
        count = len(maps["layer_weights"])
        layers = list(self.layers) or list(range(1, count + 1))
        if len(layers) != count:
            raise ValueError(f"{len(layers)} layers are named, the maps have {count}; name each of them or none")
        return {
            "question": self.question,
            "picture_size": list(self.picture.size),
            "fit": self.fit,
            "layers": layers,
            "alpha": maps["alpha"].tolist(),
            "lpwca": [
                {"layer": layers[place], "map": grid_of(maps["lpwca"][place]).tolist()} for place in _shown(count)
            ],
            "layer_scores": maps["layer_scores"].tolist(),
            "smoothed_scores": maps["smoothed_scores"].tolist(),
            "raw_layer_weights": maps["layer_scores"].softmax(dim=0).tolist(),
            "layer_weights": maps["layer_weights"].tolist(),
            "pwca": grid_of(maps["pwca"]).tolist(),
        }


def draw(examples: Sequence[Example], path: str | Path) -> list[dict[str, Any]]:
    """Draw one row for each example: picture, LPWCA at three layers, layer weights, PWCA, and the question above them.

    Layer weights are drawn as the softmax of the scores as computed (dashed) and smoothed (solid). The colours of a map
    span the values of the patches that lie on the picture, which stand in its caption.

    Args:
        examples: at least one.
        path: of the PNG to write; the numbers go into a JSON file of the same name.

    Returns:
        the numbers, one entry for each example.

    Raises:
        ValueError: without examples, for a path that is not a PNG's, an unknown fit, or a patch grid that is no square.
        ImportError: without matplotlib.
    """
    path = png_path(path)
    if not examples:
        raise ValueError("there is no example to draw; give at least one")
    rows = [example.numbers() for example in examples]
    panel_counts = [3 + len(row["lpwca"]) for row in rows]
    figure, panels = rows_of_panels([example.question for example in examples], panel_counts)
    for example, row, row_panels in zip(examples, rows, panels, strict=True):
        _fill(row_panels, example.picture, row)
    save(figure, rows, path)
    return rows


def png_path(path: str | Path) -> Path:
    """Raises ValueError unless the path is a PNG's."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the figure's path is {str(path)!r}; it must end in .png")
    return path


def save(figure: "Figure", numbers: Any, path: Path) -> None:
    """The PNG, and beside it what it shows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    path.with_suffix(".json").write_text(json.dumps(numbers, indent=1))


def new_figure(width: float, height: float) -> "Figure":
    """Sizes are in inches. Raises ImportError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing attention maps needs matplotlib; run: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=DPI)


def rows_of_panels(titles: Sequence[str], counts: Sequence[int]) -> "tuple[Figure, list[list[Axes]]]":
    """A figure with a row of square panels under each title; a title of any length is wrapped to the figure's width."""
    width = max(counts) * (PANEL + GAP) + GAP
    wrapped = [textwrap.wrap(title, int(width * CHARACTERS_PER_INCH)) or ["(no question)"] for title in titles]
    heights = [len(title) * TITLE_LINE + CAPTION + PANEL + FOOT for title in wrapped]
    height = sum(heights) + GAP
    figure = new_figure(width, height)
    rows, bottom = [], height - GAP / 2
    for title, row_height, count in zip(wrapped, heights, counts, strict=True):
        top, bottom = bottom, bottom - row_height
        figure.text(GAP / width, top / height, "\n".join(title), va="top", fontsize=10, parse_math=False)
        lefts = [(GAP + column * (PANEL + GAP)) / width for column in range(count)]
        box = ((bottom + FOOT) / height, PANEL / width, PANEL / height)
        rows.append([figure.add_axes((left, *box)) for left in lefts])
    return figure, rows


def on_picture(values: Tensor, width: int, height: int, fit: str) -> Tensor:
    """Spread a map over the picture's own pixels, undoing how the picture was made square.

    Patches that lie in the padding are left out, so nothing of them reaches the picture. Pixels that the vision tower
    did not see (outside the crop) are NaN.

    Args:
        values: ``[N]`` or the square grid ``[g, g]``, row by row.
        width, height: of the picture.
        fit: ``pad``, ``crop`` or ``stretch``.

    Returns:
        ``[height, width]``.
    """
    grid = grid_of(values)
    left, top, right, bottom = covered_box(width, height, fit)
    return _spread(len(grid), height, top, bottom) @ grid @ _spread(len(grid), width, left, right).T


def covered_box(width: int, height: int, fit: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what the patch grid covers, in pixels of the picture.

    The box of a padded picture reaches beyond it, that of a cropped one lies inside.
    """
    require_choice("fit", fit, FITS)
    if fit == "stretch":
        return 0, 0, width, height
    side = max(width, height) if fit == "pad" else min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _spread(cells: int, pixels: int, start: float, end: float) -> Tensor:
    """Linear interpolation along one side: ``[pixels, cells]``, for cells that cover ``start`` to ``end``."""
    size = (end - start) / cells
    first = max(0, math.floor(-start / size + 1e-6))  # the first and last cell that touch the picture
    last = min(cells, math.ceil((pixels - start) / size - 1e-6)) - 1
    centre = torch.arange(pixels) + 0.5
    place = ((centre - start) / size - 0.5).clamp(first, last)
    weights = (1 - (place[:, None] - torch.arange(cells)).abs()).clamp(min=0)
    weights[(centre < start) | (centre > end)] = math.nan
    return weights


def grid_of(values: Tensor) -> Tensor:
    """A map ``[N]`` as a square on the CPU, in float32. Raises ValueError for a grid that is no square."""
    side = math.isqrt(values.numel())
    if side * side != values.numel():
        raise ValueError(f"a map has {values.numel()} patches; only a square grid of patches can be drawn")
    return values.detach().float().cpu().reshape(side, side)


def _shown(count: int) -> list[int]:
    """The three layers to draw: shallow, middle and deep (fewer if there are fewer)."""
    return sorted({0, count // 2, count - 1})


def _fill(panels: "Sequence[Axes]", picture: "Image", row: dict[str, Any]) -> None:
    original, *lpwca_panels, weights_panel, pwca_panel = panels
    show(original, picture)
    for panel, shown in zip(lpwca_panels, row["lpwca"], strict=True):
        overlay(panel, picture, shown["map"], row["fit"], f"LPWCA, layer {shown['layer']}")
    overlay(pwca_panel, picture, row["pwca"], row["fit"], "PWCA")

    weights_panel.plot(
        row["layers"], row["raw_layer_weights"], linestyle="--", color="tab:gray", marker=".", label="raw"
    )
    weights_panel.plot(row["layers"], row["layer_weights"], color="tab:red", marker=".", label="smoothed")
    weights_panel.set_ylim(bottom=0)
    weights_panel.tick_params(labelsize=6)
    weights_panel.set_xlabel("layer", fontsize=7)
    weights_panel.set_title("LWCA, layer weights", fontsize=8)
    weights_panel.legend(fontsize=6)


def show(panel: "Axes", picture: "Image") -> None:
    """The picture itself."""
    panel.imshow(_small(picture))
    panel.set_anchor("N")
    panel.set_title("picture", fontsize=8)
    panel.set_axis_off()


def overlay(panel: "Axes", picture: "Image", values: list[list[float]], fit: str, name: str) -> None:
    """A map over its picture; the colours span the values that lie on the picture, which stand in the caption."""
    picture = _small(picture)
    heat = on_picture(torch.tensor(values), *picture.size, fit)
    drawn = heat[~heat.isnan()]
    panel.imshow(picture.convert("L"), cmap="gray", vmin=0, vmax=255)
    panel.imshow(heat.numpy(), cmap="inferno", alpha=0.6)
    panel.set_anchor("N")  # below its caption, whatever the picture's shape
    panel.set_title(f"{name}\n{drawn.min():.3g} to {drawn.max():.3g}", fontsize=8, parse_math=False)
    panel.set_axis_off()


def _small(picture: "Image") -> "Image":
    picture = picture.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return picture
