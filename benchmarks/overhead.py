"""What ccra costs a whole model beside mlp2x_gelu: measured at a small size, calculated at LLaVA-1.5-7B's.

    python benchmarks/overhead.py                  # a random model, small enough for a laptop; part of `make bench`
    python benchmarks/overhead.py --device cuda --dtype bfloat16 --text-dim 4096 --depth 32 --vision-dim 1024 \
        --vision-depth 24

A training step is stage 2's: forward, backward and AdamW's update of everything but the tower. Generation is the prompt
and 16 new tokens, greedily. The two take turns (see turns.py), and each round gives one ratio of its two times: printed
are the medians, and the middle half of the ratios. A difference smaller than that half is wide has not been seen, so
the model measured by default is small enough for the projector to weigh something in it.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from random_llava import BEGIN, CLOSE, OPEN, PATCH, VOCABULARY, WORD, build_model  # noqa: E402
from turns import take_turns  # noqa: E402

from llava.constants import IMAGE_TOKEN_INDEX  # noqa: E402

PROJECTORS = ("mlp2x_gelu", "ccra")
NEW_TOKENS = 16


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one sample, in multiply-adds times two, and parameters."""

    prompt: float
    training: float
    parameters: int


@dataclass(frozen=True)
class Sizes:
    """LLaVA-1.5-7B by default: ViT-L/14-336 and Vicuna-7B, a question of 32 tokens and 64 more of text."""

    layers: int = 24
    patches: int = 576
    vision_dim: int = 1024
    text_dim: int = 4096
    depth: int = 32
    feed_forward: int = 11008
    vocabulary: int = 32000
    hidden_dim: int = 128
    question: int = 32
    other_text: int = 64

    def tower(self, blocks: int) -> float:
        """One forward of so many blocks over patches and class token."""
        tokens, width = self.patches + 1, self.vision_dim
        return blocks * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)

    def language_model(self) -> tuple[float, int]:
        """One forward over picture and text, and parameters; attention is causal, so half of it counts."""
        tokens, width = self.patches + self.question + self.other_text, self.text_dim
        block = 4 * width**2 + 3 * width * self.feed_forward
        parameters = self.depth * block + 2 * self.vocabulary * width
        work = 2 * tokens * (self.depth * block + self.vocabulary * width) + self.depth * 2 * tokens**2 * width
        return work, parameters

    def mlp2x_gelu(self) -> Work:
        per_patch = self.vision_dim * self.text_dim + self.text_dim**2
        work = 2 * self.patches * per_patch
        return self._whole(blocks=self.layers - 1, projector=work, backward=2 * work, parameters=per_patch)

    def ccra(self) -> Work:
        """The widened MLP and the attention stack, as the lean implementation computes it."""
        width, wide, h = self.vision_dim, self.text_dim, self.hidden_dim
        per_patch = 2 * width * wide + wide**2
        stack = self.layers * self.patches * width
        reads = (2 * 2 + 1 + 2) * stack + 2 * stack  # two products, sum and norm; the weighted sum
        tokens = 2 * self.question * (3 * wide * h + wide) + 4 * self.question**2 * h
        probes = 3 * 2 * (wide * h + h * width)
        fused = 20 * self.patches * width  # two norms, one product and their modulation
        linear = 2 * self.patches * per_patch
        work = linear + reads + tokens + probes + fused
        backward = 2 * (linear + tokens + probes + fused) + (2 * 2 + 3) * stack  # the stack itself has no gradient
        attention = 3 * (wide * h + width * h + 2 * h) + 3 * (wide * h + h) + h + 1 + 6 * width
        return self._whole(blocks=self.layers, projector=work, backward=backward, parameters=per_patch + attention)

    def _whole(self, blocks: int, projector: float, backward: float, parameters: int) -> Work:
        language, language_parameters = self.language_model()
        prompt = self.tower(blocks) + projector + language
        return Work(prompt, prompt + backward + 2 * language, language_parameters + parameters)


def print_calculation(sizes: Sizes) -> None:
    """Work and memory at the given sizes, without running anything."""
    plain, ccra = sizes.mlp2x_gelu(), sizes.ccra()
    print(
        f"\ncalculated, L={sizes.layers} N={sizes.patches} d={sizes.vision_dim} D={sizes.text_dim} "
        f"h={sizes.hidden_dim}, {sizes.question + sizes.other_text} tokens of text\n"
        f"{'':26}{'mlp2x_gelu':>14}{'ccra':>14}{'more':>9}"
    )
    rows = {
        "prompt, GFLOP": (plain.prompt / 1e9, ccra.prompt / 1e9),
        "training step, GFLOP": (plain.training / 1e9, ccra.training / 1e9),
        "trained parameters, M": (plain.parameters / 1e6, ccra.parameters / 1e6),
    }
    for name, (before, after) in rows.items():
        print(f"{name:26}{before:14,.3f}{after:14,.3f}{after / before - 1:9.2%}")
    stack = sizes.layers * sizes.patches * sizes.vision_dim
    print(
        f"a new token costs the same; the layer stack is {2 * stack / 2**20:.0f} MB a picture in bfloat16, "
        "kept until the backward pass"
    )


