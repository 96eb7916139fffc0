"""What AttAnchor costs: the merge alone, and the whole forward pass, beside the same model without it, in one run.

    python benchmarks/attanchor.py                        # merge at LLaVA-7B's sizes, forward of a small random model
    python benchmarks/attanchor.py --device cuda --dtype bfloat16 --text-dim 4096 --depth 32

Thresholds are set so that ``--share`` of the tokens are copied (the paper: about 10% of the text tokens); an arm with
threshold 1 matches and copies nothing, so that the cost of matching and that of a longer sequence can be told apart.
Arms take turns (see turns.py); times are medians, and the ratios are what to look at.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from random_llava import BEGIN, CLOSE, OPEN, PATCH, VOCABULARY, WORD, build_model  # noqa: E402
from turns import take_turns  # noqa: E402

from ccra_patch.attanchor import AttAnchorSettings  # noqa: E402
from llava.attanchor.calibrate import threshold_for  # noqa: E402
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX  # noqa: E402
from llava.model.anchoring import find_matches, insert_anchors  # noqa: E402
from llava.model.merge import ImageSlots, lay_out  # noqa: E402

MERGE_WIDTH = 4096  # D of LLaVA-7B
OFF = "without AttAnchor"

Run = Callable[[], object]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="samples, each with a picture (default 1)")
    parser.add_argument("--side", type=int, default=24, help="patches per side of a picture (default 24)")
    parser.add_argument("--tokens", type=int, default=32, help="question tokens (default 32)")
    parser.add_argument("--share", type=float, default=0.1, help="share of tokens that are copied (default 0.1)")
    parser.add_argument("--text-dim", type=int, default=512, help="width of the forward's language model (default 512)")
    parser.add_argument("--depth", type=int, default=8, help="its layers (default 8)")
    parser.add_argument("--vision-dim", type=int, default=256, help="width of its tower (default 256)")
    parser.add_argument("--vision-depth", type=int, default=6, help="layers of its tower (default 6)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args()


def prompts(sizes: argparse.Namespace) -> Tensor:
    """``[B, S]``: a turn's opening, the picture, the question, its end."""
    words = torch.randint(WORD, VOCABULARY, (sizes.batch, sizes.tokens))
    ends = torch.tensor([BEGIN, OPEN, IMAGE_TOKEN_INDEX]).expand(sizes.batch, -1), torch.full((sizes.batch, 1), CLOSE)
    return torch.cat([ends[0], words, ends[1]], dim=1).to(sizes.device)


def arms(similarities: Callable[[str], Tensor], share: float) -> dict[str, AttAnchorSettings]:
    """The settings of every arm, thresholds by what is there."""
    named = {OFF: AttAnchorSettings(), "match, copy nothing": AttAnchorSettings("text_into_image", 1.0)}
    for direction in ("text_into_image", "image_into_text"):
        found = similarities(direction)
        named[direction] = AttAnchorSettings(direction, threshold_for(found[found.isfinite()].cpu(), share))
    return named


def merge_runs(sizes: argparse.Namespace, dtype: torch.dtype) -> tuple[dict[str, Run], dict[str, int]]:
    """The merge on random vectors at LLaVA-7B's width; how long the sequences get."""
    ids = prompts(sizes)
    valid = torch.ones_like(ids, dtype=torch.bool)
    labels = torch.full_like(ids, IGNORE_INDEX)
    turns = (ids >= WORD).long()
    embeds = torch.randn(*ids.shape, MERGE_WIDTH, dtype=dtype, device=sizes.device)
    blocks = list(torch.randn(sizes.batch, sizes.side**2, MERGE_WIDTH, dtype=dtype, device=sizes.device))
    patches = [torch.arange(sizes.side**2, device=sizes.device)] * sizes.batch
    slots = ImageSlots.assign(ids == IMAGE_TOKEN_INDEX, len(blocks))

    def merge(settings: AttAnchorSettings) -> Tensor:
        layout = lay_out(embeds, ids, valid, blocks, patches, slots)
        if settings.mm_attanchor_direction != "off":
            layout = insert_anchors(layout, turns, settings)
        return layout.arrange(labels).inputs_embeds

    plain = lay_out(embeds, ids, valid, blocks, patches, slots)
    named = arms(lambda direction: find_matches(plain, turns, direction).similarity, sizes.share)
    return (
        {name: lambda settings=settings: merge(settings) for name, settings in named.items()},
        {name: merge(settings).shape[1] for name, settings in named.items()},
    )


def forward_runs(sizes: argparse.Namespace, dtype: torch.dtype) -> tuple[dict[str, Run], dict[str, int]]:
    """One forward pass of a randomly initialised LLaVA from pixels to logits; how long the sequences get."""
    model = build_model(
        sizes.text_dim, sizes.depth, sizes.vision_dim, sizes.vision_depth, sizes.side, dtype, sizes.device
    )
    ids = prompts(sizes)
    pixels = sizes.side * PATCH
    images = torch.randn(sizes.batch, 3, pixels, pixels, dtype=dtype, device=sizes.device)

    def forward(settings: AttAnchorSettings) -> Tensor:
        for name, value in vars(settings).items():
            setattr(model.config, name, value)
        return model(ids, images=images).logits

    named = arms(
        lambda direction: model.find_anchors(ids, None, images, direction=direction)[1].similarity, sizes.share
    )
    return (
        {name: lambda settings=settings: forward(settings) for name, settings in named.items()},
        {name: forward(settings).shape[1] for name, settings in named.items()},
    )


def median_times(runs: dict[str, Run], sizes: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of every arm."""
    seconds = take_turns(runs, sizes.repeats, sizes.device, sizes.threads)
    return {name: 1000 * statistics.median(taken) for name, taken in seconds.items()}


@torch.inference_mode()
def main() -> None:
    sizes = parse_arguments()
    torch.set_num_threads(sizes.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, sizes.dtype)
    print(
        f"B={sizes.batch} M={sizes.side**2} N={sizes.tokens}, {sizes.share:.0%} copied, {sizes.dtype}, {sizes.device}, "
        f"{sizes.threads} thread(s), median of {sizes.repeats}"
    )
    parts = {
        f"merge alone, D={MERGE_WIDTH}": merge_runs,
        f"whole forward, D={sizes.text_dim}, {sizes.depth} layers": forward_runs,
    }
    for title, build in parts.items():
        runs, lengths = build(sizes, dtype)
        times = median_times(runs, sizes)
        print(f"\n{title:42}{'tokens':>7}{'ms':>10}{'more ms':>10}{'more':>9}")
        for name, ms in times.items():
            more = ms - times[OFF]
            print(f"{name:42}{lengths[name]:7}{ms:10.2f}{more:10.2f}{more / times[OFF]:9.1%}")


if __name__ == "__main__":
    main()
