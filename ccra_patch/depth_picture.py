"""LWCA's layer weights for several questions, as computed (dashed) and smoothed (solid): the paper's Figure 4."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccra_patch.picture import Example, new_figure, png_path, save

# Inches.
WIDTH, PLOT, LEFT, TOP, BELOW, LINE = 8.0, 3.6, 0.8, 0.2, 0.55, 0.17
LEGEND_CHARACTERS = 95  # of a line of the legend


def draw_layer_weights(examples: Sequence[Example], path: str | Path) -> list[dict[str, Any]]:
    """One pair of lines for each example, and its question, of any length, in the legend below.

    Args:
        examples: at least one; their layers need not be the same.
        path: of the PNG to write; the numbers go into a JSON file of the same name.

    Returns:
        the numbers, one entry for each example.

    Raises:
        ValueError: without examples, or for a path that is not a PNG's.
        ImportError: without matplotlib.
    """
    path = png_path(path)
    if not examples:
        raise ValueError("there is no example to draw; give at least one")
    keys = ("question", "layers", "layer_scores", "smoothed_scores", "raw_layer_weights", "layer_weights")
    rows = [{key: numbers[key] for key in keys} for numbers in (example.numbers() for example in examples)]
    labels = [textwrap.wrap(row["question"], LEGEND_CHARACTERS) or ["(no question)"] for row in rows]
    height = TOP + PLOT + BELOW + LINE * (1 + sum(map(len, labels)))
    figure = new_figure(WIDTH, height)
    axes = figure.add_axes((LEFT / WIDTH, 1 - (TOP + PLOT) / height, 1 - (LEFT + TOP) / WIDTH, PLOT / height))
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        color = f"C{number % 10}"
        axes.plot(row["layers"], row["raw_layer_weights"], "--", color=color, linewidth=1)
        axes.plot(row["layers"], row["layer_weights"], "-", color=color, marker=".", label="\n".join(label))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    axes.set_ylabel("weight; dashed: before smoothing")
    legend = figure.legend(loc="lower left", bbox_to_anchor=(LEFT / WIDTH, 0), fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    save(figure, rows, path)
    return rows
