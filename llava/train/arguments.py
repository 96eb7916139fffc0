"""Every flag of training: upstream's three groups, flags that transformers 5 dropped, and those of the projectors."""

import os
import sys
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

import torch
import transformers
from transformers import HfArgumentParser
from transformers.trainer_utils import SaveStrategy

from ccra_patch.attanchor import AttAnchorSettings
from ccra_patch.baselines import BaselineSettings
from ccra_patch.settings import CCRASettings
from llava.errors import UserError
from llava.model.anchoring import attanchor_settings
from llava.model.multimodal_projector.registry import find_projector, registered_projectors
from llava.train.dataset import check_settings


@dataclass
class ModelArguments(CCRASettings, BaselineSettings, AttAnchorSettings):
    """Which language model, tower and projector; the settings of projectors and AttAnchor are inherited."""

    model_name_or_path: str = field(
        default="facebook/opt-125m", metadata={"help": "Language model or LLaVA checkpoint: folder or hub name."}
    )
    version: str = field(default="v0", metadata={"help": "Conversation template, a key of conv_templates."})
    freeze_backbone: bool = field(default=False, metadata={"help": "Freeze the language model's inner model."})
    tune_mm_mlp_adapter: bool = field(default=False, metadata={"help": "Stage 1: train nothing but the projector."})
    vision_tower: str | None = field(default=None, metadata={"help": "CLIP folder or hub name; none = text only."})
    mm_vision_select_layer: int = field(
        default=-1, metadata={"help": "Hidden state of the tower that the projector reads; negative from the end."}
    )
    pretrain_mm_mlp_adapter: str | None = field(
        default=None, metadata={"help": "mm_projector file to start the projector from."}
    )
    mm_projector_type: str = field(default="linear", metadata={"help": "A registered projector type."})
    mm_use_im_start_end: bool = field(default=False, metadata={"help": "Put <im_start>, <im_end> around pictures."})
    mm_use_im_patch_token: bool = field(default=True, metadata={"help": "Add <im_patch> to the vocabulary."})
    mm_patch_merge_type: str = field(default="flat", metadata={"help": "flat, spatial or spatial_unpad."})
    mm_vision_select_feature: str = field(
        default="patch", metadata={"help": "patch drops the class token, cls_patch keeps it."}
    )
    s2: bool = field(default=False, metadata={"help": "Look at pictures at several scales (a new LLaVA only)."})
    s2_scales: str = field(default="336,672,1008", metadata={"help": "Pixels per side of each scale, with --s2."})


@dataclass
class DataArguments:
    """Which samples and pictures."""

    data_path: str = field(default="", metadata={"help": "JSON list of samples."})
    lazy_preprocess: bool = field(default=False, metadata={"help": "Accepted for upstream's scripts; always lazy."})
    is_multimodal: bool = field(default=False, metadata={"help": "Set by --vision_tower."})
    image_folder: str | None = field(default=None, metadata={"help": "Root of the samples' image paths."})
    image_aspect_ratio: str = field(default="square", metadata={"help": "square (crop), pad, or anyres (tiles)."})
    image_grid_pinpoints: str | None = field(
        default=None, metadata={"help": "Tile resolutions for anyres, such as '[[336,672],[672,336]]'."}
    )
    bad_image_policy: str = field(
        default="fail", metadata={"help": "A picture that is missing or broken: fail, or skip (dropped and counted)."}
    )
    eval_data_path: list[str] | None = field(
        default=None,
        metadata={"help": "JSON list of validation samples, or several sources: 'vqa=vqa.json ocr=ocr.json'."},
    )
    max_masked_share: float = field(
        default=0.01,
        metadata={"help": "Do not start when more of the samples looked at than this have nothing to learn from."},
    )
    # No flags: what the data set must know of the model, once that stands.
    image_processor: Any = field(init=False, default=None)
    mm_use_im_start_end: bool = field(init=False, default=False)


