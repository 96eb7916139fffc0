"""The projector out of a whole checkpoint, as an adapter file: ``--model-path FOLDER --output mm_projector.bin``.

Reads only the shards that hold a part of it, .bin or .safetensors.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from llava.errors import UserError, exit_on_user_error
from llava.model.adapter import read_weights

PARTS = ("mm_projector", "image_newline")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def shards_of(folder: Path) -> list[Path]:
    """The weight files that a part of the projector may be in. UserError when the folder has no weights."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return sorted({folder / shard for key, shard in places.items() if any(part in key for part in PARTS)})
        if (folder / name).is_file():
            return [folder / name]
    raise UserError(f"{folder} has neither {' nor '.join(WEIGHTS)}; give the folder of a whole checkpoint")


def projector_in(shard: Path) -> dict[str, Tensor]:
    """The projector's tensors in one weight file."""
    if shard.suffix == ".safetensors":
        with safe_open(shard, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys() if any(part in key for part in PARTS)}  # noqa: SIM118
    return {key: value for key, value in read_weights(str(shard)).items() if any(part in key for part in PARTS)}


def extract(model_path: str, output: str) -> None:
    """Write the adapter file, .bin or .safetensors by its name. UserError when there is no projector."""
    folder, target = Path(model_path), Path(output)
    state = {key: value for shard in shards_of(folder) for key, value in projector_in(shard).items()}
    if not state:
        raise UserError(f"{folder} has no weights called {PARTS[0]}; is it a LLaVA, and not a LoRA?")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, target, metadata={"format": "pt"})
    else:
        torch.save(state, target)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Extract the projector from a checkpoint.")
    parser.add_argument("--model-path", type=str, required=True, help="folder of a whole checkpoint")
    parser.add_argument("--output", type=str, required=True, help="adapter file to write (.bin or .safetensors)")
    args = parser.parse_args()
    extract(args.model_path, args.output)


if __name__ == "__main__":
    main()
