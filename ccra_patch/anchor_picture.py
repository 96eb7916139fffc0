"""AttAnchor's pins drawn on their picture: which question token belongs to which patches, with the numbers as JSON.

matplotlib is imported when something is drawn, not before.
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the picture

# Inches, and dots for each of them.
PANEL, LEGEND, GAP, LINE = 4.5, 3.0, 0.3, 0.2
DPI = 100
CHARACTERS_PER_INCH = 12  # of a question
LONGEST_SIDE = 672  # pixels a picture is drawn with


@dataclass(frozen=True)
class Pin:
    """A question token and a patch that belong together.

    text: the token, as the prompt spells it.
    token: its number among the prompt's tokens.
    box: what the patch shows of the picture; it may lie in the padding around it.
    similarity: the cosine by which they belong together.
    """

    text: str
    token: int
    box: Box
    similarity: float


@dataclass(frozen=True)
class PinnedPicture:
    """One question about one picture, and AttAnchor's pins: a row of the figure.

    Attributes:
        question: as asked.
        picture: the PIL picture before any preprocessing.
        pins: in any order, on the picture or beside it.
        direction: ``text_into_image`` or ``image_into_text``: which of the two is copied to the other.
        tau: the threshold that the pins passed.
    """

    question: str
    picture: "Image"
    pins: Sequence[Pin]
    direction: str
    tau: float

    def numbers(self) -> dict[str, Any]:
        """Everything that the row draws, JSON-able; pins in the order of the prompt."""
        pins = sorted(self.pins, key=lambda pin: (pin.token, pin.box[1], pin.box[0]))
        return {
            "question": self.question,
            "picture_size": list(self.picture.size),
            "direction": self.direction,
            "tau": self.tau,
            "pins": [asdict(pin) | {"on_picture": _overlaps(pin.box, *self.picture.size)} for pin in pins],
        }


def patch_box(row: int, column: int, rows: int, columns: int, covered: Box) -> Box:
    """One cell of a grid of patches that covers the box ``covered`` (see :func:`ccra_patch.picture.covered_box`)."""
    left, top, right, bottom = covered
    width, height = (right - left) / columns, (bottom - top) / rows
    return left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height


def draw_pins(examples: Sequence[PinnedPicture], path: str | Path) -> list[dict[str, Any]]:
    """Draw one row for each example: the question, its picture with numbered patches, and which token each number is.

    Args:
        examples: at least one.
        path: of the PNG to write; the numbers go into a JSON file of the same name.

    Returns:
        the numbers, one entry for each example.

    Raises:
        ValueError: without examples, or for a path that is not a PNG's.
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing pins needs matplotlib; run: pip install matplotlib") from error

    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"the figure's path is {str(path)!r}; it must end in .png")
    if not examples:
        raise ValueError("there is no example to draw; give at least one")
    rows = [example.numbers() for example in examples]
    width = PANEL + LEGEND + 3 * GAP
    titles = [textwrap.wrap(row["question"], int(width * CHARACTERS_PER_INCH)) or ["(no question)"] for row in rows]
    legends = [_legend(row) for row in rows]
    bodies = [
        max(PANEL * picture.height / max(picture.size), len(legend) * LINE)
        for picture, legend in zip((example.picture for example in examples), legends, strict=True)
    ]
    height = sum(bodies) + sum(len(title) * LINE + 2 * GAP for title in titles)
    figure = Figure(figsize=(width, height), dpi=DPI)

    top = height - GAP / 2
    for example, row, title, legend, body in zip(examples, rows, titles, legends, bodies, strict=True):
        figure.text(GAP / width, top / height, "\n".join(title), va="top", fontsize=10, parse_math=False)
        top -= len(title) * LINE + GAP / 2
        panel = figure.add_axes((GAP / width, (top - body) / height, PANEL / width, body / height))
        _fill(panel, example.picture, row)
        for number, (text, color) in enumerate(legend):
            place = ((PANEL + 2 * GAP) / width, (top - number * LINE) / height)
            figure.text(*place, text, va="top", fontsize=8, color=color, parse_math=False)
        top -= body + 1.5 * GAP

    figure.savefig(path)
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    return rows


def _overlaps(box: Box, width: int, height: int) -> bool:
    left, top, right, bottom = box
    return left < width and top < height and right > 0 and bottom > 0


def _numbers_of_tokens(row: dict[str, Any]) -> dict[int, int]:
    """What each pinned token is called in the figure: 1, 2, ... in the order of the prompt."""
    return {token: number for number, token in enumerate(dict.fromkeys(pin["token"] for pin in row["pins"]), start=1)}


def _color(number: int) -> str:
    return f"C{number - 1}"  # matplotlib's cycle of ten


def _legend(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines beside the picture with their colours: threshold, then a line for each pinned token."""
    lines = [(f"{row['direction']}, tau {row['tau']:g}", "black")]
    for token, number in _numbers_of_tokens(row).items():
        pins = [pin for pin in row["pins"] if pin["token"] == token]
        best = max(pin["similarity"] for pin in pins)
        unseen = sum(not pin["on_picture"] for pin in pins)
        note = f", {len(pins)} patches" if len(pins) > 1 else ""
        note += f" ({unseen} in the padding)" if unseen else ""
        lines.append((f"{number}  {textwrap.shorten(pins[0]['text'], 24)}  {best:.3f}{note}", _color(number)))
    return lines if len(lines) > 1 else [*lines, ("nothing is pinned", "black")]


def _fill(panel: "Axes", picture: "Image", row: dict[str, Any]) -> None:
    width, height = picture.size
    drawn = picture.convert("RGB")
    drawn.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    panel.imshow(drawn, extent=(0, width, height, 0))
    numbers = _numbers_of_tokens(row)
    labels: dict[Box, list[int]] = {}
    for pin in row["pins"]:
        if pin["on_picture"]:
            number, (left, top, right, bottom) = numbers[pin["token"]], pin["box"]
            outline = [left, right, right, left, left], [top, top, bottom, bottom, top]
            panel.plot(*outline, color=_color(number), linewidth=1.5)
            labels.setdefault(pin["box"], []).append(number)
    for (left, top, _, _), shown in labels.items():
        panel.text(
            max(left, 0),
            max(top, 0),
            ",".join(map(str, shown)),
            va="top",
            fontsize=7,
            color="white",
            bbox={"facecolor": _color(shown[0]), "edgecolor": "none", "pad": 1},
        )
    panel.set_xlim(0, width)
    panel.set_ylim(height, 0)
    panel.set_anchor("N")
    panel.set_axis_off()
