"""transformers' Trainer with LLaVA's sampler, learning-rate groups and checkpoints."""

from typing import Any, cast

import torch
from torch.utils.data import Dataset, Sampler
from transformers import Trainer

from llava.train.checkpoint import (
    get_mm_adapter_state_maybe_zero_3,
    is_stage_one,
    load_trained_parts,
    maybe_zero_3,
    save_trained_parts,
)
from llava.train.sampler import (
    LengthGroupedSampler,
    get_length_grouped_indices,
    get_modality_length_grouped_indices,
    split_to_even_chunks,
)

__all__ = [
    "LLaVATrainer",
    "LengthGroupedSampler",
    "get_length_grouped_indices",
    "get_mm_adapter_state_maybe_zero_3",
    "get_modality_length_grouped_indices",
    "maybe_zero_3",
    "split_to_even_chunks",
]

PROJECTOR = "mm_projector"


class LLaVATrainer(Trainer):
    """Adds ``group_by_modality_length``, ``mm_projector_lr`` and checkpoints that hold every trained weight."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not self.args.group_by_modality_length or dataset is None:
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(
            self.args.train_batch_size,
            world_size=self.args.world_size * self.args.gradient_accumulation_steps,
            lengths=cast(Any, dataset).modality_lengths,
            group_by_modality=True,
        )

    def parameter_groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        """Trainable parameters with and without decay; the projector's apart when it has a rate of its own."""
        decayed = set(self.get_decay_parameter_names(model))
        projector_lr = self.args.mm_projector_lr
        kinds = [(False, True), (False, False), (True, True), (True, False)]
        groups: dict[tuple[bool, bool], dict[str, Any]] = {}
        for of_projector, decays in kinds if projector_lr is not None else kinds[:2]:
            group: dict[str, Any] = {"params": [], "weight_decay": self.args.weight_decay if decays else 0.0}
            groups[of_projector, decays] = group | ({"lr": projector_lr} if of_projector else {})
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                of_projector = projector_lr is not None and PROJECTOR in name
                groups[of_projector, name in decayed]["params"].append(parameter)
        return list(groups.values())

    def get_optimizer_cls_and_kwargs(
        self, args: Any, model: torch.nn.Module | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """transformers' choice; with ``mm_projector_lr`` our groups take the place of its own."""
        optimizer_class, arguments = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if args.mm_projector_lr is not None and model is not None:
            arguments["params"] = self.parameter_groups(model)
        return optimizer_class, arguments

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """transformers' own; a batch with nothing to learn from (all masked) has loss 0 instead of 0 / 0."""
        if kwargs.get("num_items_in_batch") is not None:
            kwargs["num_items_in_batch"] = torch.as_tensor(kwargs["num_items_in_batch"]).clamp(min=1)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights of this run into ``output_dir``; in stage 1 that is the projector, without the frozen rest."""
        folder = output_dir or self.args.output_dir
        if not is_stage_one(self.args):
            super().save_model(folder, _internal_call)
        save_trained_parts(self, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not is_stage_one(self.args):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_trained_parts(self, resume_from_checkpoint)