def prompts(batch: int, tokens: int, device: str) -> Tensor:
    """``[B, S]``: a turn's opening, the picture, the question, its end, and as many tokens of answer."""
    words = torch.randint(WORD, VOCABULARY, (batch, 2 * tokens))
    opening = torch.tensor([BEGIN, OPEN, IMAGE_TOKEN_INDEX]).expand(batch, -1)
    closing = torch.full((batch, 1), CLOSE)
    return torch.cat([opening, words[:, :tokens], closing, words[:, tokens:]], dim=1).to(device)


def build_runs(projector: str, given: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """The two things that are measured, with a model of their own."""
    torch.manual_seed(0)
    dtype = getattr(torch, given.dtype)
    settings: dict[str, object] = {"mm_projector_type": projector}
    if projector == "ccra":
        settings["mm_ccra_hidden_dim"] = hidden_dim(given)
    sizes = (given.text_dim, given.depth, given.vision_dim, given.vision_depth, given.side)
    model = build_model(*sizes, dtype, given.device, **settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    ids = prompts(given.images, given.tokens, given.device)
    question = ids[:, : -given.tokens]
    pictures = torch.randn(given.images, 3, given.side * PATCH, given.side * PATCH, dtype=dtype, device=given.device)

    def train() -> None:
        model(ids, images=pictures, labels=ids.clamp(min=0)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def generate() -> None:
        lengths = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
        model.generate(question, images=pictures, do_sample=False, pad_token_id=0, **lengths)

    return {"training step": train, f"generation of {NEW_TOKENS}": generate}


def print_measurement(given: argparse.Namespace) -> None:
    """Both projectors in the same model."""
    runs = {(name, kind): run for name in PROJECTORS for kind, run in build_runs(name, given).items()}
    seconds = take_turns(runs, given.repeats, given.device, given.threads)
    print(
        f"\nmeasured, B={given.images} N={given.side**2} d={given.vision_dim} ({given.vision_depth} layers) "
        f"D={given.text_dim} ({given.depth} layers), {given.dtype}, {given.device}, {given.threads} thread(s), "
        f"{given.repeats} rounds\n{'':26}{'mlp2x_gelu, ms':>14}{'ccra, ms':>14}{'more':>9}   half of the rounds"
    )
    for kind in dict.fromkeys(kind for _, kind in runs):
        plain, ccra = (seconds[name, kind] for name in PROJECTORS)
        low, middle, high = statistics.quantiles(after / before - 1 for before, after in zip(plain, ccra, strict=True))
        before, after = (1000 * statistics.median(times) for times in (plain, ccra))
        print(f"{kind:26}{before:14.1f}{after:14.1f}{middle:9.1%}   {low:.1%} to {high:.1%}")


def measured_sizes(given: argparse.Namespace) -> Sizes:
    """What the measured model is, to calculate its work; its feed-forward has Llama's proportions."""
    return Sizes(
        layers=given.vision_depth,
        patches=given.side**2,
        vision_dim=given.vision_dim,
        text_dim=given.text_dim,
        depth=given.depth,
        feed_forward=int(2.6875 * given.text_dim),
        vocabulary=VOCABULARY,
        hidden_dim=hidden_dim(given),
        question=given.tokens,
        other_text=given.tokens,
    )


def hidden_dim(given: argparse.Namespace) -> int:
    """h of the measured projector."""
    return min(128, given.vision_dim)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the measured model."""
    parser.add_argument("--text-dim", type=int, default=256, help="D of the measured model (default 256)")
    parser.add_argument("--depth", type=int, default=2, help="layers of its language model (default 2)")
    parser.add_argument("--vision-dim", type=int, default=256, help="d (default 256)")
    parser.add_argument("--vision-depth", type=int, default=12, help="layers of its tower (default 12)")
    parser.add_argument("--side", type=int, default=12, help="patches per side of a picture (default 12)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=2, help="samples, each with a picture (default 2)")
    parser.add_argument("--tokens", type=int, default=32, help="of the question, and of the answer (default 32)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=31, help="rounds (default 31)")
    given = parser.parse_args()
    if given.repeats < 2:
        parser.error(f"--repeats is {given.repeats}; it must be at least 2, or nothing is known about their spread")
    torch.set_num_threads(given.threads)
    print_measurement(given)
    print_calculation(measured_sizes(given))
    print_calculation(Sizes())


if __name__ == "__main__":
    main()
