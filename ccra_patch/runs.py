"""The runs of a sweep: one arm with one seed each, made of real scripts, recorded so that nothing is done twice."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ccra_patch.studies import Arm

ROOT = Path(__file__).resolve().parents[1]
TRAIN = "train"  # what a run's first command is called beside its evaluations


@dataclass(frozen=True)
class Command:
    """A script with the variables it is called with."""

    script: str
    variables: dict[str, str]

    def __str__(self) -> str:
        words = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*words, "bash", shlex.quote(self.script)])

    def run(self, log: Path | None = None, threads: int | None = None) -> None:
        """Run it in the repository, its output being ours, or ``log``'s; on so many threads.

        Raises ValueError if it fails.
        """
        environment = os.environ | self.variables
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        call = ["bash", self.script]
        if log is None:
            print(f"\n== {self}", file=sys.stderr, flush=True)
            done = subprocess.run(call, cwd=ROOT, env=environment, check=False)
        else:
            with log.open("w", encoding="utf-8") as output:
                print(f"== {self}", file=output, flush=True)
                done = subprocess.run(
                    call, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
                )
        if done.returncode:
            raise ValueError(
                f"{self.script} failed with exit code {done.returncode}, its message is "
                f"{'above' if log is None else f'in {log}'}; mend that, and the same command goes on from there"
            )


@dataclass
class Run:
    """One arm with one seed: what it is made of, and how far it has come.

    Attributes:
        folder: of everything that belongs to it.
        train: the command that makes the model.
        evaluations: by name, the commands that score it.
        trained: whether the model is there.
        seconds: how long each finished command took, by name.
        scores: by evaluation, by metric.
    """

    arm: str
    seed: int
    folder: Path
    train: Command
    evaluations: dict[str, Command]
    trained: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def results(self, evaluation: str) -> Path:
        """The file of scores that an evaluation writes."""
        return self.folder / evaluation / "results.json"

    def recall(self) -> None:
        """Take up what an earlier call has recorded, other finished evaluations too.

        Raises ValueError if that was another run.
        """
        if not self.record.exists():
            return
        try:
            before = json.loads(self.record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{self.record} is not JSON ({error}); delete {self.folder} to start that run anew"
            ) from error
        recorded = {TRAIN: before["train"]} | before["evaluations"]
        for name, command in ({TRAIN: self.train} | self.evaluations).items():
            if name in recorded and recorded[name] != asdict(command):
                raise ValueError(
                    f"{self.folder} holds another run: {_first_difference(recorded[name], asdict(command))}; "
                    "choose another --out"
                )
        self.trained, self.seconds, self.scores = before["trained"], before["seconds"], before["scores"]
        self.evaluations = {name: Command(**before["evaluations"][name]) for name in self.scores} | self.evaluations

    def write(self) -> None:
        """Record the state in one step: a killed sweep leaves the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.record.with_suffix(".partial")
        state = asdict(self) | {"folder": str(self.folder)}
        partial.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.record)

    def commands_left(self) -> dict[str, Command]:
        """By name, in their order."""
        left = {} if self.trained else {TRAIN: self.train}
        return left | {name: command for name, command in self.evaluations.items() if name not in self.scores}

    def finish(self, to_logs: bool = False, threads: int | None = None) -> None:
        """Do what is left of it; with ``to_logs``, the commands' output goes to files in its folder."""
        for name, command in self.commands_left().items():
            self.write()
            start = time.monotonic()
            command.run(self.folder / f"{name}.log" if to_logs else None, threads)
            self.seconds[name] = round(time.monotonic() - start, 1)
            if name == TRAIN:
                self.trained = True
            else:
                self.scores[name] = read_results(self.results(name))["scores"]
            self.write()


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if old["script"] != new["script"]:
        return f"{old['script']} there, {new['script']} here"
    there, here = old["variables"], new["variables"]
    name = next(name for name in sorted(there.keys() | here.keys()) if there.get(name) != here.get(name))
    return f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"


def read_results(path: Path) -> dict[str, Any]:
    """What an evaluation wrote. Raises ValueError unless that has scores."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no scores ({error!r}); the evaluation script must write RESULTS") from error
    if not isinstance(results, dict) or "scores" not in results:
        raise ValueError(f"{path} holds no 'scores'; the evaluation script must write them to RESULTS")
    return results


@dataclass(frozen=True)
class Recipe:
    """What all runs of a sweep share.

    Attributes:
        out: folder of all runs.
        train, evaluate: variables of the two scripts.
        train_script, eval_script: paths from the repository's root.
        own: by arm, further variables of its training.
    """

    out: Path
    train: Mapping[str, str]
    evaluate: Mapping[str, str]
    train_script: str
    eval_script: str
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def run(self, arm: Arm, seed: int, evaluations: Mapping[str, Mapping[str, str]], **searched: str) -> Run:
        """One run: ``evaluations`` by name with their further variables; the value of a variable that is searched.

        ``{seed}`` in a training variable stands for the seed.
        """
        name = "-".join([arm.name, *(f"{variable}={value}" for variable, value in searched.items()), f"seed{seed}"])
        folder = self.out.resolve() / name
        given = {"PROJECTOR": "ccra"} | dict(self.train) | arm.changes | dict(self.own.get(arm.name, {})) | searched
        training = {variable: value.replace("{seed}", str(seed)) for variable, value in given.items()}
        run = Run(arm.name, seed, folder, Command(self.train_script, training), {})
        run.train.variables.update(SEED=str(seed), OUTPUT=str(run.model))
        for evaluation, variables in evaluations.items():
            results = run.results(evaluation)
            scoring = dict(self.evaluate) | dict(variables)
            scoring |= {"CKPT": str(run.model), "NAME": name, "ANSWERS": str(results.parent), "RESULTS": str(results)}
            run.evaluations[evaluation] = Command(self.eval_script, scoring | {"RESUME": "1"})
        return run


def finish_all(runs: Sequence[Run], jobs: int, say: Callable[[str], None]) -> None:
    """Do what is left of all runs, ``jobs`` at once, each on its share of the cores.

    With one job, its output is ours. With several it goes to files in each run's folder, and every run says one line.

    Raises:
        ValueError: when a command fails, after those that were at work have ended; no further run is started.
    """
    left = [run for run in runs if run.commands_left()]
    if jobs == 1:
        for run in left:
            run.finish()
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    done = 0

    def finish(run: Run) -> None:
        nonlocal done
        start = time.monotonic()
        run.finish(to_logs=True, threads=threads)
        done += 1
        say(f"{done}/{len(left)} {run.folder.name}: {time.monotonic() - start:.0f} s")

    pool = ThreadPoolExecutor(jobs)
    try:
        futures = [pool.submit(finish, run) for run in left]
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        pool.shutdown(cancel_futures=True)
    for future in futures:
        if not future.cancelled():
            future.result()
