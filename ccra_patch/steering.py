"""How much of what a CCRA checkpoint does to a picture is the question's doing?

::

    python -m ccra_patch.steering --model-path checkpoints/... --conv-mode mistral_instruct \\
        --question-file playground/data/photos/gqa/llava_gqa_test_cutouts_balanced.jsonl \\
        --image-folder playground/data/photos/gqa/data/images --output steering.json

The question file is that of ``llava.eval.model_vqa_loader``. What counts is what changes between questions about the
same picture, so questions whose picture is asked about once, among those that ``--first`` leaves, are passed over.

- *question share* of a map: how much of its variance is between questions, 0 if it is the same whatever is asked. With
  the map's scores ``W[q, n]`` of a picture's Q questions, population variances throughout, and both sums over pictures:

      share = sum mean_n var_q W / (sum mean_n var_q W + sum var_n mean_q W)

  This is of all variance over q and n, as the law of total variance divides it. Features are multiplied by ``1 + W``,
  so a question that raises all scores alike counts. Maps that have nothing to do with each other have a share of
  ``1 - 1/Q`` (reported as *unrelated*, the mean over pictures), and only opposite ones come to 1. The standard error
  is the jackknife's over pictures (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, Eq. 11.5).
- *spread* of a map: the standard deviation of its scores over n, mean over questions. A share of a map that is flat
  says nothing.
- *token importance*: the entropy of alpha (Eq. 2) divided by the logarithm of the number of the question's tokens, 1 if
  all count alike; and the weight of the heaviest token.
- *opened*: the root mean square of the weights by which the projector reads ``F_regional``, divided by that of those
  by which it reads the selected layer. 0 where CCRA starts from a plain adapter.

n runs over patches for LPWCA (layer by layer, and over all layers together) and for PWCA, and over layers for LWCA,
whose scores are those before smoothing. A step that the model leaves out is not in the report.

Shapes: B images, L layers, N patches, T query tokens, M scores of a map.
"""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ccra_patch.attention import LPWCA, LWCA, PWCA
from ccra_patch.markdown import markdown_table, number_cell
from ccra_patch.observing import (
    add_checkpoint_arguments,
    add_question_arguments,
    checkpoint_asked,
    file_asked,
    read_items,
    require_counts,
)
from ccra_patch.projector import CCRAProjector
from ccra_patch.recorder import Call
from ccra_patch.summary import estimate
from llava.errors import UserError, exit_on_user_error
from llava.eval.items import Item
from llava.eval.observe import Checkpoint, observe
from llava.eval.provenance import environment
from llava.eval.records import write_json


def maps_of(call: Call, row: int, layers: Sequence[int]) -> dict[str, Tensor]:
    """One image's scores ``[M]`` by map; of the steps that the model has, on the hidden states ``layers``."""
    scores = {name: value[row].double().cpu() for name, value in vars(call.maps).items()}
    found: dict[str, Tensor] = {}
    if isinstance(call.attention.lpwca, LPWCA):
        found |= {f"LPWCA, layer {index}": scores["lpwca"][place] for place, index in enumerate(layers)}
        found["LPWCA, all layers"] = scores["lpwca"].flatten()
    if isinstance(call.attention.lwca, LWCA):
        found["LWCA"] = scores["layer_scores"]
    if isinstance(call.attention.pwca, PWCA):
        found["PWCA"] = scores["pwca"]
    return found


@dataclass
class Asked:
    """One map of one picture over the questions about it, none of which is kept (Welford, Technometrics 4, 1962).

    Attributes:
        questions: Q so far.
        mean: ``[M]``, over them.
        squares: ``[M]``, sum of the squared differences from it.
    """

    questions: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, scores: Tensor) -> None:
        """Scores ``[M]`` of one more question."""
        self.questions += 1
        before = scores - self.mean
        self.mean = self.mean + before / self.questions
        self.squares = self.squares + before * (scores - self.mean)

    @property
    def between(self) -> float:
        """``mean_n var_q W``: between the questions."""
        return self.squares.mean().item() / self.questions

    @property
    def common(self) -> float:
        """``var_n mean_q W``: of what all questions have in common."""
        return self.mean.var(correction=0).item()


