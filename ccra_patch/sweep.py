"""Train and evaluate every arm of a study with several seeds: Tables 3 and 4, Figure 7, and the other projectors.

::

    python -m ccra_patch.sweep --study table4 --seeds 1 2 3 --out checkpoints/sweeps/table4 \\
        --train DATA=playground/data/llava_v1_5_mix665k.json --eval DATA=playground/data/eval/gqa BATCH_SIZE=16

Each arm runs the real scripts, ``finetune_ccra.sh`` and ``eval/gqa.sh``, with their variables (``--help`` of a script
lists them): ``--train`` and ``--eval`` give those that all arms share, ``--train-arm`` what one has besides, the study
adds what an arm changes; ``{seed}`` in a training variable stands for the seed. What is finished is not run again, and
what was interrupted goes on where it stopped, so the same command is also how to resume; several machines may share one
``--out`` if each is given other ``--arms`` or ``--seeds``.

Several evaluations of each model have names, and variables beside those of ``--eval``::

    --evaluation balanced TIER=testdev_balanced --evaluation all TIER=testdev_all SPLIT=llava_gqa_testdev_all

A search gives every arm the same budget: each value of one variable is trained with the first seed, scored on its own
evaluation, and the best value, by ``--metric``, is used for all seeds::

    --search LEARNING_RATE=5e-6,1e-5,2e-5 --search-eval TIER=val_balanced SPLIT=llava_gqa_val_balanced

``--out`` gets a folder per arm and seed with the trained model, the answers and ``run.json``, then ``summary.json`` and
``summary.png``; ``python -m ccra_patch.report`` makes pages of them. What the numbers are: ccra_patch.summary.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccra_patch.report import draw
from ccra_patch.runs import TRAIN, Recipe, Run, finish_all
from ccra_patch.studies import STUDIES, Arm, Study
from ccra_patch.summary import describe, summarise, table

TRAIN_SCRIPT = "scripts/v1_5/finetune_ccra.sh"
EVAL_SCRIPT = "scripts/v1_5/eval/gqa.sh"
SEARCH = "search"  # what the search's evaluation is called
EVALUATION = "answers"  # and the only one where none is named
SET_BY_SWEEP = ("CKPT", "NAME", "ANSWERS", "RESULTS", "RESUME")

Variables = dict[str, str]


@dataclass(frozen=True)
class Search:
    """Which values of a training variable every arm tries, and the evaluation that decides."""

    variable: str
    values: tuple[str, ...]
    evaluation: Variables

    def candidates(self, recipe: Recipe, arm: Arm, seed: int) -> dict[str, Run]:
        """One run for each value."""
        return {
            value: recipe.run(arm, seed, {SEARCH: self.evaluation}, **{self.variable: value}) for value in self.values
        }

    def findings(self, tried: Mapping[str, Mapping[str, Run]], metric: str) -> dict[str, Any]:
        """By arm what each value scored, and the best, the first of equals. Raises ValueError for an unknown metric."""
        scores = {}
        for arm, candidates in tried.items():
            for run in candidates.values():
                require_metric(run.scores[SEARCH], metric)
            scores[arm] = {value: run.scores[SEARCH][metric]["value"] for value, run in candidates.items()}
        chosen = {arm: max(found, key=lambda value: found[value]) for arm, found in scores.items()}
        return {"variable": self.variable, "metric": metric, "chosen": chosen, "scores": scores}


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier() and name == name.upper()):
        raise argparse.ArgumentTypeError(f"{text!r} is no variable; write NAME=VALUE")
    return name, value


def _variables(words: Iterable[str], flag: str) -> Variables:
    try:
        return dict(map(_variable, words))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{flag}: {error}") from error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccra_patch.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared: dict[str, Any] = {"nargs": "+", "action": "extend", "type": _variable, "metavar": "NAME=VALUE"}
    parser.add_argument("--study", required=True, choices=STUDIES, help="which comparison")
    parser.add_argument("--seeds", required=True, nargs="+", type=int, help="every arm is trained with each of them")
    parser.add_argument("--out", required=True, type=Path, help="folder of all runs, the summary and the plot")
    parser.add_argument("--train", default=[], help="variables of the training script", **shared)
    parser.add_argument(
        "--train-arm",
        nargs="+",
        action="append",
        default=[],
        metavar=("ARM", "NAME=VALUE"),
        help="further ones for one arm alone; may be given again",
    )
    parser.add_argument("--eval", default=[], help="variables of the evaluation script", **shared)
    parser.add_argument(
        "--evaluation",
        nargs="+",
        action="append",
        default=[],
        metavar=("EVALUATION", "NAME=VALUE"),
        help="one of several evaluations, with variables of its own; may be given again",
    )
    parser.add_argument(
        "--search",
        type=_variable,
        metavar="NAME=VALUE,VALUE",
        help="values of a training variable for every arm to try",
    )
    parser.add_argument("--search-eval", default=[], help="variables of the evaluation that decides", **shared)
    parser.add_argument("--arms", nargs="+", help="only these arms of the study")
    parser.add_argument("--baseline", help="arm to compare the others with (default: the study's)")
    parser.add_argument("--metric", default="accuracy", help="which score of the evaluation (default: accuracy)")
    parser.add_argument("--jobs", type=int, default=1, help="so many runs at once, each on its share of the cores")
    parser.add_argument("--train-script", default=TRAIN_SCRIPT, help=f"default: {TRAIN_SCRIPT}")
    parser.add_argument("--eval-script", default=EVAL_SCRIPT, help=f"default: {EVAL_SCRIPT}")
    parser.add_argument("--dry-run", action="store_true", help="list the commands that are left to run, and stop")
    return parser


def choose(study: Study, names: Sequence[str] | None) -> list[Arm]:
    """The named arms of a study, in its order; all by default. Raises ValueError for a name it does not have."""
    for name in names or ():
        require_arm("--arms", name, study)
    return [arm for name, arm in study.arms.items() if names is None or name in names]


def refuse_what_the_sweep_sets(given: Iterable[str], flag: str, reserved: Iterable[str]) -> None:
    """Raise ValueError for a variable that would not be the same in all arms, or would be overwritten."""
    taken = sorted(set(given) & set(reserved))
    if taken:
        raise ValueError(f"{flag} {taken[0]} is set by the sweep for each run; drop it")


def read_recipe(args: argparse.Namespace, study: Study) -> Recipe:
    """What the flags say about all runs. Raises ValueError for what cannot be."""
    train, evaluate = dict(args.train), dict(args.eval)
    searched = {args.search[0]} if args.search else set()
    own: dict[str, Variables] = {}
    for name, *words in args.train_arm:
        choose(study, [name])
        own[name] = own.get(name, {}) | _variables(words, f"--train-arm {name}")
        refuse_what_the_sweep_sets(own[name], f"--train-arm {name}", {"SEED", "OUTPUT"} | searched)
    refuse_what_the_sweep_sets(train, "--train", {"PROJECTOR", "SEED", "OUTPUT"} | study.varied | searched)
    refuse_what_the_sweep_sets(evaluate, "--eval", SET_BY_SWEEP)
    return Recipe(args.out, train, evaluate, args.train_script, args.eval_script, own)


def read_evaluations(args: argparse.Namespace) -> dict[str, Variables]:
    """By name, the variables of each. Raises ValueError for names that are taken."""
    evaluations: dict[str, Variables] = {}
    for name, *words in args.evaluation:
        if name in (TRAIN, SEARCH, "model", *evaluations) or not name.isidentifier():
            raise ValueError(f"--evaluation {name} cannot be a name here; choose another word")
        evaluations[name] = _variables(words, f"--evaluation {name}")
        refuse_what_the_sweep_sets(evaluations[name], f"--evaluation {name}", SET_BY_SWEEP)
    return evaluations or {EVALUATION: {}}


def read_search(args: argparse.Namespace, study: Study) -> Search | None:
    """What is to be searched, if anything. Raises ValueError for a search without a choice, or without a judge."""
    if args.search is None:
        if args.search_eval:
            raise ValueError("--search-eval is given without --search; say which values to try, or drop it")
        return None
    variable, listed = args.search
    values = tuple(dict.fromkeys(filter(None, listed.split(","))))
    refuse_what_the_sweep_sets([variable], "--search", {"PROJECTOR", "SEED", "OUTPUT"} | study.varied)
    if len(values) < 2:
        raise ValueError(
            f"--search {variable}={listed} leaves nothing to choose; give two values at least, with commas"
        )
    if not args.search_eval:
        raise ValueError("--search needs --search-eval: questions that are not those of the test")
    refuse_what_the_sweep_sets(dict(args.search_eval), "--search-eval", SET_BY_SWEEP)
    return Search(variable, values, dict(args.search_eval))


def sweep(args: argparse.Namespace) -> None:
    """Plan, run what is left, and report. Raises ValueError for a user's mistake or a script that fails."""
    study = STUDIES[args.study]
    recipe, evaluations, search = read_recipe(args, study), read_evaluations(args), read_search(args, study)
    arms, baseline = choose(study, args.arms), args.baseline or study.baseline
    require_arm("--baseline", baseline, study)
    if args.jobs < 1:
        raise ValueError(f"--jobs is {args.jobs}; it must be at least 1")

    found = None
    chosen: dict[str, Variables] = {arm.name: {} for arm in arms}
    if search:
        tried = {arm.name: search.candidates(recipe, arm, args.seeds[0]) for arm in arms}
        if not settle([run for candidates in tried.values() for run in candidates.values()], args):
            print("what else there is to run depends on what these find", file=sys.stderr)
            return
        found = search.findings(tried, args.metric)
        chosen = {arm: {search.variable: value} for arm, value in found["chosen"].items()}
    # seed by seed: an interrupted sweep has whole comparisons
    runs = [
        recipe.run(arm, seed, evaluations, **chosen[arm.name]) for seed in dict.fromkeys(args.seeds) for arm in arms
    ]
    if settle(runs, args) and not args.dry_run:
        report(args, study, baseline, runs, list(evaluations), found)


