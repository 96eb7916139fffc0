"""Train a LLaVA: ``python llava/train/train.py --model_name_or_path ... --data_path ... --output_dir ...``.

One flow for stage 1 (projector only), stage 2 (all but the tower), LoRA and QLoRA; ``train()`` reads as its steps.
"""

import atexit
import logging
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging as hf_logging

from llava.errors import UserError, exit_on_user_error
from llava.model.utils import fit_generation_config
from llava.train import dry_run, preflight, run_record
from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments, parse_arguments
from llava.train.checkpoint import (
    count_parameters,
    get_mm_adapter_state_maybe_zero_3,
    get_peft_state_maybe_zero_3,
    get_peft_state_non_lora_maybe_zero_3,
    maybe_zero_3,
    safe_save_model_for_hf_trainer,
)
from llava.train.consistency_logging import ConsistencyLogging
from llava.train.dataset import (
    DataCollatorForSupervisedDataset,
    LazySupervisedDataset,
    make_supervised_data_module,
)
from llava.train.llava_trainer import LLaVATrainer
from llava.train.model_setup import (
    build_tokenizer,
    find_all_linear_names,
    give_it_eyes,
    load_language_model,
    settle_kbit_dtypes,
    smart_tokenizer_and_embedding_resize,
    wrap_with_lora,
)
from llava.train.preprocess import (
    preprocess,
    preprocess_llama_2,
    preprocess_mpt,
    preprocess_multimodal,
    preprocess_plain,
    preprocess_v1,
)
from llava.train.reporting import SkippedSamples, settle_reporting
from llava.train.validation import EarlyStopping, build_validation_data

__all__ = [
    "DataArguments",
    "DataCollatorForSupervisedDataset",
    "LazySupervisedDataset",
    "ModelArguments",
    "TrainingArguments",
    "find_all_linear_names",
    "get_mm_adapter_state_maybe_zero_3",
    "get_peft_state_maybe_zero_3",
    "get_peft_state_non_lora_maybe_zero_3",
    "make_supervised_data_module",
    "maybe_zero_3",
    "preprocess",
    "preprocess_llama_2",
    "preprocess_mpt",
    "preprocess_multimodal",
    "preprocess_plain",
    "preprocess_v1",
    "rank0_print",
    "safe_save_model_for_hf_trainer",
    "smart_tokenizer_and_embedding_resize",
    "train",
]

logger = logging.getLogger("llava.train")

local_rank: int | None = None


def rank0_print(*args: Any) -> None:
    """Print on the first process only."""
    if local_rank in (None, -1, 0):
        print(*args)


def latest_checkpoint(output_dir: str) -> str | None:
    """The newest complete ``checkpoint-*``; ``trainer_state.json`` is written last, so one without it is incomplete."""
    folders = [p for p in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.name.rsplit("-", 1)[-1].isdigit()]
    for folder in sorted(folders, key=lambda p: int(p.name.rsplit("-", 1)[-1]), reverse=True):
        if (folder / "trainer_state.json").is_file():
            return str(folder)
        logger.warning("%s has no trainer_state.json (half written, or an adapter only); not resuming from it", folder)
    return None


def parameter_counts(model: Any) -> dict[str, tuple[int, int]]:
    """Parameters, and how many of them train, by part of the model."""
    inner = model.get_model() if hasattr(model, "get_model") else model
    eyes = {
        name: module
        for name, module in (
            ("vision tower", inner.get_vision_tower() if hasattr(inner, "get_vision_tower") else None),
            ("projector", getattr(inner, "mm_projector", None)),
        )
        if module is not None
    }
    total, trained = count_parameters(model)
    counts = {name: count_parameters(module) for name, module in eyes.items()}
    seen, seen_trained = (sum(part) for part in zip(*counts.values(), strict=True)) if counts else (0, 0)
    return {**counts, "language model": (total - seen, trained - seen_trained)}


def parameter_table(counts: dict[str, tuple[int, int]], args: TrainingArguments) -> str:
    """What trains, with how many parameters and which learning rate."""
    lines = [f"{'component':<16}{'parameters':>16}{'trained':>16}  {'state':<8}learning rate"]
    for name, (size, trains) in counts.items():
        state = "frozen" if not trains else "full" if trains == size else "LoRA" if args.lora_enable else "partly"
        rate = args.mm_projector_lr if name == "projector" and args.mm_projector_lr is not None else args.learning_rate
        lines.append(f"{name:<16}{size:>16,}{trains:>16,}  {state:<8}{rate if trains else '-'}")
    return "\n".join(lines)


def callbacks(data_args: DataArguments, args: TrainingArguments, collator: Any) -> list[TrainerCallback]:
    """What the flags ask for beside transformers' own callbacks."""
    wanted: list[TrainerCallback] = []
    if data_args.bad_image_policy == "skip":
        wanted.append(SkippedSamples(collator))
    if args.early_stopping_patience:
        wanted.append(EarlyStopping(args.early_stopping_patience))
    return wanted


