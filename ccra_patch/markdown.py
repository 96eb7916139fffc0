"""Tables as Markdown, aligned so that a terminal shows them well, too."""

from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """``lines`` of cells, the first one the head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def number_cell(mean: float | None, error: float | None) -> str:
    """A mean and its standard error, either of which there may not be."""
    if mean is None:
        return "-"
    return f"{mean:.3g}" if error is None else f"{mean:.3g} ± {error:.1g}"
