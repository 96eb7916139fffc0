"""Train and evaluate every arm of a study with several seeds: Tables 3 and 4, Figure 7, and the other projectors.

::

    python -m ccra_patch.sweep --study table4 --seeds 1 2 3 --out checkpoints/sweeps/table4 \\
        --train DATA=playground/data/llava_v1_5_mix665k.json --eval DATA=playground/data/eval/gqa BATCH_SIZE=16

Each arm runs the real scripts, ``finetune_ccra.sh`` and ``eval/gqa.sh``, with their variables (``--help`` of a script
lists them): ``--train`` and ``--eval`` give those that all arms share, the study adds what an arm changes. What is
finished is not run again, and what was interrupted goes on where it stopped, so the same command is also how to resume;
several machines may share one ``--out`` if each is given other ``--arms`` or ``--seeds``.

``--out`` gets a folder per arm and seed with the trained model, the answers and ``run.json``, then ``summary.json`` and
``summary.png``.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccra_patch.studies import STUDIES, Arm, Panel, Study

ROOT = Path(__file__).resolve().parents[1]
TRAIN_SCRIPT = "scripts/v1_5/finetune_ccra.sh"
EVAL_SCRIPT = "scripts/v1_5/eval/gqa.sh"


@dataclass(frozen=True)
class Command:
    """A script with the variables it is called with."""

    script: str
    variables: dict[str, str]

    def __str__(self) -> str:
        words = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*words, "bash", shlex.quote(self.script)])

    def run(self) -> None:
        """Run it in the repository, its output being ours. Raises ValueError if it fails."""
        print(f"\n== {self}", file=sys.stderr, flush=True)
        done = subprocess.run(["bash", self.script], cwd=ROOT, env=os.environ | self.variables, check=False)
        if done.returncode:
            raise ValueError(
                f"{self.script} failed with exit code {done.returncode}, its message is above; "
                "mend that, and the same command goes on from there"
            )


@dataclass
class Run:
    """One arm with one seed: what it is made of, and how far it has come.

    Attributes:
        folder: of everything that belongs to it.
        train, evaluate: its two commands.
        trained: whether the first is done.
        scores: the evaluation's, by metric; None before it is done.
    """

    arm: str
    seed: int
    folder: Path
    train: Command
    evaluate: Command
    trained: bool = False
    scores: dict[str, dict[str, float]] | None = None

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    def recall(self) -> None:
        """Take up what an earlier call has recorded. Raises ValueError if that was another run."""
        if not self.record.exists():
            return
        try:
            before = json.loads(self.record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self.record} is not JSON ({error}); delete {self.folder} to start that run anew"
            ) from error
        for part in ("train", "evaluate"):
            old, new = before[part], asdict(getattr(self, part))
            if old != new:
                raise ValueError(
                    f"{self.folder} holds another run: {_first_difference(old, new)}; choose another --out"
                )
        self.trained, self.scores = before["trained"], before["scores"]

    def write(self) -> None:
        """Record the state in one step: a killed sweep leaves the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.record.with_suffix(".partial")
        state = asdict(self) | {"folder": str(self.folder)}
        partial.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.record)

    def commands_left(self) -> list[Command]:
        if self.scores is not None:
            return []
        return [self.evaluate] if self.trained else [self.train, self.evaluate]

    def finish(self) -> None:
        """Do what is left of it."""
        if self.scores is None:
            self.write()
            if not self.trained:
                self.train.run()
                self.trained = True
                self.write()
            self.evaluate.run()
            self.scores = _read_scores(Path(self.evaluate.variables["RESULTS"]))
            self.write()


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if old["script"] != new["script"]:
        return f"{old['script']} there, {new['script']} here"
    there, here = old["variables"], new["variables"]
    name = next(name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name))
    return f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"


def _read_scores(path: Path) -> dict[str, dict[str, float]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} holds no scores ({error!r}); the evaluation script must write RESULTS") from error


def plan(
    arms: Iterable[Arm],
    seeds: Sequence[int],
    out: Path,
    train: Mapping[str, str],
    evaluate: Mapping[str, str],
    train_script: str = TRAIN_SCRIPT,
    eval_script: str = EVAL_SCRIPT,
) -> list[Run]:
    """One run for each seed and arm, seed by seed: an interrupted sweep has whole comparisons.

    Args:
        out: folder of all runs.
        train, evaluate: variables for the scripts of all arms.
    """
    runs = []
    for seed in dict.fromkeys(seeds):
        for arm in arms:
            folder = out.resolve() / f"{arm.name}-seed{seed}"
            model, answers = folder / "model", folder / "answers"
            training = {"PROJECTOR": "ccra"} | dict(train) | arm.changes | {"SEED": str(seed), "OUTPUT": str(model)}
            evaluation = dict(evaluate) | {
                "CKPT": str(model),
                "NAME": folder.name,
                "ANSWERS": str(answers),
                "RESULTS": str(answers / "results.json"),
                "RESUME": "1",
            }
            commands = Command(train_script, training), Command(eval_script, evaluation)
            runs.append(Run(arm.name, seed, folder, *commands))
    return runs


@dataclass(frozen=True)
class Summary:
    """What the seeds of one arm say.

    Attributes:
        values: the metric by seed.
        mean: over the seeds.
        standard_error: of that mean, from the spread over seeds; None with one seed.
        difference: mean difference from the baseline arm over the seeds that both have; None where there is none.
        difference_error: standard error of that mean; None with one such seed.
    """

    values: dict[int, float]
    mean: float
    standard_error: float | None
    difference: float | None = None
    difference_error: float | None = None

    @classmethod
    def of(cls, values: dict[int, float], baseline: Mapping[int, float]) -> "Summary":
        """Of an arm's values by seed, beside those of the arm to compare it with."""
        differences = [value - baseline[seed] for seed, value in values.items() if seed in baseline]
        compared = mean_and_error(differences) if differences else (None, None)
        return cls(values, *mean_and_error(list(values.values())), *compared)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, None for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return statistics.fmean(values), error


