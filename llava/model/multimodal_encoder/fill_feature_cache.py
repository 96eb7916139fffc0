"""Fill a feature cache: run a vision tower once over folders of pictures and keep every hidden state.

::

    python -m llava.model.multimodal_encoder.fill_feature_cache --vision-tower openai/clip-vit-large-patch14-336 \\
        --image-folder playground/data/images --feature-cache features --dtype bfloat16
    LLAVA_FEATURE_CACHE=features bash scripts/v1_5/finetune_ccra.sh

``--dtype`` and ``--image-aspect-ratio`` must be the run's: bfloat16 and pad in training with the scripts as they are. A
picture takes (layers + 1) x (patches + class token) x width numbers: 0.5 MB for a ViT-S/14 at 98 pixels, 30 MB for a
ViT-L/14 at 336.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from llava.errors import UserError, exit_on_user_error
from llava.mm_utils import process_images
from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.feature_cache import VARIABLE, FeatureCache, folder_name
from llava.model.multimodal_encoder.tower import VisionTower
from llava.train.dataset import load_picture

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SHARD_BYTES = 2**27


class Pictures(Dataset[Tensor]):
    """Pixels ``[3, H, W]`` of files, prepared as in training."""

    def __init__(self, paths: list[Path], tower: VisionTower, aspect_ratio: str) -> None:
        self.paths = paths
        self.processor = tower.image_processor
        self.settings = SimpleNamespace(image_aspect_ratio=aspect_ratio)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return process_images([load_picture(self.paths[index])], self.processor, self.settings)[0]


def pictures_under(folders: Iterable[Path]) -> list[Path]:
    """All picture files in the folders and below them. UserError for a folder that has none."""
    known = Image.registered_extensions()
    paths = []
    for folder in folders:
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in known)
        if not found:
            raise UserError(f"--image-folder {folder} holds no pictures")
        paths += found
    return paths


@torch.inference_mode()
def fill(tower: VisionTower, folders: Iterable[Path], root: Path, aspect_ratio: str, batch_size: int = 32) -> Path:
    """Bring what is missing of the pictures under ``folders`` into the cache at ``root``; return the tower's folder.

    Whole shards survive when it is stopped; the next call goes on from there.
    """
    cache = FeatureCache(root / folder_name(tower.vision_tower.vision_model))
    everything = set(range(tower.config.num_hidden_layers + 1))
    waiting: list[tuple[Tensor, Tensor]] = []

    def flush() -> None:
        if waiting:
            pixels, states = zip(*waiting, strict=True)
            cache.write(torch.cat(pixels), torch.cat(states))
            waiting.clear()

    loader = DataLoader(Pictures(pictures_under(folders), tower, aspect_ratio), batch_size)
    for batch in tqdm(loader, desc=f"features of {tower.vision_tower_name}", unit="batch"):
        pixels = cache.missing(batch.to(device=tower.device, dtype=tower.dtype))
        if len(pixels):
            states = tower.compute_hidden_states(pixels, everything)
            waiting.append((pixels, torch.stack([states[index] for index in sorted(everything)], dim=1)))
        if sum(states.nbytes for _, states in waiting) >= SHARD_BYTES:
            flush()
    flush()
    return cache.folder


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--vision-tower", required=True, help="folder or hub name, as in training")
    parser.add_argument("--image-folder", type=Path, nargs="+", required=True, help="folders of pictures")
    parser.add_argument(
        "--feature-cache", type=Path, default=os.environ.get(VARIABLE, "features"), help=f"default: ${VARIABLE}"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), nargs="+", default=["bfloat16"], help="the run's")
    parser.add_argument("--image-aspect-ratio", choices=["pad", "square"], default="pad", help="the run's")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures at a time")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = SimpleNamespace(vision_tower=args.vision_tower, mm_vision_select_layer=-2)
    for dtype in args.dtype:
        tower = build_vision_tower(settings).to(device=device, dtype=DTYPES[dtype])
        print(fill(tower, args.image_folder, args.feature_cache, args.image_aspect_ratio, args.batch_size))


if __name__ == "__main__":
    main()
