"""Validation while training: several sources, one loss that decides, and the moment to stop."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase

from llava.constants import IGNORE_INDEX
from llava.errors import UserError
from llava.train.dataset import LazySupervisedDataset

NAMED = re.compile(r"([\w.-]+)=(.+)")


def validation_sources(data_args: Any) -> dict[str, str]:
    """What ``--eval_data_path`` names: ``{name: path}``, the name empty for a single path without one.

    Raises UserError when several sources are not told apart, or one does not exist.
    """
    values: list[str] = data_args.eval_data_path or []
    matches = [NAMED.fullmatch(value) for value in values]
    sources = {match[1] if match else "": match[2] if match else values[i] for i, match in enumerate(matches)}
    if len(sources) < len(values) or (len(values) > 1 and not all(matches)):
        raise UserError(
            f"--eval_data_path {' '.join(values)}: several sources need a name each, such as vqa=vqa.json ocr=ocr.json"
        )
    for path in sources.values():
        if not Path(path).is_file():
            raise UserError(f"--eval_data_path {path} does not exist; give a JSON list of validation samples")
    return sources


def build_validation_data(data_args: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """What the trainer takes as ``eval_dataset``: one data set, one per named source, or None without a source."""
    datasets = {
        name: LazySupervisedDataset(path, tokenizer, data_args) for name, path in validation_sources(data_args).items()
    }
    return datasets.get("", datasets or None)


class EarlyStopping(EarlyStoppingCallback):
    """transformers' own, deaf to what is reported of single sources while the loss over all of them decides."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A run that has lost its patience, but was killed before its final save, trains no further."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


class MeanLoss:
    """The mean over all labels of all ranks; transformers' own is a mean over batches, whatever they hold."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.sums = torch.zeros(2, device=accelerator.device)  # of losses, of labels

    def add(self, loss: Tensor, labels: Tensor, averaged_across_ranks: bool) -> None:
        """A batch's loss as the trainer gives it: its sum over this rank's ``labels [B, S]`` / the labels per rank."""
        count = (labels[:, 1:] != IGNORE_INDEX).sum().float()
        per_rank = self.accelerator.reduce(count.clone(), "mean") if averaged_across_ranks else count
        self.sums += torch.stack([loss * per_rank, count])

    def value(self) -> float:
        """The mean so far; 0 without any label."""
        total, count = self.accelerator.reduce(self.sums.clone()).tolist()
        return total / max(count, 1)