def question_share(pictures: Sequence[Asked]) -> dict[str, float | None]:
    """A map's question share over pictures, and its standard error; None for a flat map, and for a single picture."""
    between = torch.tensor([picture.between for picture in pictures], dtype=torch.float64)
    total = between + torch.tensor([picture.common for picture in pictures], dtype=torch.float64)
    share = between.sum() / total.sum()
    without = (between.sum() - between) / (total.sum() - total)  # each picture in turn
    error = (without.var(correction=0) * (len(pictures) - 1)).sqrt()
    numbers = {"share": share.item(), "standard_error": error.item()}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def evenness(alpha: Tensor) -> Tensor:
    """Entropy of token importance ``[B, T]`` by that of as many tokens alike: ``[B]``. Less than two tokens are even.

    Padding has no weight, and tokens of the question always have some.
    """
    tokens = (alpha > 0).sum(dim=1)
    entropy = torch.special.entr(alpha).sum(dim=1)
    return torch.where(tokens > 1, entropy / tokens.clamp(min=2).log(), 1.0)


@torch.no_grad()
def opened(projector: CCRAProjector) -> float:
    """Size of the weights that read ``F_regional``, by that of those that read the selected layer."""
    regional, selected = (part.weight.double().square().mean() for part in (projector.regional, projector.selected))
    return (regional / selected).sqrt().item()


def asked_again(items: Sequence[Item]) -> list[Item]:
    """The questions whose picture has another one, too."""
    times = Counter(item.images[0] for item in items if item.images)
    return [item for item in items if item.images and times[item.images[0]] > 1]


def measure(
    checkpoint: Checkpoint, items: Sequence[Item], **options: Any
) -> tuple[list[dict[str, Any]], dict[str, list[Asked]]]:
    """One record per question: its id, what alpha is like, and each map's spread. And the pictures, by map."""
    records = []
    pictures: dict[str, dict[str | bytes, Asked]] = defaultdict(lambda: defaultdict(Asked))
    for batch, call in observe(checkpoint, items, **options):
        alpha = call.maps.alpha.double()
        even, heaviest = evenness(alpha).tolist(), alpha.amax(dim=1).tolist()
        for row, item in enumerate(batch):
            maps = maps_of(call, row, checkpoint.layers)
            for name, scores in maps.items():
                pictures[name][item.images[0]].add(scores)
            records.append(
                {
                    "question_id": item.record["question_id"],
                    "entropy": even[row],
                    "heaviest": heaviest[row],
                    "spread": {name: scores.std(correction=0).item() for name, scores in maps.items()},
                }
            )
    return records, {name: list(found.values()) for name, found in pictures.items()}


def summarise(records: Sequence[Mapping[str, Any]], pictures: Mapping[str, Sequence[Asked]]) -> dict[str, Any]:
    """Token importance and spread as means over questions, shares over pictures; each with its standard error."""
    return {
        "token_importance": {key: estimate([record[key] for record in records]) for key in ("entropy", "heaviest")},
        "maps": {
            name: {
                "question_share": question_share(found),
                "spread": estimate([record["spread"][name] for record in records]),
            }
            for name, found in pictures.items()
        },
    }


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: a row per map, then the model's other numbers."""
    maps = [["map", "question share", "spread"]]
    for name, numbers in summary["maps"].items():
        maps.append([name, *(number_cell(*numbers[key].values()) for key in ("question_share", "spread"))])
    maps.append(["unrelated maps", number_cell(summary["unrelated"], None), ""])
    others = [["", ""]]
    importance = summary["token_importance"]
    others.append(["token importance: entropy / log T", number_cell(*importance["entropy"].values())])
    others.append(["token importance: heaviest token", number_cell(*importance["heaviest"].values())])
    others.append(["opened: regional / selected", number_cell(summary["opened"], None)])
    return f"{markdown_table(maps)}\n\n{markdown_table(others)}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccra_patch.steering", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_checkpoint_arguments(parser, output="steering.json")
    add_question_arguments(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    require_counts(args)
    items = read_items(args)
    chosen = asked_again(items)
    if not chosen:
        raise UserError(
            f"the {len(items)} questions of {args.question_file} ask about no picture twice; "
            "give a file with several questions about a picture, or a higher --first"
        )
    checkpoint = Checkpoint.load(args.model_path, args.model_base)
    records, pictures = measure(
        checkpoint, chosen, conv_mode=args.conv_mode, batch_size=args.batch_size, workers=args.workers
    )
    times = Counter(item.images[0] for item in chosen)
    summary = {
        **summarise(records, pictures),
        "unrelated": fmean(1 - 1 / count for count in times.values()),
        "opened": opened(checkpoint.model.get_model().mm_projector),
    }
    print(table(summary))
    report = {
        "checkpoint": checkpoint_asked(args),
        "questions": {
            **file_asked(args),
            "measured": len(records),
            "pictures": len(times),
            "passed_over": len(items) - len(records),
        },
        "layers": list(checkpoint.layers),
        "summary": summary,
        "environment": environment(),
        "records": records,
    }
    write_json(args.output, report, indent=1)


if __name__ == "__main__":
    main()
