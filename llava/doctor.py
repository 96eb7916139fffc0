"""What this machine is ready for, and what a recipe will need.

::

    python -m llava.doctor                                           # versions, devices, attention, parts, disk
    python -m llava.doctor --recipe scripts/v1_5/finetune_ccra.sh    # and the memory a device needs for that script
    python -m llava.doctor --recipe -- --model_name_or_path ... --output_dir ...    # or for the trainer's own flags

A script is asked for its flags as it would start now, with the variables that are set. Exit code 1 when something
stands in the way, 2 when the command itself was wrong.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from packaging.version import Version
from transformers import HfArgumentParser

from llava.errors import UserError, exit_on_user_error
from llava.train.memory import GB, Recipe, Shapes, estimate

# Optional part -> (what it is for, how it is installed).
OPTIONAL = {
    "deepspeed": ("ZeRO, the scripts' default launcher", 'pip install -e ".[train]"'),
    "flash_attn": ("FlashAttention 2", 'pip install --no-build-isolation -e ".[flash]" (needs nvcc)'),
    "bitsandbytes": ("--bits 4 and 8, --load-4bit", 'pip install -e ".[quant]"'),
    "numba": ("training pictures resized several times faster", 'pip install -e ".[train]"'),
    "wandb": ("--report_to wandb", 'pip install -e ".[train]"'),
    "tensorboard": ("--report_to tensorboard", 'pip install -e ".[train]"'),
    "gradio": ("the web chat", 'pip install -e ".[serve]"'),
    "openpyxl": ("MMBench's upload files", 'pip install -e ".[eval]"'),
    "easy_vqa": ("make demo", 'pip install -e ".[demo]"'),
}
TOOLS = {"ninja": "DeepSpeed compiles an operation when it starts", "g++": "the same"}

# Shapes of the recipes' own models, so that the estimate needs no download.
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
LLAMA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
KNOWN: dict[str, dict[str, Any]] = {
    "vicuna-7b": LLAMA_7B,
    "vicuna-13b": LLAMA_13B,
    "llava-v1.5-7b": LLAMA_7B,
    "llava-v1.5-13b": LLAMA_13B,
    "clip-vit-large-patch14": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "image_size": 224, "patch_size": 14,
    },
}  # fmt: skip
DISK_COPIES = 2.2  # a checkpoint beside the final weights, and a margin


@dataclass
class Line:
    """One thing that was looked at; ``ok`` None means: for information."""

    ok: bool | None
    text: str


def versions() -> list[Line]:
    """Each declared dependency against the range that was tested."""
    lines = [Line(None, f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores")]
    for text in importlib.metadata.requires("llava") or []:
        requirement = Requirement(text)
        if requirement.marker is not None:  # extras are looked at below
            continue
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            lines.append(Line(False, f"{requirement.name} is missing; pip install -e ."))
            continue
        fits = requirement.specifier.contains(Version(installed).base_version, prereleases=True)
        note = "" if fits else f"; tested with {requirement.specifier}: pip install '{requirement}'"
        lines.append(Line(fits, f"{requirement.name} {installed}{note}"))
    return lines


def devices() -> list[Line]:
    """Accelerators and their memory."""
    if not torch.cuda.is_available():
        kind = "Apple MPS" if torch.backends.mps.is_available() else "none; everything runs on the CPU"
        return [Line(None, f"accelerator: {kind}")]
    return [
        Line(None, f"GPU {i}: {torch.cuda.get_device_name(i)}, {_gigabytes(torch.cuda.mem_get_info(i)[1])}")
        for i in range(torch.cuda.device_count())
    ]


def attention() -> Line:
    """Which attention training will use on this machine, and why."""
    from llava.train.train_mem import best_attention

    name, reason = best_attention(["--bf16", "True"])
    return Line(None, f"attention under --bf16: {name} ({reason})")


def optional_parts() -> list[Line]:
    """Optional packages and tools: there, or how to get them."""
    lines = []
    for module, (purpose, install) in OPTIONAL.items():
        there = importlib.util.find_spec(module) is not None
        lines.append(Line(None, f"{module}: {'there' if there else f'missing ({purpose}); {install}'}"))
    for tool, purpose in TOOLS.items():
        there = shutil.which(tool) is not None
        lines.append(Line(None, f"{tool}: {'there' if there else f'missing ({purpose})'}"))
    return lines


def flags_of(script: str) -> list[str]:
    """The trainer's flags that a training script would start with now. UserError when it is not one."""
    if not Path(script).is_file():
        raise UserError(f"--recipe {script} does not exist; give a script such as scripts/v1_5/finetune_ccra.sh")
    done = subprocess.run(["bash", script], env=os.environ | {"DRY_RUN": "1"}, capture_output=True, text=True)
    words = done.stdout.splitlines()
    entry = next((i for i, word in enumerate(words) if word.endswith(".py")), None)
    if done.returncode or entry is None:
        reason = done.stderr.strip().splitlines()[-1:] or ["it printed no training command"]
        raise UserError(f"--recipe {script} is no training script: {reason[0].removeprefix('error: ')}")
    return words[entry + 1 :]