@dataclass
class TrainingArguments(transformers.TrainingArguments):
    """transformers' arguments, upstream's additions, and old spellings that transformers 5 no longer knows."""

    cache_dir: str | None = field(default=None)
    optim: str = field(default="adamw_torch")
    remove_unused_columns: bool = field(default=False)
    freeze_mm_mlp_adapter: bool = field(default=False, metadata={"help": "Do not train the projector."})
    mpt_attn_impl: str | None = field(default="triton")
    model_max_length: int = field(default=512, metadata={"help": "Longest sequence; right padded, possibly cut."})
    double_quant: bool = field(default=True, metadata={"help": "Quantise the quantisation constants (4 bit)."})
    quant_type: str = field(default="nf4", metadata={"help": "nf4 or fp4."})
    bits: int = field(default=16, metadata={"help": "4 or 8: load the model with bitsandbytes."})
    lora_enable: bool = False
    lora_r: int = 64
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_weight_path: str = field(default="", metadata={"help": "Accepted for upstream's scripts; unused there too."})
    lora_bias: str = field(default="none", metadata={"help": "none, all or lora_only."})
    mm_projector_lr: float | None = field(default=None, metadata={"help": "Learning rate of the projector alone."})
    log_consistency: bool = field(
        default=False, metadata={"help": "Log how consistent CCRA's layers are (the paper's Table 2) with the loss."}
    )
    group_by_modality_length: bool = field(
        default=False, metadata={"help": "Batches of one modality and of similar length."}
    )

    dry_run: bool = field(
        default=False, metadata={"help": "Build everything, one step, one save; report what they cost; undo them."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after so many evaluations without a better loss; 0 = never."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are no numbers. Training stops at them anyway."}
    )

    # Spellings of transformers 4 beside the new ones, and flags it dropped.
    eval_strategy: str = field(
        default="no", metadata={"aliases": "--evaluation_strategy", "help": "When to evaluate: no, steps or epoch."}
    )
    warmup_steps: float = field(
        default=0, metadata={"aliases": "--warmup_ratio", "help": "Steps of warm-up; below 1, a share of all steps."}
    )
    group_by_length: bool = field(default=False, metadata={"help": "--train_sampling_strategy group_by_length."})
    no_cuda: bool = field(default=False, metadata={"help": "Old name of --use_cpu."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start over in an output folder that holds another run."}
    )
    save_safetensors: bool = field(default=True, metadata={"help": "Weights are always saved as safetensors."})
    logging_dir: str | None = field(default=None, metadata={"help": "TensorBoard folder."})

    def __post_init__(self) -> None:
        if self.group_by_length:
            self.train_sampling_strategy = "group_by_length"
        if self.logging_dir is not None:
            os.environ.setdefault("TENSORBOARD_LOGGING_DIR", self.logging_dir)
        given: Any = self
        if hasattr(given, "activation_checkpointing"):  # the name in newer transformers; the old one only warns
            given.activation_checkpointing = given.activation_checkpointing or given.gradient_checkpointing
            given.gradient_checkpointing = None
        if self.no_cuda or not (torch.cuda.is_available() or torch.backends.mps.is_available()):
            self.use_cpu = True
        if self.use_cpu:
            self.tf32 = None  # a matter of NVIDIA's tensor cores; upstream's scripts always ask for it
        if self.early_stopping_patience:
            self.load_best_model_at_end = True  # the point of stopping is the model from before
            self.restore_callback_states_from_checkpoint = True  # patience goes on where a killed run left it
        self._check_evaluation()
        super().__post_init__()
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.world_size:
            raise UserError(
                f"the launcher started {launched} processes, but training sees {self.world_size}: each would train a "
                "model of its own; add --use_cpu True on a machine without GPU, or start as many processes as GPUs"
            )

    def _check_evaluation(self) -> None:
        """Refuse evaluations that cannot do what is asked of them; transformers would lose the best model quietly."""
        if self.early_stopping_patience < 0:
            raise UserError(f"--early_stopping_patience is {self.early_stopping_patience}; it must be 0 (never) or up")
        if not self.load_best_model_at_end:
            return
        wish = "--early_stopping_patience" if self.early_stopping_patience else "--load_best_model_at_end"
        if self.eval_strategy == "no":
            raise UserError(
                f"{wish} needs evaluations; add --eval_data_path and --eval_strategy steps --eval_steps (or epoch)"
            )
        save, every = SaveStrategy(self.save_strategy).value, self.eval_steps or self.logging_steps
        in_step = save == self.eval_strategy and (save != "steps" or self.save_steps == every)
        if save != "best" and not in_step:
            raise UserError(
                f"{wish} needs a checkpoint of every evaluated model, but saving ({save}, --save_steps "
                f"{self.save_steps:g}) is not in step with evaluation ({self.eval_strategy}, --eval_steps {every:g}); "
                "make them agree, or take --save_strategy best"
            )


class _Parser(HfArgumentParser):
    """transformers' parser; a wrong value is one line instead of three screens of usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse_arguments(argv: list[str] | None = None) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Parse the command line; UserError for unknown flags and for flags that contradict each other."""
    parser = _Parser((ModelArguments, DataArguments, TrainingArguments))
    try:
        model_args, data_args, training_args, unknown = parser.parse_args_into_dataclasses(
            argv if argv is not None else sys.argv[1:], return_remaining_strings=True
        )
    except ValueError as error:
        raise UserError(str(error).splitlines()[0]) from error
    if unknown:
        raise UserError(f"unknown arguments {' '.join(unknown)}; see --help for those that exist")
    _check(model_args, data_args, training_args)
    return model_args, data_args, training_args


def _check(model_args: ModelArguments, data_args: DataArguments, training_args: TrainingArguments) -> None:
    """Refuse what cannot work before anything is loaded."""
    if not data_args.data_path:
        raise UserError("--data_path is missing; give the JSON list of training samples")
    if training_args.output_dir is None:
        raise UserError("--output_dir is missing; give the folder that the run may write to")
    if bool(data_args.eval_data_path) != (training_args.eval_strategy != "no"):
        raise UserError(
            f"--eval_data_path is {data_args.eval_data_path} and --eval_strategy {training_args.eval_strategy}; "
            "evaluation needs both: the data, and --eval_strategy steps --eval_steps (or epoch)"
        )
    check_settings(data_args, has_images=False)  # what of them is wrong whatever the data are
    if training_args.lora_bias not in ("none", "all", "lora_only"):
        raise UserError(f"--lora_bias is {training_args.lora_bias!r}; it must be none, all or lora_only")
    if training_args.bits not in (4, 8, 16):
        raise UserError(f"--bits is {training_args.bits}; it must be 4, 8 or 16 (16 = not quantised)")
    if training_args.lora_enable and model_args.tune_mm_mlp_adapter:
        raise UserError(
            "--lora_enable and --tune_mm_mlp_adapter contradict each other: stage 1 trains nothing but the projector"
        )
    if training_args.freeze_mm_mlp_adapter and model_args.tune_mm_mlp_adapter:
        raise UserError("--tune_mm_mlp_adapter and --freeze_mm_mlp_adapter leave nothing to train; drop one of them")
    anchors = attanchor_settings(model_args)
    if model_args.vision_tower is None:
        for name in ("tune_mm_mlp_adapter", "pretrain_mm_mlp_adapter"):
            if getattr(model_args, name):
                raise UserError(f"--{name} needs --vision_tower: without it the model is text only")
        if anchors.mm_attanchor_direction != "off":
            raise UserError("--mm_attanchor_direction needs --vision_tower: without it the model is text only")
        return
    _check_projector_settings(model_args)


def _check_projector_settings(model_args: ModelArguments) -> None:
    """The chosen projector's settings must be valid, and no other projector's setting may be given."""
    chosen = find_projector(model_args.mm_projector_type)
    for spec in registered_projectors():
        if spec.settings is None:
            continue
        given = {f.name: getattr(model_args, f.name) for f in fields(spec.settings)}
        if spec is chosen:
            try:
                spec.settings(**given).validate()
            except ValueError as error:
                raise UserError(str(error)) from error
            continue
        for name, default in vars(spec.settings()).items():
            if given[name] != default:
                raise UserError(
                    f"--{name} {given[name]} belongs to projector {spec.name}, but --mm_projector_type is "
                    f"{model_args.mm_projector_type}; drop one of them"
                )
