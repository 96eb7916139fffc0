"""The pages of a sweep, from its ``summary.json``: tables as Markdown, and a plot of the differences.

::

    python -m ccra_patch.report checkpoints/sweeps/table4/summary.json --tables tables.md --figure differences.png
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccra_patch.markdown import markdown_table
from ccra_patch.studies import Panel
from ccra_patch.summary import CONFIDENCE, SAMPLES, Summary

Metrics = Mapping[str, Summary]
TYPES = "detailed/"  # GQA's finest types of questions


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError(f"the plot needs {error.name}; install it with: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def draw(panels: Sequence[Panel], evaluations: Mapping[str, Mapping[str, Metrics]], metric: str, path: Path) -> None:
    """A row per evaluation, a plot per panel: the mean of each arm with its standard error, its seeds as small dots."""
    figure = _figure(1.5 + 4.5 * len(panels), 4 * len(evaluations))
    rows = figure.subplots(len(evaluations), len(panels), sharey="row", squeeze=False)
    for row, (evaluation, arms) in zip(rows, evaluations.items(), strict=True):
        for axes, panel in zip(row, panels, strict=True):
            shown = {label: arms[arm.name][metric] for label, arm in panel.arms.items() if arm.name in arms}
            places = range(len(shown))
            for place, found in zip(places, shown.values(), strict=True):
                axes.plot([place] * len(found.values), list(found.values.values()), ".", color="0.7", zorder=1)
            axes.errorbar(
                places,
                [found.mean for found in shown.values()],
                yerr=[found.standard_error or 0.0 for found in shown.values()],
                fmt="o-" if panel.is_scale else "o",
                capsize=3,
            )
            turned = {"rotation": 0, "ha": "center"} if panel.is_scale else {"rotation": 30, "ha": "right"}
            axes.set_xticks(places, shown, **turned)
            axes.set_xlabel(panel.title)
            axes.margins(x=0.1)
        title = metric if len(evaluations) == 1 else f"{evaluation}: {metric}"
        row[0].set_ylabel(f"{title}, mean and standard error over seeds")
    figure.savefig(path, dpi=120)


def draw_differences(evaluations: Mapping[str, Mapping[str, Metrics]], metric: str, baseline: str, path: Path) -> None:
    """A plot per evaluation: each arm's difference from the baseline, thick its interval, thin its standard error."""
    arms = [arm for arm in next(iter(evaluations.values())) if arm != baseline]
    figure = _figure(2.2 + 2.6 * len(evaluations), 0.8 + 0.24 * len(arms))
    plots = figure.subplots(1, len(evaluations), sharey=True, squeeze=False)[0]
    for axes, (evaluation, found) in zip(plots, evaluations.items(), strict=True):
        for place, arm in enumerate(arms):
            one = found[arm][metric] if arm in found else None
            if one is None or one.difference is None:
                continue
            if one.interval is not None:
                axes.plot(one.interval, [place, place], color="C0", linewidth=5, alpha=0.35, solid_capstyle="butt")
            axes.errorbar(one.difference, place, xerr=one.difference_error or 0.0, fmt="o", color="C0", markersize=4)
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.set_yticks(range(len(arms)), arms)
        axes.set_xlabel(evaluation)
    plots[0].invert_yaxis()
    figure.supxlabel(f"{metric} less that of {baseline}, points", fontsize="medium")
    figure.savefig(path, dpi=90)


def _number(value: float | None, sign: str = "", digits: int = 1) -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _with_error(value: float | None, error: float | None, sign: str = "") -> str:
    return _number(value, sign) + ("" if error is None else f" ± {_number(error)}")


