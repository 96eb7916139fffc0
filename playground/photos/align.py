"""A projector for stage 1 to start from: LLaVA's ``mlp2x_gelu``, fitted to say of each patch which words stand there.

In stage 1 a projector learns through the frozen language model, from a few words about 49 patches; with models and
minutes as small as here that is slow. What each patch shows is known, though, and the language model was taught on just
that (playground/photos/text.py), so most of the way is a plain regression, of half a minute.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM

from llava.model.multimodal_encoder.builder import build_vision_tower
from llava.model.multimodal_encoder.feature_cache import FeatureCache, folder_name
from llava.model.multimodal_encoder.fill_feature_cache import Pictures
from llava.tokenization import load_tokenizer
from playground.cache import cached, recipe_key
from playground.photos import language_model, text


@dataclass(frozen=True)
class Recipe:
    """Steps of so many patches; AdamW, one cycle of the learning rate."""

    seed: int = 0
    select_layer: int = -2  # the scripts' own
    steps: int = 3_000
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2


@torch.inference_mode()
def read_patches(pictures: list[Path], vision_tower: Path, features: Path, recipe: Recipe) -> Tensor:
    """The selected layer of all pictures, ``[pictures, N, d]``, as training sees it: bfloat16, from the cache."""
    args = SimpleNamespace(vision_tower=str(vision_tower), mm_vision_select_layer=recipe.select_layer)
    tower = build_vision_tower(args).to(torch.bfloat16)
    cache = FeatureCache(features / folder_name(tower.vision_tower.vision_model))
    (layer,) = tower.hidden_state_indices((recipe.select_layer,))
    states = (
        cache.read(pixels.to(tower.dtype), {layer}, tower.compute_hidden_states)[layer]
        for pixels in DataLoader(Pictures(pictures, tower, "pad"), batch_size=50)
    )
    return torch.cat([state[:, tower.class_tokens :].float() for state in states])


def fit(patches: Tensor, words: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """An ``mlp2x_gelu`` adapter's state: ``[n, d]`` onto ``[n, D]`` by least squares.

    Trained between inputs and outputs of size 1; its weights take the sizes in.
    """
    torch.manual_seed(recipe.seed)
    mean, deviation, size = patches.mean(dim=0), patches.std(dim=0), words.std()
    inner, outer = nn.Linear(patches.shape[1], words.shape[1]), nn.Linear(words.shape[1], words.shape[1])
    parameters = [*inner.parameters(), *outer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    for _ in range(recipe.steps):
        drawn = torch.randint(len(patches), (recipe.batch_size,))
        said = outer(F.gelu(inner((patches[drawn] - mean) / deviation)))
        loss = F.mse_loss(said, words[drawn] / size)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        weight = inner.weight / deviation
        return {
            "0.weight": weight,
            "0.bias": inner.bias - weight @ mean,
            "2.weight": outer.weight * size,
            "2.bias": outer.bias * size,
        }


def make(folder: Path, data: Path, vision_tower: Path, llama: Path, features: Path, recipe: Recipe) -> None:
    """Write ``mm_projector.bin``, as stage 1 writes it, into the existing ``folder``."""
    scenes = text.read_scenes(data, "train")
    patches = read_patches([data / "images" / f"{key}.jpg" for key in scenes], vision_tower, features, recipe)
    side = round(patches.shape[1] ** 0.5)
    tokenizer = load_tokenizer(str(llama))
    grids = [text.grid_of(scene, data, side, tokenizer) for scene in scenes.values()]
    table = LlamaForCausalLM.from_pretrained(llama).get_input_embeddings().weight.detach()
    words = language_model.embed_grids(grids, table)
    state = fit(patches.flatten(0, 1), words.flatten(0, 1), recipe)
    torch.save({f"model.mm_projector.{name}": value for name, value in state.items()}, folder / "mm_projector.bin")


def build(cache: Path, data: Path, vision_tower: Path, llama: Path, features: Path, recipe: Recipe = Recipe()) -> Path:
    """Fit the projector once for these parts; return its folder."""
    parts = {"data": data.name, "vision_tower": vision_tower.name, "llama": llama.name}
    key = recipe_key(asdict(recipe) | parts, [Path(__file__)])
    return cached(cache, "alignment", key, lambda folder: make(folder, data, vision_tower, llama, features, recipe))