def require_arm(flag: str, name: str, study: Study) -> None:
    if name not in study.arms:
        raise ValueError(f"{flag} {name} is not in the study; there are {', '.join(study.arms)}")


def settle(runs: Sequence[Run], args: argparse.Namespace) -> bool:
    """Do what is left of the runs, or list it in a dry run; whether they are finished then."""
    for run in runs:
        run.recall()
    if not args.dry_run:
        finish_all(runs, args.jobs, say=lambda line: print(line, file=sys.stderr, flush=True))
        return True
    left = [command for run in runs for command in run.commands_left().values()]
    for command in left:
        print(command)
    return not left


def require_metric(scores: Mapping[str, Any], metric: str) -> None:
    if metric not in scores:
        raise ValueError(f"--metric {metric} is not among the scores; there are {', '.join(sorted(scores))}")


def report(
    args: argparse.Namespace,
    study: Study,
    baseline: str,
    runs: Sequence[Run],
    evaluations: Sequence[str],
    searched: Mapping[str, Any] | None,
) -> None:
    """Print the tables, write the summary and the plot. Raises ValueError for a metric that there is none of."""
    for run in runs:
        for evaluation in evaluations:
            require_metric(run.scores[evaluation], args.metric)
    summaries = {evaluation: summarise(runs, evaluation, baseline) for evaluation in evaluations}
    summary = {
        "study": args.study,
        "baseline": baseline,
        "metric": args.metric,
        "seeds": list(dict.fromkeys(args.seeds)),
        "search": searched,
        "arms": {arm: describe([run for run in runs if run.arm == arm]) for arm in dict.fromkeys(r.arm for r in runs)},
        "evaluations": {
            evaluation: {
                arm: {metric: asdict(found) for metric, found in metrics.items()} for arm, metrics in summary.items()
            }
            for evaluation, summary in summaries.items()
        },
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for evaluation, found in summaries.items():
        if len(summaries) > 1:
            print(f"{evaluation}:")
        print(table(found, args.metric, baseline))
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