def comparison(arms: Mapping[str, Metrics], metric: str, baseline: str) -> str:
    """A row per arm: the metric, its difference from the baseline, and that one's interval."""
    lines = [["", metric, f"from {baseline}", f"{CONFIDENCE:.0%} over questions"]]
    for arm, metrics in arms.items():
        one = metrics[metric]
        interval = "-" if one.interval is None else "{:+.1f} to {:+.1f}".format(*one.interval)
        difference = _with_error(one.difference, one.difference_error, "+")
        lines.append([f"`{arm}`", _with_error(one.mean, one.standard_error), difference, interval])
    return markdown_table(lines)


def by_type(arms: Mapping[str, Metrics]) -> str:
    """A row per arm, a column per type of question; a star where the interval of the difference leaves out 0."""
    types = [metric for metric in next(iter(arms.values())) if metric.startswith(TYPES)]
    lines = [["", *(name.removeprefix(TYPES) for name in types)]]
    for arm, metrics in arms.items():
        cells = []
        for name in types:
            one = metrics[name]
            clear = one.interval is not None and not one.interval[0] <= 0 <= one.interval[1]
            cells.append(_number(one.mean) + ("*" if clear else ""))
        lines.append([f"`{arm}`", *cells])
    return markdown_table(lines)


def costs(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """A row per arm: parameters, steps, seconds of its commands."""

    def count(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    commands = list(dict.fromkeys(name for about in arms.values() for name in about["seconds"]))
    lines = [["", "projector", "trained", "steps", *(f"{name}, s" for name in commands)]]
    for arm, about in arms.items():
        numbers = [count(about.get(key)) for key in ("projector_parameters", "trained_parameters", "steps")]
        lines.append([f"`{arm}`", *numbers, *(_number(about["seconds"].get(name), digits=0) for name in commands)])
    return markdown_table(lines)


def searched(search: Mapping[str, Any]) -> str:
    """A row per arm, a column per value that was tried; bold the one that was taken."""
    values = list(next(iter(search["scores"].values())))
    lines = [[f"{search['metric']} with {search['variable']}", *values]]
    for arm, scores in search["scores"].items():
        taken = search["chosen"][arm]
        cells = [f"**{_number(scores[value])}**" if value == taken else _number(scores[value]) for value in values]
        lines.append([f"`{arm}`", *cells])
    return markdown_table(lines)


def read_evaluations(summary: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Summary]]]:
    """By evaluation, arm and metric."""
    return {
        evaluation: {
            arm: {metric: Summary(**fields) for metric, fields in metrics.items()} for arm, metrics in arms.items()
        }
        for evaluation, arms in summary["evaluations"].items()
    }


def pages(summary: Mapping[str, Any]) -> Iterable[str]:
    """All tables under headings, Markdown."""
    metric, baseline, seeds = summary["metric"], summary["baseline"], len(summary["seeds"])
    for evaluation, arms in read_evaluations(summary).items():
        yield f"### {evaluation}: {metric}"
        yield comparison(arms, metric, baseline)
        yield f"### {evaluation}: by type of question"
        yield by_type(arms)
    yield (
        f"Percent, mean over {seeds} seeds ± its standard error over them. Intervals: paired bootstrap over questions, "
        f"{SAMPLES:,} draws, the seeds as they are. A star: the interval of the difference leaves out 0."
    )
    if summary["search"] is not None:
        yield f"### Search over {summary['search']['variable']}"
        yield searched(summary["search"])
    yield "### What it took"
    yield costs(summary["arms"])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="ccra_patch.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("summary", type=Path, help="summary.json of a sweep")
    parser.add_argument("--tables", type=Path, help="Markdown file to write (default: print)")
    parser.add_argument("--figure", type=Path, help="PNG to write: the differences from the baseline")
    args = parser.parse_args()
    try:
        summary = json.loads(args.summary.read_text(encoding="utf-8"))
        text = "\n\n".join(pages(summary))
        if args.tables:
            args.tables.write_text(text + "\n", encoding="utf-8")
        else:
            print(text)
        if args.figure:
            draw_differences(read_evaluations(summary), summary["metric"], summary["baseline"], args.figure)
    except (OSError, ValueError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