def shapes_of(language: str, vision: str) -> Shapes:
    """Shapes of two models, from their folders, the hub's cache, or the table of the recipes' own."""
    return Shapes.from_configs(
        {"vocab_size": 32000, **_config_of(language)}, {"num_attention_heads": 16, **_config_of(vision)}
    )


def _config_of(name: str) -> dict[str, Any]:
    file = Path(name) / "config.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    for known, shape in KNOWN.items():
        if known in name:
            return shape | ({"image_size": 336} if name.endswith("-336") else {})
    raise UserError(
        f"the shapes of {name} are not known here; download it and give its folder (needed: config.json), "
        f"or use one of {', '.join(KNOWN)}"
    )


def recipe_of(flags: list[str], devices: int) -> tuple[Recipe, Shapes, str]:
    """The memory recipe behind training flags, the shapes, and the output folder."""
    from llava.model.multimodal_projector.builder import build_vision_projector
    from llava.model.multimodal_projector.registry import find_projector, needs_of, setting_names
    from llava.train.arguments import DataArguments, ModelArguments, TrainingArguments

    # The parsed words alone: building TrainingArguments would already set up devices.
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    given = vars(parser.parse_known_args(flags)[0])
    shapes = shapes_of(given["model_name_or_path"], given["vision_tower"] or "clip-vit-large-patch14")
    config = argparse.Namespace(
        mm_projector_type=given["mm_projector_type"],
        mm_hidden_size=shapes.vision_hidden_size,
        hidden_size=shapes.hidden_size,
        **{name: given[name] for name in setting_names(find_projector(given["mm_projector_type"]))},
    )
    with torch.device("meta"):
        projector = build_vision_projector(config)
    layers = needs_of(projector).layers
    stage = 0
    if given["deepspeed"]:
        stage = json.loads(Path(given["deepspeed"]).read_text(encoding="utf-8"))["zero_optimization"]["stage"]
    trains = "projector" if given["tune_mm_mlp_adapter"] else "lora" if given["lora_enable"] else "all"
    recipe = Recipe(
        batch_size=given["per_device_train_batch_size"],
        sequence_length=given["model_max_length"],
        projector_parameters=sum(parameter.numel() for parameter in projector.parameters()),
        trains=trains,
        lora_rank=given["lora_r"],
        half_precision=given["bf16"] or given["fp16"],
        zero_stage=stage,
        processes=devices,
        gradient_checkpointing=bool(given["gradient_checkpointing"]),
        stacked_layers=shapes.vision_layers if layers == "all" else len(layers),
        base_bits=given["bits"],
    )
    return recipe, shapes, given["output_dir"]


def memory(recipe: Recipe, shapes: Shapes) -> list[Line]:
    """The estimate by parts, held against the devices."""
    parts = estimate(shapes, recipe)
    total = sum(parts.values())
    lines = [
        Line(
            None,
            f"memory of each of {recipe.processes} device(s), batch {recipe.batch_size} x {recipe.sequence_length} "
            f"tokens, ZeRO-{recipe.zero_stage}: {_gigabytes(total)} (estimate, 0 to 50% high "
            "if every text token has a label)",
        )
    ]
    lines += [Line(None, f"  {name}: {_gigabytes(size)}") for name, size in parts.items()]
    if torch.cuda.is_available():
        least = min(torch.cuda.mem_get_info(i)[1] for i in range(torch.cuda.device_count()))
        if total > least:
            advice = "lower BATCH_SIZE (GRAD_ACCUM makes up for it), use ZeRO-3, or LoRA"
            lines.append(Line(False, f"that is more than the {_gigabytes(least)} of the smallest GPU: {advice}"))
        else:
            lines.append(Line(True, f"fits the {_gigabytes(least)} of the smallest GPU"))
    return lines


def disk(folder: str, needed: float = 0.0) -> Line:
    """Free space where a run would write."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        return Line(False, f"disk at {place}: {_gigabytes(free)} free, about {_gigabytes(needed)} needed")
    return Line(True if needed else None, f"disk at {place}: {_gigabytes(free)} free")


def _gigabytes(size: float) -> str:
    return f"{size / GB:.1f} GB"


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", nargs="?", const="", help="a training script; or nothing, and flags after --")
    parser.add_argument("--devices", type=int, default=max(torch.cuda.device_count(), 1), help="that share the work")
    parser.add_argument("flags", nargs="*", help="flags of the trainer (after --)")
    args = parser.parse_args(argv)
    sections = {"versions": versions(), "devices": [*devices(), attention()], "optional parts": optional_parts()}
    if args.recipe is None:
        sections["disk"] = [disk("checkpoints")]
    else:
        recipe, shapes, output = recipe_of(flags_of(args.recipe) if args.recipe else args.flags, args.devices)
        weights = 2.0 * shapes.language_parameters if recipe.trains == "all" else 4.0 * recipe.projector_parameters
        sections["recipe"] = [*memory(recipe, shapes), disk(output, DISK_COPIES * weights)]
    for title, lines in sections.items():
        print(title)
        for line in lines:
            print(f"  {'ok  ' if line.ok else 'BAD ' if line.ok is False else '    '}{line.text}")
    bad = sum(line.ok is False for lines in sections.values() for line in lines)
    print(f"{bad} thing(s) in the way" if bad else "ready")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
