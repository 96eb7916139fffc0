"""Does attention fall on what the question is about? CCRA's maps against the masks of a set in GQA's format.

::

    python -m ccra_patch.pointing --model-path checkpoints/... --gqa playground/data/photos/gqa \\
        --tier test_cutouts_balanced --conv-mode mistral_instruct --output pointing.json

The set's questions name the objects that they are about (``annotations.question``), and ``masks/<imageId>.png`` tells
which pixels show which object: 1 + its place in the scene graph, 0 for the background. Questions about nothing that is
in the picture are passed over. Pictures must be squares, which the patch grid covers whole.

A map's scores ``W`` have either sign, and the features are multiplied by ``1 + W``. So it is a matter of reading where
its mass lies, and three readings are reported:

- ``positive``: ``max(W, 0)``, what is brought out. A map without a positive score brings out nothing: uniform.
- ``factor``: ``|1 + W|``, what a normalised patch is as large as afterwards; its sign is the model's to read.
- ``softmax``: of ``W`` over the patches, the distribution of Table 2's metrics.

For each, *energy* is the share of the mass on the object, a patch counting by how much of it the object covers, and
*pointing* the covered share of the patch with the most mass, the chance that a point of it is a hit. Both are the
object's share of the picture's area for a map that knows nothing. A map that only knows where things are would favour
the picture's other objects as much: they stand beside, with an area of their own. LPWCA's maps are reported layer by
layer, and as their mean weighted by LWCA.

Shapes: L layers, N patches (a square grid, row by row), H and W pixels.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import reduce
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ccra_patch.attention import LPWCA, PWCA
from ccra_patch.markdown import markdown_table
from ccra_patch.observing import add_checkpoint_arguments, checkpoint_asked, require_counts
from ccra_patch.recorder import Call
from ccra_patch.summary import estimate
from llava.errors import UserError, exit_on_user_error
from llava.eval.model_vqa_loader import question_to_item
from llava.eval.observe import Checkpoint, observe
from llava.eval.provenance import environment
from llava.eval.records import read_json, read_json_lines, write_json

LAYER = "LPWCA, layer "


@dataclass(frozen=True)
class Truth:
    """What a question is about, on the patch grid.

    Attributes:
        asked: ``[N]``, how much of each patch the objects that are asked about cover, 0 to 1.
        others: ``[N]``, the same of all other objects.
    """

    asked: Tensor
    others: Tensor


def coverage(shown: Tensor, side: int) -> Tensor:
    """How much of each patch is shown: ``[H, W]`` bool -> ``[side * side]``."""
    return adaptive_avg_pool2d(shown.double()[None], side).flatten()


def read_truth(mask: Path, objects: Sequence[str], asked: Sequence[str], side: int) -> Truth:
    """From a picture's mask, its objects' ids in the scene graph's order, and which of them are asked about.

    Raises UserError for a mask that is not a square.
    """
    from PIL import Image

    with Image.open(mask) as picture:
        pixels = torch.from_numpy(np.array(picture))
    if pixels.ndim != 2 or pixels.shape[0] != pixels.shape[1]:
        raise UserError(f"{mask} has the shape {list(pixels.shape)}; masks must be squares with one value a pixel")
    wanted = torch.tensor([1 + objects.index(name) for name in asked])
    is_asked = torch.isin(pixels, wanted.to(pixels.dtype))
    return Truth(coverage(is_asked, side), coverage((pixels > 0) & ~is_asked, side))


def masses(scores: Tensor) -> dict[str, Tensor]:
    """A map's scores ``[..., N]`` as distributions over the patches, by reading."""
    uniform = torch.full_like(scores, 1 / scores.shape[-1])
    positive, factor = scores.clamp(min=0), (1 + scores).abs()

    def share(values: Tensor) -> Tensor:
        total = values.sum(dim=-1, keepdim=True)
        return torch.where(total > 0, values / total.where(total > 0, 1), uniform)

    return {"positive": share(positive), "factor": share(factor), "softmax": scores.softmax(dim=-1)}


def score(mass: Tensor, truth: Truth) -> dict[str, float]:
    """One map's distribution ``[N]`` against the truth. Of several highest patches, all point."""
    highest = mass == mass.max()
    return {
        "energy": (mass @ truth.asked).item(),
        "pointing": truth.asked[highest].mean().item(),
        "area": truth.asked.mean().item(),
        "others_energy": (mass @ truth.others).item(),
        "others_pointing": truth.others[highest].mean().item(),
        "others_area": truth.others.mean().item(),
    }


