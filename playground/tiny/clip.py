"""A tiny CLIP in the folder layout of OpenAI's, trained contrastively on the train pictures and their captions."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerBase

from llava.tokenization import load_tokenizer
from playground.cache import cached, recipe_key
from playground.tiny import text


@dataclass(frozen=True)
class Recipe:
    """Sizes of the two towers and the course of training. ``shift`` is in pixels, ``steps`` counts updates."""

    seed: int = 0
    image_size: int = 64
    patch_size: int = 8
    vision_width: int = 64
    vision_layers: int = 6
    text_width: int = 64
    text_layers: int = 2
    heads: int = 4
    steps: int = 1_800
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    shift: int = 6


def clip_config(recipe: Recipe, vocab_size: int) -> CLIPConfig:
    """``vocab_size`` is the tokenizer's; one id more serves as end of text.

    CLIPModel pools the text at the *highest* id if its end token is 2, which is Llama's: a word would be taken.
    """
    return CLIPConfig(
        text_config={
            "vocab_size": vocab_size + 1,
            "bos_token_id": 1,
            "eos_token_id": vocab_size,
            "pad_token_id": 0,
            "max_position_embeddings": 16,
            "hidden_size": recipe.text_width,
            "intermediate_size": 2 * recipe.text_width,
            "num_hidden_layers": recipe.text_layers,
            "num_attention_heads": recipe.heads,
            "projection_dim": recipe.vision_width,
        },
        vision_config={
            "image_size": recipe.image_size,
            "patch_size": recipe.patch_size,
            "hidden_size": recipe.vision_width,
            "intermediate_size": 2 * recipe.vision_width,
            "num_hidden_layers": recipe.vision_layers,
            "num_attention_heads": recipe.heads,
            "projection_dim": recipe.vision_width,
        },
        projection_dim=recipe.vision_width,
    )


def image_processor(recipe: Recipe) -> CLIPImageProcessorPil:
    size = recipe.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def picture_paths(data: Path) -> list[Path]:
    return sorted((data / "images" / "train").glob("*.png"), key=lambda path: int(path.stem))


def load_pixels(data: Path, processor: CLIPImageProcessorPil) -> Tensor:
    """All train pictures in the order of their numbers, ``[B, 3, H, W]``."""
    pictures = []
    for path in tqdm(picture_paths(data), desc="read pictures", unit="picture"):
        with Image.open(path) as picture:
            pictures.append(picture.convert("RGB"))
    return processor(images=pictures, return_tensors="pt").pixel_values


def encode_captions(tokenizer: PreTrainedTokenizerBase, captions: list[str]) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask`` ``[C, T]``, each caption closed by CLIP's own end token."""
    ids = [[*tokenizer(caption).input_ids, len(tokenizer)] for caption in captions]
    return dict(tokenizer.pad({"input_ids": ids}, return_tensors="pt"))


def shifted(pixels: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Mirror at random and move by up to ``reach`` pixels, alike for the whole batch ``[B, 3, H, W]``.

    What enters at an edge repeats that edge. Neither changes shape or colour.
    """
    height, width = pixels.shape[-2:]
    top, left = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    if torch.rand((), generator=generator) < 0.5:
        pixels = pixels.flip(-1)
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="replicate")
    return padded[..., top : top + height, left : left + width]


def contrastive_loss(pictures: Tensor, captions: Tensor, caption_of: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE in both directions over a batch in which pictures share captions.

    Args:
        pictures: embeddings ``[B, d]``.
        captions: embeddings of the distinct captions ``[C, d]``.
        caption_of: ``[B]``, each picture's caption. Every caption has at least one picture.
        scale: inverse temperature.

    A picture has one positive. A caption has several, which share its probability evenly: none is a negative of
    another.
    """
    logits = scale * F.normalize(pictures, dim=-1) @ F.normalize(captions, dim=-1).T
    picture_to_caption = F.cross_entropy(logits, caption_of)
    is_positive = F.one_hot(caption_of, len(captions)).T.float()
    caption_to_picture = F.cross_entropy(logits.T, is_positive / is_positive.sum(dim=1, keepdim=True))
    return (picture_to_caption + caption_to_picture) / 2


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """``steps`` index tensors of ``size``; each pass over ``range(count)`` in a new order, an odd rest is left out."""
    done = 0
    while True:
        for indices in torch.randperm(count, generator=generator)[: count - count % size].split(size):
            if done == steps:
                return
            yield indices
            done += 1


def train(model: CLIPModel, pixels: Tensor, captions: dict[str, Tensor], caption_of: Tensor, recipe: Recipe) -> None:
    """Train in place. ``captions`` are the distinct ones, ``caption_of`` ``[B]`` says which one a picture has."""
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    order = batches(len(pixels), min(recipe.batch_size, len(pixels)), recipe.steps, generator)
    progress = tqdm(order, total=recipe.steps, desc="train CLIP", unit="step")
    model.train()
    for step, indices in enumerate(progress):
        used, caption_of_batch = caption_of[indices].unique(return_inverse=True)
        pictures = model.vision_model(shifted(pixels[indices], recipe.shift, generator)).pooler_output
        texts = model.text_model(**{name: values[used] for name, values in captions.items()}).pooler_output
        loss = contrastive_loss(
            model.visual_projection(pictures),
            model.text_projection(texts),
            caption_of_batch,
            model.logit_scale.exp(),
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def make(folder: Path, data: Path, tokenizer_folder: Path, recipe: Recipe) -> None:
    """Train a CLIP and write it into the existing ``folder``."""
    tokenizer = load_tokenizer(str(tokenizer_folder))
    processor = image_processor(recipe)
    captions = text.captions(data)
    distinct = sorted(set(captions))
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = CLIPModel(clip_config(recipe, len(tokenizer)))
    train(
        model,
        load_pixels(data, processor),
        encode_captions(tokenizer, distinct),
        torch.tensor([distinct.index(caption) for caption in captions]),
        recipe,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def build(cache: Path, data: Path, tokenizer_folder: Path, recipe: Recipe = Recipe()) -> Path:
    """Train the CLIP once per recipe; return its folder."""
    sources = [Path(__file__), tokenizer_folder / "tokenizer.model", data / "pretrain.json", *picture_paths(data)]
    key = recipe_key(asdict(recipe), sources)
    return cached(cache, "clip", key, lambda folder: make(folder, data, tokenizer_folder, recipe))
