"""Towers, merge, losses, logits, gradients and generated ids against upstream's, on upstream's tiny checkpoints."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from llava.model import LlavaLlamaForCausalLM
from llava.model.builder import load_config, read_json
from llava.model.multimodal_encoder.builder import build_vision_tower

MODELS = {
    "linear": "llava_tiny_linear",
    "mlp2x_gelu": "llava_tiny_mlp2x_gelu",
    "identity": "llava_tiny_identity",
    "anyres": "llava_tiny_anyres_unpad",
}


@pytest.fixture(scope="module")
def arrays(goldens):
    return np.load(goldens / "model" / "arrays.npz")


@pytest.fixture(scope="module")
def cases(goldens):
    return json.loads((goldens / "model" / "cases.json").read_text())


@pytest.fixture(scope="module")
def load(assets):
    """A tiny upstream checkpoint as our model, in float32 with its tower; a fresh one at each call."""

    def loader(name: str) -> LlavaLlamaForCausalLM:
        path = str(assets / name)
        config, model_class = load_config(read_json(f"{path}/config.json"), path)
        model, info = model_class.from_pretrained(
            path, config=config, dtype=torch.float32, output_loading_info=True, attn_implementation="sdpa"
        )
        assert not info["missing_keys"]
        model.get_vision_tower().load_model()
        return model.eval()

    return loader


def pictures(arrays, shape):
    """The pictures of a case, by the shape that was recorded for them."""
    padded = torch.from_numpy(arrays["images_pad_4x3x28x28"])
    if shape is None:
        return None
    if isinstance(shape[0], int):
        return padded[: shape[0]] if len(shape) == 4 else padded[: shape[0]].unsqueeze(1)
    if len(shape[0]) == 3:
        return list(padded[: len(shape)])
    tiles = [torch.from_numpy(arrays[f"anyres_images/{i}"]) for i in range(3)]
    if shape[0][0] > 2:
        return tiles
    counts = [s[0] for s in shape]
    if counts == [1, 2, 1]:
        return [padded[0:1], padded[1:3], padded[3:4]]
    return [tile[:1] for tile in tiles]


def labels_of(ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The rule the goldens were recorded with."""
    labels = ids.clone()
    for row in range(len(ids)):
        real = valid[row].nonzero().flatten()
        labels[row, real[: len(real) // 2]] = -100
    labels[(ids < 0) | ~valid] = -100
    return labels


RECORDED = Path(__file__).parents[2] / "goldens" / "model"
CASES = json.loads((RECORDED / "cases.json").read_text())["cases"]
GENERATED = json.loads((RECORDED / "generate.json").read_text())


def inputs_of(case, model, arrays):
    for key, value in case["config"].items():
        setattr(model.config, key, value)
    ids = torch.tensor(case["input_ids"])
    valid = ids != 0
    return {
        "input_ids": ids,
        "attention_mask": valid if case["mask_given"] else None,
        "position_ids": torch.arange(ids.shape[1]).expand_as(ids) if case["position_ids_given"] else None,
        "labels": labels_of(ids, valid) if case["labels_given"] else None,
        "images": pictures(arrays, case["images"]),
        "image_sizes": case["image_sizes"],
    }


@pytest.mark.parametrize("name", [name for name in CASES if "exception" not in CASES[name]])
def test_merge_loss_and_logits(name, load, arrays, cases):
    case = cases["cases"][name]
    model = load(MODELS[name.split("/")[0]])
    if name.startswith("anyres") and "anyres/image_newline" in arrays:
        torch.testing.assert_close(model.model.image_newline.data, torch.from_numpy(arrays["anyres/image_newline"]))
    inputs = inputs_of(case, model, arrays)

    ids, positions, mask, past, embeds, labels = model.prepare_inputs_labels_for_multimodal(
        inputs["input_ids"], inputs["position_ids"], inputs["attention_mask"], None, inputs["labels"],
        inputs["images"], inputs["image_sizes"],
    )  # fmt: skip
    assert past is None
    if case["out_inputs_embeds"] is None:
        assert embeds is None
        assert ids is not None
    else:
        assert ids is None
        assert list(embeds.shape) == case["out_inputs_embeds"]["shape"]
        np.testing.assert_allclose(embeds.detach()[..., ::8], arrays[f"{name}/inputs_embeds"], atol=1e-5)
    for ours, recorded in ((positions, "out_position_ids"), (mask, "out_attention_mask"), (labels, "out_labels")):
        if case[recorded] is None:
            assert ours is None, recorded
        else:
            assert ours.dtype == getattr(torch, case[recorded]["dtype"].split(".")[1])
            assert ours.long().tolist() == case[recorded]["values"], recorded

    output = model(**inputs)
    logits = output.logits.detach()
    # What stands at padding is nobody's business, and differs between attention implementations.
    real = torch.ones(logits.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    np.testing.assert_allclose(logits[real][:, :8], arrays[f"{name}/logits_first8"][real], atol=2e-5)
    np.testing.assert_allclose(logits[real].logsumexp(-1), arrays[f"{name}/logsumexp"][real], atol=2e-5)
    if case["loss"] is None:
        assert output.loss is None
    elif math.isnan(case["loss"]):
        assert output.loss.isnan()
    else:
        assert output.loss.item() == pytest.approx(case["loss"], abs=1e-5)
    if "grad_norms" in case:
        output.loss.backward()
        norms = {n: p.grad.norm().item() for n, p in model.named_parameters() if p.grad is not None}
        assert norms == pytest.approx(case["grad_norms"], abs=1e-5, rel=1e-4)


def test_too_few_images_says_how_many(load, arrays, cases):
    inputs = inputs_of(cases["cases"]["mlp2x_gelu/too_few_images"], model := load(MODELS["mlp2x_gelu"]), arrays)
    with pytest.raises(IndexError, match=r"has 2 images but its 3 samples use 3"):
        model(**inputs)


def test_one_token_prompt_with_a_picture_is_embedded(load, arrays):
    """Upstream hands such a prompt to ``generate`` as neither ids nor embeddings (defect M8)."""
    model = load(MODELS["mlp2x_gelu"])
    ids = torch.tensor([[5]])
    out = model.prepare_inputs_labels_for_multimodal(ids, None, None, None, None, pictures(arrays, [1, 3, 28, 28]))
    torch.testing.assert_close(out[4], model.model.embed_tokens(ids))


@pytest.mark.parametrize("tower_name", ["clip_tiny", "clip_tiny64", "clip_full_tiny"])
def test_tower(tower_name, assets, arrays):
    images = torch.from_numpy(arrays["images_pad_4x3x28x28"])
    for key in arrays:
        parts = key.split("/")
        if parts[:2] != ["vision", tower_name]:
            continue
        args = type("Args", (), {})()
        args.mm_vision_tower = str(assets / tower_name)
        args.mm_vision_select_layer = int(parts[2].removeprefix("layer"))
        args.mm_vision_select_feature = parts[3]
        tower = build_vision_tower(args)
        out = tower(images)
        np.testing.assert_allclose(out[..., ::4], arrays[key], atol=1e-5, err_msg=key)
        listed = tower(list(images))
        assert isinstance(listed, list)
        assert listed[0].shape == out[:1].shape
        torch.testing.assert_close(torch.cat(listed), out)
        assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_state_dict_names_are_upstreams(load, goldens):
    recorded = json.loads((goldens / "model" / "state_dicts.json").read_text())
    linear = {name: shape for name, (shape, *_) in recorded["llava_tiny_linear"]["state_dict_with_tower"].items()}
    assert {name: list(value.shape) for name, value in load("llava_tiny_linear").state_dict().items()} == linear
    for name in ("llava_tiny_mlp2x_gelu", "llava_tiny_anyres_unpad"):
        names = set(load(name).state_dict())
        assert set(recorded[name]["state_dict_with_tower"]) <= names
        assert len(names) == recorded[name]["n_keys_with_tower"]


RIGHT_PADDED = [case for case in GENERATED if case["name"].startswith("batch_right")]


@pytest.mark.parametrize(
    "case", [c for c in GENERATED if c not in RIGHT_PADDED], ids=lambda case: f"{case['model']}-{case['name']}"
)
def test_generation(case, load, arrays):
    """Greedy and beam ids. transformers 4.37 put BOS in front of what it returned; 5 does not."""
    model = load(case["model"])
    for key, value in case["config"].items():
        setattr(model.config, key, value)
    ids = torch.tensor(case["prompt_ids"])
    mask = (ids != 0).long() if case["mask_given"] else None
    extra = {}
    if case["name"] == "anyres":
        extra = {"images": [torch.from_numpy(arrays["anyres_images/0"])], "image_sizes": [[64, 48]]}
    elif case["image_files"] is not None:
        count = int(case["image_files"].split()[1])
        first = 2 if case["name"] == "image_end" else 0  # recorded with its picture of the batch cases
        extra = {"images": torch.from_numpy(arrays["images_pad_4x3x28x28"])[first : first + count]}
    generated = model.generate(
        ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0, **case["kwargs"], **extra
    )
    assert generated.tolist() == [row[1:] for row in case["output_ids"]]


def test_right_padded_prompts_generate_what_they_generate_alone(load, arrays):
    """Upstream decodes on after the padding of the shorter rows; we pad on the left whatever the caller did."""
    case = next(c for c in RIGHT_PADDED if c["name"] == "batch_right_mask")
    model = load(case["model"])
    ids = torch.tensor(case["prompt_ids"])
    images = torch.from_numpy(arrays["images_pad_4x3x28x28"])[:3]
    together = model.generate(ids, images=images, attention_mask=ids != 0, max_new_tokens=8, do_sample=False)
    for row, image, generated in zip(ids, images, together, strict=True):
        alone = model.generate(row[row != 0].unsqueeze(0), images=image.unsqueeze(0), max_new_tokens=8, do_sample=False)
        assert generated.tolist() == alone[0].tolist()
