"""Runs of ``train()`` one after another in one launch, because starting processes is what takes the time.

``torchrun ... launched.py RUNS.json``, or the same with deepspeed. The file holds a list of runs:

argv: the command line of the trainer.
order: the samples' order (default: the trainer's own).
unlearns_after: from this step on the loss is turned round, so that the best model is not the last.
killed_after: in the middle of the step after this one, ``kill -9`` takes the processes.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState

import llava.train.train as module
from llava import conversation
from llava.train.llava_trainer import LLaVATrainer


class ScriptedTrainer(LLaVATrainer):
    """The trainer, with what a run says about it."""

    run: dict[str, Any]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.run.get("order") or super()._get_train_sampler(train_dataset)

    def compute_loss(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, *args, **kwargs)
        return -loss if model.training and self.state.global_step >= self.run.get("unlearns_after", 999) else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.state.global_step == self.run.get("killed_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def train_all(runs: list[dict[str, Any]]) -> None:
    """Train them all, each as if it were the first of the process."""
    for run in runs:
        AcceleratorState._reset_state()
        with (
            mock.patch.object(conversation, "default_conversation", conversation.default_conversation),
            mock.patch.object(ScriptedTrainer, "run", run, create=True),
        ):
            module.train(attn_implementation="sdpa", argv=run["argv"], trainer_class=ScriptedTrainer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_all(json.loads(Path(sys.argv[-1]).read_text()))
    module.end_rank()