def maps_of(call: Call, row: int, layers: Sequence[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """One image's maps by name, each by reading; of the steps that the model has, on the hidden states ``layers``."""
    maps = {name: value[row].double() for name, value in vars(call.maps).items()}
    if isinstance(call.attention.pwca, PWCA):
        yield "PWCA", masses(maps["pwca"])
    if isinstance(call.attention.lpwca, LPWCA):
        by_layer = masses(maps["lpwca"])
        yield "LPWCA", {reading: maps["layer_weights"] @ mass for reading, mass in by_layer.items()}
        for place, index in enumerate(layers):
            yield f"{LAYER}{index}", {reading: mass[place] for reading, mass in by_layer.items()}


@dataclass(frozen=True)
class Asked:
    """A question with the objects that it is about."""

    line: dict[str, Any]
    kind: str
    mask: Path
    objects: tuple[str, ...]
    asked: tuple[str, ...]


def read_questions(gqa: Path, tier: str) -> list[Asked]:
    """The questions of a tier that are about something in their picture. Raises UserError if there is none."""
    entries = read_json(gqa / "data" / f"{tier}_questions.json", "a GQA questions file")
    graphs = read_json(gqa / "sceneGraphs" / f"{tier.rpartition('_')[0]}_sceneGraphs.json", "GQA scene graphs")
    found = []
    for line in read_json_lines(str(gqa / f"llava_gqa_{tier}.jsonl")):
        entry = entries[line["question_id"]]
        objects = tuple(graphs[entry["imageId"]]["objects"])
        # GQA joins several objects of one word by commas
        asked = tuple(dict.fromkeys(",".join(entry["annotations"]["question"].values()).split(",")))
        if asked != ("",):
            mask = gqa / "masks" / f"{entry['imageId']}.png"
            found.append(Asked(line, entry["types"]["detailed"], mask, objects, asked))
    if not found:
        raise UserError(f"{tier} has no question with annotations of the objects that it is about; give another --tier")
    return found


def measure(checkpoint: Checkpoint, questions: Sequence[Asked], folder: Path, **options: Any) -> list[dict[str, Any]]:
    """One record per question: its id and kind, LWCA's weights, and by map and reading what :func:`score` says."""
    by_id = {question.line["question_id"]: question for question in questions}
    items = [question_to_item(question.line, str(folder)) for question in questions]
    records = []
    for batch, call in observe(checkpoint, items, **options):
        side = math.isqrt(call.stack.shape[2])
        for row, item in enumerate(batch):
            question = by_id[item.record["question_id"]]
            truth = read_truth(question.mask, question.objects, question.asked, side)
            maps = {
                name: {reading: score(mass.cpu(), truth) for reading, mass in readings.items()}
                for name, readings in maps_of(call, row, checkpoint.layers)
            }
            weights = call.maps.layer_weights[row].tolist()
            records.append(
                {
                    "question_id": item.record["question_id"],
                    "kind": question.kind,
                    "layer_weights": weights,
                    "maps": maps,
                }
            )
    return records


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard error over questions by map, reading and number; and the mean layer weights."""

    first = records[0]["maps"]
    return {
        "layer_weights": reduce(
            torch.tensor([record["layer_weights"] for record in records]), "q l -> l", "mean"
        ).tolist(),
        "maps": {
            name: {
                reading: {
                    number: estimate([record["maps"][name][reading][number] for record in records])
                    for number in numbers
                }
                for reading, numbers in readings.items()
            }
            for name, readings in first.items()
        },
    }


def table(summary: Mapping[str, Any]) -> str:
    """Markdown, in percent: a row per map and reading; single layers by their positive scores only."""
    lines = [["map", "mass", "on the object", "its area", "pointing", "on others", "their area", "pointing there"]]
    keys = ("energy", "area", "pointing", "others_energy", "others_area", "others_pointing")
    for name, readings in summary["maps"].items():
        for reading, numbers in readings.items():
            if name.startswith(LAYER) and reading != "positive":
                continue
            lines.append([name, reading, *(_percent(numbers[key]) for key in keys)])
    return markdown_table(lines)


def _percent(cell: Mapping[str, float | None]) -> str:
    mean, error = cell["mean"], cell["standard_error"]
    assert mean is not None
    return f"{100 * mean:.1f}" if error is None else f"{100 * mean:.1f} ± {100 * error:.1f}"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccra_patch.pointing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gqa", type=Path, required=True, help="folder with questions, scene graphs, masks, pictures")
    parser.add_argument("--tier", required=True, help="which questions: <gqa>/data/<tier>_questions.json")
    add_checkpoint_arguments(parser, output="pointing.json")
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    require_counts(args)
    questions = read_questions(args.gqa, args.tier)[: args.first]
    checkpoint = Checkpoint.load(args.model_path, args.model_base)
    records = measure(
        checkpoint, questions, args.gqa / "data" / "images", conv_mode=args.conv_mode, batch_size=args.batch_size
    )
    summary = summarise(records)
    print(table(summary))
    report = {
        "checkpoint": checkpoint_asked(args),
        "questions": {"folder": str(args.gqa), "tier": args.tier, "measured": len(records)},
        "layers": list(checkpoint.layers),
        "summary": summary,
        "by_kind": {
            kind: summarise([record for record in records if record["kind"] == kind])
            for kind in dict.fromkeys(record["kind"] for record in records)
        },
        "environment": environment(),
        "records": records,
    }
    write_json(args.output, report, indent=1)


if __name__ == "__main__":
    main()
