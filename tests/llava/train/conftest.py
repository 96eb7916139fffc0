"""Whole runs of ``train()`` in this process, on upstream's tiny models and the arguments of its recorded runs."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llava import conversation
from llava.train.llava_trainer import LLaVATrainer
from llava.train.train import train

sys.path.insert(0, str(Path(__file__).parent))  # for `launched`


@pytest.fixture(autouse=True)
def default_template(monkeypatch):
    """``--version`` changes a module's variable; put it back after each run."""
    monkeypatch.setattr(conversation, "default_conversation", conversation.default_conversation)


@pytest.fixture
def recorded_weights(goldens) -> Callable[[str], dict[str, torch.Tensor]]:
    """The weights that a recorded run began with."""

    def recorded_weights(recorded: str) -> dict[str, torch.Tensor]:
        arrays = np.load(goldens / "train" / f"{recorded}_init.npz")
        return {name: torch.from_numpy(arrays[name]) for name in arrays}

    return recorded_weights


@pytest.fixture
def flags_of(goldens, assets, tmp_path, recorded_weights) -> Callable[..., list[str]]:
    """The command line of a recorded run; keyword arguments replace or add flags, a list gives one several values."""

    def flags_of(recorded: str, **changes) -> list[str]:
        argv = json.loads((goldens / "train" / f"{recorded}.json").read_text())["argv"]
        flags = dict(zip(argv[::2], argv[1::2], strict=True))
        if "--pretrain_mm_mlp_adapter" in flags:
            weights = {n.removeprefix("base_model.model."): w for n, w in recorded_weights(recorded).items()}
            flags["--pretrain_mm_mlp_adapter"] = str(tmp_path / "init_projector.bin")
            torch.save({n: w for n, w in weights.items() if "mm_projector" in n}, tmp_path / "init_projector.bin")
        flags["--output_dir"] = str(tmp_path / "out")
        flags |= {f"--{name}": value for name, value in changes.items()}
        argv = []
        for flag, value in flags.items():
            argv += [flag, *map(str, value if isinstance(value, list) else [value])]
        return [a.replace("@GOLDENS@/assets", str(assets)).replace("@GOLDENS@", str(goldens)) for a in argv]

    return flags_of


@pytest.fixture
def run(flags_of) -> Callable[..., Path]:
    """Call ``train()`` with the arguments that a recorded run had; returns the output folder."""

    def run(recorded: str, **changes) -> Path:
        argv = flags_of(recorded, **changes)
        train(attn_implementation="sdpa", argv=argv)
        return Path(argv[argv.index("--output_dir") + 1])

    return run


@pytest.fixture
def recording(monkeypatch):
    """Record every training step's loss, and the trainer itself."""
    seen = {"losses": [], "trainers": []}
    step = LLaVATrainer.training_step
    built = LLaVATrainer.__init__

    def training_step(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        seen["losses"].append(loss.item())
        return loss

    def init(self, *args, **kwargs):
        built(self, *args, **kwargs)
        seen["trainers"].append(self)

    monkeypatch.setattr(LLaVATrainer, "training_step", training_step)
    monkeypatch.setattr(LLaVATrainer, "__init__", init)
    return seen


@pytest.fixture
def die_at(run) -> Callable[..., None]:
    """As ``run``, in a process of its own, which ``kill -9`` takes in the middle of the step after ``step``."""

    def die_at(step: int, recorded: str, **changes) -> None:
        child = os.fork()
        if child == 0:
            training_step = LLaVATrainer.training_step

            def deadly(self, *args, **kwargs):
                loss = training_step(self, *args, **kwargs)
                if self.state.global_step == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return loss

            LLaVATrainer.training_step = deadly
            try:
                run(recorded, **changes)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL

    return die_at
