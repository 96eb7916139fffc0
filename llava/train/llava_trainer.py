"""transformers' Trainer with LLaVA's sampler, learning-rate groups and checkpoints."""

import math
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import ProgressCallback, Trainer

from llava.errors import UserError
from llava.fast_tokenizer import save_tokenizer
from llava.train.checkpoint import (
    get_mm_adapter_state_maybe_zero_3,
    is_stage_one,
    load_engine,
    load_trained_parts,
    maybe_zero_3,
    save_trained_parts,
)
from llava.train.dataset import DataCollatorForSupervisedDataset
from llava.train.reporting import ProgressWithSpeed, TokenMeter
from llava.train.sampler import (
    LengthGroupedSampler,
    get_length_grouped_indices,
    get_modality_length_grouped_indices,
    split_to_even_chunks,
)
from llava.train.validation import MeanLoss

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
    """transformers' Trainer with LLaVA's sampler, learning rates and checkpoints, and an eye on every number.

    Adds ``group_by_modality_length``, ``mm_projector_lr``, checkpoints that hold every trained weight and no frozen one
    twice, a stop at losses and gradients that are no numbers, and tokens per second in the logs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(self.data_collator, DataCollatorForSupervisedDataset):
            self.data_collator.with_indices = True
        if self.pop_callback(ProgressCallback):
            self.add_callback(ProgressWithSpeed())
        tower = self.model.get_vision_tower() if hasattr(self.model, "get_vision_tower") else None
        self.image_tokens: int = 0 if tower is None else tower.num_patches  # of one picture, or one tile
        self._meter = TokenMeter(self.accelerator, self.image_tokens)
        self._indices: list[int] = []  # samples of the update under way
        self._evaluated_data: Any = None
        self._mean_loss = MeanLoss(self.accelerator)

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

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """transformers' own, which makes a step before it looks whether a resumed run has any left."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """transformers' own; counts tokens, and remembers the samples until their gradients are known."""
        self._indices += inputs.get("indices", [])
        self._meter.add(inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """transformers' own; a batch with nothing to learn from (all masked) has loss 0 instead of 0 / 0.

        Raises UserError, with the batch's samples, for a loss that is no finite number.
        """
        indices = inputs.pop("indices", [])
        if kwargs.get("num_items_in_batch") is not None:
            kwargs["num_items_in_batch"] = torch.as_tensor(kwargs["num_items_in_batch"]).clamp(min=1)
        result = super().compute_loss(model, inputs | {"loss_only": True}, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss).all():
            dataset = self.train_dataset if model.training else self._evaluated_data
            raise self._not_finite("loss", loss.mean().item(), dataset, indices)
        return result

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # Under fp16 infinite gradients are the loss scaler's business: it skips the step.
        if norm is not None and not self.args.fp16 and not math.isfinite(norm):
            raise self._not_finite("gradient", float(norm), self.train_dataset, self._indices)
        self._indices.clear()
        return norm

    def _not_finite(self, what: str, value: float, dataset: Any, indices: list[int]) -> UserError:
        samples = ", ".join(f"{index} (id {dataset.list_data_dict[index].get('id')!r})" for index in indices)
        return UserError(
            f"the {what} is {value} at step {self.state.global_step + 1}, in the batch of samples "
            f"{samples or 'unknown'}; look at these, or lower --learning_rate"
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """transformers' own; a training loss comes with the tokens per second of all ranks since the last one."""
        if "loss" in logs:
            logs["tokens_per_second"] = self._meter.rate()
        super().log(logs, *args, **kwargs)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """transformers' own; with several sources also their mean loss, which then decides which model is the best."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        sources = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(sources, dict):
            mean = {f"{metric_key_prefix}_loss": fmean(metrics[f"{metric_key_prefix}_{name}_loss"] for name in sources)}
            metrics |= mean
            self.log(mean)
            self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        """transformers' own; the loss is the mean over all labels, whatever the batches and the number of ranks."""
        self._evaluated_data, self._mean_loss = dataloader.dataset, MeanLoss(self.accelerator)
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics[f"{metric_key_prefix}_loss"] = self._mean_loss.value()
        return output

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """transformers' own; adds to the mean loss."""
        loss, *others = super().prediction_step(model, inputs, *args, **kwargs)
        self._mean_loss.add(loss, inputs["labels"], self.args.average_tokens_across_devices)
        return loss, *others

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Weights of this run into ``output_dir``; in stage 1 that is the projector, without the frozen rest."""
        folder = output_dir or self.args.output_dir
        if not is_stage_one(self.args):
            super().save_model(folder, _internal_call)
        save_trained_parts(self, folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """transformers' own; the tokenizer as older readers take it, too."""
        super()._save(output_dir, state_dict)
        if self.processing_class is not None:
            save_tokenizer(self.processing_class, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not is_stage_one(self.args):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_trained_parts(self, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if self.is_deepspeed_enabled:
            load_engine(self.model_wrapped, best)
            return
        if not is_stage_one(self.args):
            super()._load_best_model()
        load_trained_parts(self, best)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """transformers' own, but DeepSpeed's checkpoints leave out frozen weights: they are read from the base."""
        self._meter.restart()
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        engine = self.model_wrapped
        engine.save_checkpoint = partial(engine.save_checkpoint, exclude_frozen_parameters=True)
        if resume_from_checkpoint is not None:
            load_engine(engine, resume_from_checkpoint)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared
