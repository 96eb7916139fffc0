"""What a frozen vision tower says of a picture, kept on disk: every hidden state, computed once for many runs.

A run whose environment names a folder in ``LLAVA_FEATURE_CACHE`` reads from it; what it does not find there, it
computes as ever. ``python -m llava.model.multimodal_encoder.fill_feature_cache`` fills the folder beforehand. Runs only
read, so any number of them may share it, and the pages in memory with it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Set
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from llava.errors import UserError

VARIABLE = "LLAVA_FEATURE_CACHE"
KEY_LENGTH = 12  # of a SHA-256: enough to tell towers apart, short enough for a folder name

# Pixels [B, 3, H, W] and indices -> hidden states by index, each [B, C + N, d].
Compute = Callable[[Tensor, Set[int]], dict[int, Tensor]]


def cache_folder(transformer: PreTrainedModel) -> Path | None:
    """The folder for this vision transformer in the one that the environment names; None when it names none.

    ``<model type>-<dtype>-<key>``, where the key stands for everything that decides a feature's bits: weights, config,
    dtype, kind of device, and the libraries' versions. UserError when the environment names a folder that is not there.
    """
    root = os.environ.get(VARIABLE)
    if not root:
        return None
    if not os.path.isdir(root):
        raise UserError(f"{VARIABLE} is {root}, which is not a folder; fill it first, or unset {VARIABLE}")
    return Path(root, folder_name(transformer))


def folder_name(transformer: PreTrainedModel) -> str:
    first = next(transformer.parameters())
    config = transformer.config
    said = {
        "config": {name: value for name, value in config.to_dict().items() if name != "_name_or_path"},
        "attention": config._attn_implementation,
        "device": first.device.type,
        "versions": [torch.__version__, transformers.__version__],
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for name, weight in transformer.state_dict().items():
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(bytes_of(weight))
    dtype = str(first.dtype).removeprefix("torch.")
    return f"{config.model_type}-{dtype}-{digest.hexdigest()[:KEY_LENGTH]}"


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def picture_keys(images: Tensor) -> list[bytes]:
    """A hash of each picture's pixels ``[B, 3, H, W]``, dtype and size included."""
    said = f"{images.dtype} {tuple(images.shape[1:])}".encode()
    return [hashlib.sha256(said + bytes_of(image)).digest() for image in images]


class FeatureCache:
    """The features of one vision transformer, memory-mapped from the shards in ``folder``.

    A shard is a safetensors file with ``keys [n, 32]``, the pictures' hashes as bytes, and ``states [n, L + 1, C + N,
    d]``, their hidden states from the embeddings to the last block.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._states: dict[bytes, Tensor] = {}
        for shard in sorted(folder.glob("*.safetensors")):
            tensors = load_file(shard)
            keys = (row.tobytes() for row in tensors["keys"].numpy())
            self._states.update(zip(keys, tensors["states"], strict=True))

    def __len__(self) -> int:
        return len(self._states)

    def missing(self, images: Tensor) -> Tensor:
        """Of pictures ``[B, 3, H, W]``, those that are not here, none twice."""
        keys = picture_keys(images)
        return images[[i for i, key in enumerate(keys) if key not in self._states and key not in keys[:i]]]

    def read(self, images: Tensor, wanted: Set[int], compute: Compute) -> dict[int, Tensor]:
        """Hidden states by index ``[B, C + N, d]``; ``compute`` is asked for the pictures that are not here."""
        found = [self._states.get(key) for key in picture_keys(images)]
        missing = [i for i, states in enumerate(found) if states is None]
        if len(missing) == len(found):
            return compute(images, wanted)
        computed = compute(images[missing], wanted) if missing else {}
        features = {}
        for index in wanted:
            fresh = iter(computed.get(index, ()))
            rows = [next(fresh) if states is None else states[index].to(images.device) for states in found]
            features[index] = torch.stack(rows)
        return features

    def write(self, images: Tensor, states: Tensor) -> None:
        """Add a shard: pictures ``[n, 3, H, W]`` and all their hidden states ``[n, L + 1, C + N, d]``.

        It appears under its name when it is whole, so that a run never reads half of one.
        """
        keys = picture_keys(images)
        shard = self.folder / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:KEY_LENGTH]}.safetensors"
        unfinished = shard.with_suffix(f".{os.getpid()}")
        self.folder.mkdir(parents=True, exist_ok=True)
        as_bytes = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(len(keys), -1)
        save_file({"keys": as_bytes, "states": states.cpu().contiguous()}, unfinished)
        unfinished.rename(shard)
        self._states.update(zip(keys, load_file(shard)["states"], strict=True))