def summarise(runs: Sequence[Run], metric: str, baseline: str) -> dict[str, Summary]:
    """The arms that have a finished run, in the order of the runs, beside the arm called ``baseline``.

    Raises ValueError for a metric that the evaluation did not give.
    """
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        if run.scores is None:
            continue
        if metric not in run.scores:
            raise ValueError(f"--metric {metric} is not among the scores; there are {', '.join(sorted(run.scores))}")
        values.setdefault(run.arm, {})[run.seed] = run.scores[metric]["value"]
    compare_with = values.get(baseline, {})
    return {arm: Summary.of(found, {} if arm == baseline else compare_with) for arm, found in values.items()}


def table(summaries: Mapping[str, Summary], metric: str, baseline: str) -> str:
    """A row per arm: mean and standard error over seeds, and the same of the difference from the baseline."""

    def cell(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.2f}"

    lines = [("arm", metric, "s.e.", "seeds", f"from {baseline}", "s.e.")]
    for arm, found in summaries.items():
        lines.append(
            (
                arm,
                cell(found.mean),
                cell(found.standard_error),
                str(len(found.values)),
                cell(found.difference, "+"),
                cell(found.difference_error),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(word.rjust(width) for word, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def draw(panels: Sequence[Panel], summaries: Mapping[str, Summary], metric: str, path: Path) -> None:
    """One plot per panel: the mean of each arm with its standard error, and its seeds as small dots."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ValueError(f"the plot needs {error.name}; install it with: pip install matplotlib") from error

    figure = Figure(figsize=(1.5 + 4.5 * len(panels), 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        shown = {label: summaries[arm.name] for label, arm in panel.arms.items() if arm.name in summaries}
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
        axes.set_xticks(places, shown, rotation=0 if panel.is_scale else 30, ha="center" if panel.is_scale else "right")
        axes.set_xlabel(panel.title)
        axes.margins(x=0.1)
    figure.axes[0].set_ylabel(f"{metric}, mean and standard error over seeds")
    figure.savefig(path, dpi=120)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier() and name == name.upper()):
        raise argparse.ArgumentTypeError(f"{text!r} is no variable; write NAME=VALUE")
    return name, value


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccra_patch.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", required=True, choices=STUDIES, help="which comparison")
    parser.add_argument("--seeds", required=True, nargs="+", type=int, help="every arm is trained with each of them")
    parser.add_argument("--out", required=True, type=Path, help="folder of all runs, the summary and the plot")
    parser.add_argument(
        "--train",
        nargs="+",
        action="extend",
        type=_variable,
        default=[],
        metavar="NAME=VALUE",
        help="variables of the training script",
    )
    parser.add_argument(
        "--eval",
        nargs="+",
        action="extend",
        type=_variable,
        default=[],
        metavar="NAME=VALUE",
        help="variables of the evaluation script",
    )
    parser.add_argument("--arms", nargs="+", help="only these arms of the study")
    parser.add_argument("--metric", default="accuracy", help="which score of the evaluation (default: accuracy)")
    parser.add_argument("--train-script", default=TRAIN_SCRIPT, help=f"default: {TRAIN_SCRIPT}")
    parser.add_argument("--eval-script", default=EVAL_SCRIPT, help=f"default: {EVAL_SCRIPT}")
    parser.add_argument("--dry-run", action="store_true", help="list the commands that are left to run, and stop")
    return parser


def choose(study: Study, names: Sequence[str] | None) -> list[Arm]:
    """The named arms of a study, in its order; all by default. Raises ValueError for a name it does not have."""
    for name in names or ():
        if name not in study.arms:
            raise ValueError(f"--arms {name} is not in the study; there are {', '.join(study.arms)}")
    return [arm for name, arm in study.arms.items() if names is None or name in names]


def refuse_what_the_sweep_sets(given: Iterable[str], flag: str, reserved: Iterable[str]) -> None:
    """Raise ValueError for a variable that would not be the same in all arms, or would be overwritten."""
    taken = sorted(set(given) & set(reserved))
    if taken:
        raise ValueError(f"{flag} {taken[0]} is set by the sweep for each run; drop it")


def sweep(args: argparse.Namespace) -> None:
    """Plan, run what is left, and report. Raises ValueError for a user's mistake or a script that fails."""
    study = STUDIES[args.study]
    train, evaluate = dict(args.train), dict(args.eval)
    refuse_what_the_sweep_sets(train, "--train", {"PROJECTOR", "SEED", "OUTPUT"} | study.varied)
    refuse_what_the_sweep_sets(evaluate, "--eval", ("CKPT", "NAME", "ANSWERS", "RESULTS", "RESUME"))
    arms = choose(study, args.arms)
    runs = plan(arms, args.seeds, args.out, train, evaluate, args.train_script, args.eval_script)
    for run in runs:
        run.recall()
    if args.dry_run:
        for run in runs:
            for command in run.commands_left():
                print(command)
        return
    for run in runs:
        run.finish()
    summaries = summarise(runs, args.metric, study.baseline)
    (args.out / "summary.json").write_text(
        json.dumps({arm: asdict(found) for arm, found in summaries.items()}, indent=2) + "\n", encoding="utf-8"
    )
    print(table(summaries, args.metric, study.baseline))
    draw(study.panels, summaries, args.metric, args.out / "summary.png")


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    try:
        sweep(args)
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
