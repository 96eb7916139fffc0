"""The converted tower is the graph's backbone: a tiny graph stands in for the fetched one."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model

from llava.errors import UserError
from llava.model.multimodal_encoder.builder import build_vision_tower

onnx = pytest.importorskip("onnx", reason="of the photos extra")

from onnx import helper, numpy_helper  # noqa: E402

from playground.photos import dino  # noqa: E402

CONFIG = Dinov2Config(
    architectures=["Dinov2Model"], hidden_size=8, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2,
    patch_size=14, image_size=42,
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Dinov2Model(CONFIG).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def graph_of(model, folder):
    """As the exporter left it: biases by their names, matrices transposed and anonymous, the position table in two."""
    model.save_pretrained(folder / "hub")
    weights = {name: value.numpy() for name, value in load_file(folder / "hub" / "model.safetensors").items()}
    positions = weights.pop("embeddings.position_embeddings")
    del weights["embeddings.mask_token"]
    tensors = {"onnx::Concat_1": positions[:, :1], "onnx::Reshape_2": positions[:, 1:], "decoder.weight": positions}
    nodes = []
    for number, (name, value) in enumerate(weights.items()):
        if value.ndim == 2:
            tensors[f"onnx::MatMul_{number}"] = value.T.copy()
            path = (
                name.removesuffix(".weight").replace("layer.", "layer_").replace(".", "/").replace("layer_", "layer.")
            )
            nodes.append(
                helper.make_node("MatMul", ["x", f"onnx::MatMul_{number}"], ["y"], name=f"/backbone/{path}/MatMul")
            )
        else:
            tensors[f"backbone.{name}"] = value
    initializers = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    nodes.append(helper.make_node("MatMul", ["y", "decoder.weight"], ["z"], name="/decoder/MatMul"))
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", [], [], initializers)), folder / "graph.onnx")
    return folder / "graph.onnx"


def test_the_tower_is_the_backbone(model, tmp_path, monkeypatch):
    monkeypatch.setattr(dino, "dinov2_config", lambda: CONFIG)
    folder = tmp_path / "tower"
    folder.mkdir()
    dino.make(folder, graph_of(model, tmp_path), dino.Recipe(side=28))
    tower = build_vision_tower(SimpleNamespace(vision_tower=str(folder), mm_vision_select_layer=-1))
    assert (tower.num_patches, tower.hidden_size) == (4, 8)
    assert tower.image_processor.image_mean == pytest.approx([0.485, 0.456, 0.406])
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = model(images, output_hidden_states=True).hidden_states[-1][:, 1:]
    assert torch.equal(tower(images), expected)


def test_another_graph_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(dino, "dinov2_config", lambda: CONFIG)
    graph = onnx.load(graph_of(model, tmp_path))
    del graph.graph.node[3]
    onnx.save(graph, tmp_path / "graph.onnx")
    with pytest.raises(UserError, match=r"is not a DINOv2-S/14 as we know it: missing_keys"):
        dino.make(tmp_path, tmp_path / "graph.onnx", dino.Recipe())
