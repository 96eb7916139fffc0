"""Table 2 while a model trains: how consistent the layers are, in the run's own log (``--log_consistency True``)."""

from statistics import fmean
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ccra_patch.attention import LPWCA
from ccra_patch.metrics import COLUMNS, consistency
from ccra_patch.pai import AttentionMaps, PAIStack
from llava.errors import UserError


class ConsistencyLogging(TrainerCallback):
    """Measures the pictures of every logged step and logs their mean, as ``F_lp/JS-avg`` and the like.

    A process measures its own pictures, and the first one's are logged; the blank pictures of text samples count too.

    Raises UserError if the model has no attention stack with LPWCA.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.measured: list[dict[str, float]] = []
        self.measuring = False
        stacks = [part for part in trainer.model.modules() if isinstance(part, PAIStack)]
        if not any(isinstance(stack.lpwca, LPWCA) for stack in stacks):
            raise UserError("--log_consistency needs --mm_projector_type ccra with lpwca; drop it, or train that")
        for stack in stacks:
            stack.register_forward_hook(self._measure)

    def _measure(self, stack: PAIStack, given: tuple[Tensor, ...], result: tuple[Tensor, AttentionMaps]) -> None:
        if self.measuring:
            rows = consistency(stack, given[0], given[1], result[1])
            self.measured.append(
                {
                    f"{row}/{name}": getattr(numbers, column).nanmean().item()
                    for row, numbers in rows.items()
                    for column, name in COLUMNS.items()
                }
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        first = state.global_step == 0 and args.logging_first_step
        by_steps = args.logging_strategy == IntervalStrategy.STEPS
        self.measuring = first or (by_steps and (state.global_step + 1) % state.logging_steps == 0)
        self.measured = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.measuring = False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # A line of its own behind the step's: loggers before this one have written that line already.
        batches, self.measured = self.measured, []
        if batches:
            self.trainer.log({name: fmean(batch[name] for batch in batches) for name in batches[0]})