def train(
    attn_implementation: str | None = None,
    argv: list[str] | None = None,
    trainer_class: type[LLaVATrainer] = LLaVATrainer,
) -> None:
    """Run the training that the command line (or ``argv``) describes. Raises UserError for a user's mistake."""
    global local_rank

    # 1. What is to be done, and whether the output folder is free for it.
    model_args, data_args, training_args = parse_arguments(argv)
    local_rank = training_args.local_process_index
    main_process = training_args.process_index == 0
    if not Path(data_args.data_path).is_file():
        raise UserError(f"--data_path {data_args.data_path} does not exist; give the JSON list of training samples")
    existed = Path(training_args.output_dir).exists()
    settle_reporting(training_args)
    record = run_record.describe_run(model_args, data_args, training_args)
    run_record.refuse_foreign_output(training_args.output_dir, record, training_args.overwrite_output_dir)
    if is_over(training_args):
        return
    preflight.check_writable(training_args.output_dir)
    if training_args.dry_run:
        dry_run.settle(training_args)

    # 2. Seeds, before anything random is built: projector, LoRA and data order follow them.
    set_seed(training_args.seed)
    if training_args.deepspeed is not None and training_args.use_cpu:
        # accelerate starts gloo itself on a CPU; ZeRO-3 must learn of it before the model loads into partitions.
        import deepspeed

        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend())

    # 3. The language model, its tokenizer and template.
    model = load_language_model(model_args, training_args, attn_implementation)
    model.config.use_cache = False
    fit_generation_config(model)
    if model_args.freeze_backbone:
        model.base_model.requires_grad_(False)
    if training_args.bits in (4, 8):
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=bool(training_args.gradient_checkpointing)
        )
    if training_args.gradient_checkpointing:
        model.enable_input_require_grads()
    tokenizer = build_tokenizer(model_args, training_args, model)

    # 4. LoRA before the tower and projector exist, so that it cannot touch them. Seeded again: how many random numbers
    #    loading took depends on the launcher.
    set_seed(training_args.seed)
    if training_args.lora_enable:
        model = wrap_with_lora(model, training_args)

    # 5. Tower, projector, image tokens.
    if model_args.vision_tower is not None:
        give_it_eyes(model, tokenizer, model_args, data_args, training_args)
    if training_args.bits in (4, 8):
        settle_kbit_dtypes(model, training_args)

    # 6. Data, trainer, and a look at what will train and what would spoil it.
    data_module = make_supervised_data_module(tokenizer=tokenizer, data_args=data_args)
    data_module["eval_dataset"] = build_validation_data(data_args, tokenizer)
    trainer = trainer_class(
        model=model,
        processing_class=tokenizer,
        args=training_args,
        callbacks=callbacks(data_args, training_args, data_module["data_collator"]),
        **data_module,
    )
    if training_args.log_consistency:
        trainer.add_callback(ConsistencyLogging(trainer))
    preflight.check(trainer, data_args.max_masked_share)
    if main_process:
        counts = parameter_counts(model)
        rank0_print(parameter_table(counts, training_args))
        if training_args.overwrite_output_dir:
            run_record.forget(training_args.output_dir)
        run_record.write_record(
            training_args.output_dir, record | {"model_config": model.config.to_dict(), "parameters": counts}
        )

    if training_args.dry_run:
        seconds = trainer.train().metrics["train_runtime"]
        safe_save_model_for_hf_trainer(trainer, training_args.output_dir)
        if main_process:
            rank0_print(dry_run.report(trainer, seconds))
            dry_run.undo(training_args.output_dir, existed)
        return

    # 7. Train, from the newest complete checkpoint if there is one.
    resume = training_args.resume_from_checkpoint or latest_checkpoint(training_args.output_dir)
    if resume is not None:
        rank0_print(f"resuming from {resume}")
    try:
        trainer.train(resume_from_checkpoint=resume)
    except UserError:
        keep_progress(trainer)
        raise

    # 8. Save.
    model.config.use_cache = True
    safe_save_model_for_hf_trainer(trainer, training_args.output_dir)
    trainer.save_state()  # last, for it says that the run is over
    trainer.accelerator.wait_for_everyone()  # a rank that leaves early may take the one that still writes with it


def is_over(args: TrainingArguments) -> bool:
    """Whether the output folder holds this run at its end; says so. All ranks call, and hear what the first sees."""
    if args.dry_run or args.overwrite_output_dir or args.resume_from_checkpoint:
        return False
    (end,) = broadcast_object_list([run_record.finished(args.output_dir)])
    if end is not None:
        rank0_print(f"{args.output_dir} holds this run, {end}; --overwrite_output_dir True starts it over")
    return end is not None


def keep_progress(trainer: LLaVATrainer) -> None:
    """After a bad sample: a checkpoint of the steps done so far, so that the run goes on once the data are mended.

    Only with one process; others would wait for a rank that has already failed. Not with DeepSpeed, which has updated
    the weights before a gradient can be seen to be no number.
    """
    step = trainer.state.global_step
    folder = Path(trainer.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
    alone = trainer.args.world_size == 1 and not trainer.is_deepspeed_enabled
    if step > 0 and alone and not folder.exists():
        trainer._save_checkpoint(trainer.model, trial=None)
        print(f"{step} steps are kept in {folder}; the same command goes on from there", file=sys.stderr)


def end_rank() -> NoReturn:
    """End one of several processes, everything done and written, with exit code 0.

    Not by returning: threads of gloo, or of DeepSpeed's operations, that are still there when C++ cleans up abort the
    process, and the launcher reports a finished run as failed. Python's own exit handlers are run.
    """
    torch.distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@exit_on_user_error
def main(attn_implementation: str | None = None, trainer_class: type[LLaVATrainer] = LLaVATrainer) -> None:
    """The command line's entry, for scripts with another attention or a trainer of their own, too."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    hf_logging.set_verbosity_warning()
    train(attn_implementation, trainer_class=trainer_class)
    if torch.distributed.is_initialized():
        end_rank()


if __name__ == "__main__":
    main()
