"""What a run writes beside transformers' own files, and how it is read back.

The projector is written at every save, in every mode: upstream's ``mm_projector.bin`` and the same tensors as
``mm_projector.safetensors`` with metadata. Under LoRA ``non_lora_trainables.bin`` holds what trains beside the adapter.
Names of functions that third parties import are upstream's.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from llava.errors import UserError
from llava.model.adapter import read_weights

logger = logging.getLogger(__name__)

PROJECTOR_BIN = "mm_projector.bin"
PROJECTOR_SAFETENSORS = "mm_projector.safetensors"
NON_LORA_FILE = "non_lora_trainables.bin"
NamedParameters = Iterable[tuple[str, Tensor]]


def maybe_zero_3(param: Tensor, ignore_status: bool = False, name: str | None = None) -> Tensor:
    """A CPU copy of a parameter; one that ZeRO-3 has partitioned is gathered first (all ranks must call)."""
    if hasattr(param, "ds_id") and hasattr(param, "ds_status"):
        from deepspeed import zero
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        if param.ds_status == ZeroParamStatus.NOT_AVAILABLE and not ignore_status:
            logger.warning("%s is partitioned and not gathered", name)
        with zero.GatheredParameters([param]):
            return param.data.detach().cpu().clone()
    return param.detach().cpu().clone()


def _gathered(named: Mapping[str, Tensor], quiet: bool = True) -> dict[str, Tensor]:
    return {name: maybe_zero_3(parameter, ignore_status=quiet, name=name) for name, parameter in named.items()}


def get_peft_state_maybe_zero_3(named_params: NamedParameters, bias: str) -> dict[str, Tensor]:
    """LoRA weights, and biases as ``bias`` says: none, all, or ``lora_only`` (those of layers that carry LoRA)."""
    named = dict(named_params)
    lora = {name: parameter for name, parameter in named.items() if "lora_" in name}
    if bias == "none":
        return _gathered(lora)
    biases = {name: parameter for name, parameter in named.items() if "bias" in name and name not in lora}
    if bias == "all":
        return _gathered(lora | biases)
    if bias == "lora_only":
        layers = {name.split("lora_")[0] for name in lora}
        return _gathered(lora | {name: value for name, value in biases.items() if name.split("bias")[0] in layers})
    raise NotImplementedError(f"lora_bias {bias!r}: must be none, all or lora_only")


def get_peft_state_non_lora_maybe_zero_3(
    named_params: NamedParameters, require_grad_only: bool = True
) -> dict[str, Tensor]:
    """Parameters that are no LoRA weights; by default those that train."""
    return _gathered(
        {
            name: parameter
            for name, parameter in named_params
            if "lora_" not in name and (parameter.requires_grad or not require_grad_only)
        }
    )


def get_mm_adapter_state_maybe_zero_3(named_params: NamedParameters, keys_to_match: Iterable[str]) -> dict[str, Tensor]:
    """Parameters whose name holds one of ``keys_to_match``."""
    keys = tuple(keys_to_match)
    return _gathered({name: value for name, value in named_params if any(key in name for key in keys)})


def is_stage_one(args: Any) -> bool:
    """Whether the run trains (and so saves) only the projector."""
    return bool(getattr(args, "tune_mm_mlp_adapter", False))


def projector_keys(args: Any) -> tuple[str, ...]:
    """Parts of names that belong into an adapter file; with start/end tokens the input embeddings do too."""
    with_tokens = is_stage_one(args) and getattr(args, "use_im_start_end", False)
    return ("mm_projector", "image_newline", *(("embed_tokens", "embed_in", "wte") if with_tokens else ()))


def save_projector(state: Mapping[str, Tensor], folder: Path, config: Any, step: int) -> None:
    """Both forms of the adapter file; the metadata say what it fits (type, settings, base model) and its step."""
    torch.save(dict(state), folder / PROJECTOR_BIN)
    settings = {key: value for key, value in config.to_dict().items() if key.startswith("mm_")}
    metadata = {
        "format": "pt",
        "mm_projector_type": str(config.mm_projector_type),
        "config": json.dumps(settings),
        "base": str(getattr(config, "_name_or_path", "")),
        "step": str(step),
    }
    save_file({name: value.contiguous() for name, value in state.items()}, folder / PROJECTOR_SAFETENSORS, metadata)


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without PEFT's prefix."""
    return {name.removeprefix("base_model.model."): value for name, value in state.items()}


def save_config(config: PretrainedConfig, folder: Path) -> None:
    """``config.json``, without how training packed the base model: what is saved is for the base as it lies on disk."""
    config = copy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)


def save_trained_parts(trainer: Any, output_dir: str) -> None:
    """Projector (every mode) and non-LoRA weights (LoRA). All ranks gather, the one that saves writes."""
    model, args, folder = trainer.model, trainer.args, Path(output_dir)
    if not hasattr(model.config, "mm_projector_type"):
        return
    projector = _plain_names(get_mm_adapter_state_maybe_zero_3(model.named_parameters(), projector_keys(args)))
    non_lora = get_peft_state_non_lora_maybe_zero_3(model.named_parameters()) if args.lora_enable else None
    if not args.should_save:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_config(model.config, folder)
    if projector:  # `identity` has no weights
        save_projector(projector, folder, model.config, trainer.state.global_step)
    if non_lora is not None:
        torch.save(non_lora, folder / NON_LORA_FILE)


def load_trained_parts(trainer: Any, checkpoint: str) -> None:
    """Read back what :func:`save_trained_parts` wrote and transformers' own resume does not know."""
    model, args, folder = trainer.model, trainer.args, Path(checkpoint)
    if args.lora_enable and (folder / NON_LORA_FILE).exists():
        model.load_state_dict(read_weights(str(folder / NON_LORA_FILE)), strict=False)
    elif is_stage_one(args) and (folder / PROJECTOR_BIN).exists():
        model.load_state_dict(read_weights(str(folder / PROJECTOR_BIN)), strict=False)


def load_engine(engine: Any, checkpoint: str) -> None:
    """Weights, optimizer and schedule of a DeepSpeed engine; frozen weights are not in its checkpoints.

    Raises UserError when ``checkpoint`` was not written by DeepSpeed.
    """
    loaded, _ = engine.load_checkpoint(checkpoint, load_module_strict=False)
    if loaded is None:
        raise UserError(f"{checkpoint} has no DeepSpeed state; resume it as it was written, without --deepspeed")


def safe_save_model_for_hf_trainer(trainer: Any, output_dir: str) -> None:
    """The final save of stage 1 and of full fine-tuning.

    For an ``output_dir`` called ``checkpoint-N`` stage 1 writes ``<parent>/mm_projector/checkpoint-N.bin``.
    """
    folder = Path(output_dir)
    if not (is_stage_one(trainer.args) and folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")):
        trainer.save_model(output_dir)
        return
    state = get_mm_adapter_state_maybe_zero_3(trainer.model.named_parameters(), projector_keys(trainer.args))
    if trainer.args.should_save:
        save_config(trainer.model.config, folder)
        target = folder.parent / "mm_projector"
        target.mkdir(parents=True, exist_ok=True)
        torch.save(state, target / f"{folder.name}.bin")


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters; a ZeRO-3 partition and packed four-bit weights count as the whole they stand for."""
    sizes = [(_whole_size(p), p.requires_grad) for p in module.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)


def _whole_size(parameter: Tensor) -> int:
    packed = getattr(parameter, "quant_state", None)  # bitsandbytes': two weights of four bits share a byte
    return packed.shape.numel() if packed is not None else getattr(parameter, "ds_numel", parameter.numel())
