"""The ccra projector inside the whole model: identity at the start, the question reaches it, the answer does not."""

import pytest
import torch
from safetensors.torch import load_file

from ccra_patch.query import QueryMarkers, select_query
from ccra_patch.recorder import recorded_maps
from llava import conversation
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_config, read_json
from llava.model.llava_arch import LlavaMetaForCausalLM
from llava.query_markers import query_markers
from llava.tokenization import load_tokenizer
from llava.train.arguments import ModelArguments
from llava.train.checkpoint import save_config, save_projector


def model_arguments(assets, **changes) -> ModelArguments:
    flags = {
        "vision_tower": str(assets / "clip_tiny"),
        "mm_vision_select_layer": -2,
        "mm_projector_type": "ccra",
        "mm_ccra_hidden_dim": 16,
        "mm_use_im_patch_token": False,
    }
    return ModelArguments(**(flags | changes))


def load_model(assets, name="vicuna_tiny", dtype=torch.float32):
    path = str(assets / name)
    config, model_class = load_config(read_json(f"{path}/config.json"), path)
    return model_class.from_pretrained(path, config=config, dtype=dtype, attn_implementation="sdpa").eval()


@pytest.fixture(scope="module")
def tokenizer(assets):
    return load_tokenizer(str(assets / "vicuna_tiny"))


@pytest.fixture
def ccra(assets, tokenizer):
    """A CCRA model on the tiny Vicuna, as train.py builds it, with a projector that is not zero anywhere."""

    def build(dtype=torch.float32, **changes):
        torch.manual_seed(0)
        model = load_model(assets, dtype=dtype)
        model.get_model().initialize_vision_modules(model_arguments(assets, **changes))
        model.get_vision_tower().to(dtype)
        model.config.mm_query_markers = query_markers(conversation.conv_templates["v1"], tokenizer).to_dict()
        return model

    return build


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def prompt_ids(tokenizer, *turns):
    conv = conversation.conv_templates["v1"].copy()
    for number, text in enumerate(turns):
        conv.append_message(conv.roles[number % 2], text)
    if len(turns) % 2:
        conv.append_message(conv.roles[1], None)
    return tokenizer_image_token(conv.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")


def batch(*rows, left=False):
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), None) if left else slice(None, len(row))
        ids[i, place], mask[i, place] = row, True
    return ids, mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("source", ["adapter", "whole checkpoint"])
def test_step_zero_is_the_llava_it_starts_from(source, dtype, assets, tokenizer, images, ccra, tmp_path):
    plain = load_model(assets, "llava_tiny_mlp2x_gelu", dtype)
    plain.get_vision_tower().load_model()
    plain.get_vision_tower().to(dtype)
    adapter = tmp_path / "mm_projector.bin"
    weights = load_file(assets / "llava_tiny_mlp2x_gelu" / "model.safetensors")
    torch.save({name: value for name, value in weights.items() if "mm_projector" in name}, adapter)
    if source == "adapter":
        ours = ccra(dtype, pretrain_mm_mlp_adapter=str(adapter))
    else:
        ours = load_model(assets, "llava_tiny_mlp2x_gelu", dtype)
        ours.get_model().initialize_vision_modules(model_arguments(assets))
        ours.get_vision_tower().to(dtype)
        ours.config.mm_query_markers = query_markers(conversation.conv_templates["v1"], tokenizer).to_dict()
    ids, mask = batch(prompt_ids(tokenizer, "<image>\nWhat is on the table?"), prompt_ids(tokenizer, "Where is it?"))
    with torch.no_grad():
        expected = plain(ids, attention_mask=mask, images=images[:2].to(dtype)).logits
        got = ours(ids, attention_mask=mask, images=images[:2].to(dtype)).logits
    assert torch.equal(got, expected)
    assert ours.config.mm_projector_type == "ccra"
    assert ours.config.mm_ccra_hidden_dim == 16


def test_the_question_changes_what_is_seen_and_the_answer_does_not(ccra, tokenizer, images, monkeypatch):
    model = ccra()
    seen = []
    encode = LlavaMetaForCausalLM.encode_images
    monkeypatch.setattr(
        LlavaMetaForCausalLM, "encode_images", lambda self, *args: seen.append(encode(self, *args)) or seen[-1]
    )
    for turns in (
        ("<image>\nWhat is on the table?",),
        ("<image>\nWhat is on the table?", "A red cup."),
        ("<image>\nWhat is on the table?", "Nothing at all, not even one plate."),
        ("<image>\nHow many cats are there?",),
    ):
        with torch.no_grad():
            model(prompt_ids(tokenizer, *turns).unsqueeze(0), images=images[:1])
    prompt, red, nothing, cats = seen
    assert torch.equal(prompt, red)
    assert torch.equal(prompt, nothing)
    assert not torch.allclose(prompt, cats, atol=1e-4)


@pytest.mark.parametrize("mode", ["human", "first", "last"])
def test_query_modes_reach_the_projector(mode, ccra, tokenizer):
    model = ccra(mm_ccra_query=mode)
    ids = prompt_ids(tokenizer, "<image>\nWhat is on the table?", "A red cup.", "Where is the dog?").unsqueeze(0)
    markers = QueryMarkers.from_dict(model.config.mm_query_markers)
    expected = {
        "human": "What is on the table?Where is the dog?",
        "first": "What is on the table?",
        "last": "Where is the dog?",
    }
    chosen = select_query(ids, None, markers, model.model.mm_projector.needs.query)
    assert tokenizer.decode(ids[chosen]).replace(" ", "") == expected[mode].replace(" ", "")


@pytest.mark.parametrize("left", [False, True])
def test_neighbours_and_padding_do_not_change_a_sample(left, ccra, tokenizer, images):
    model = ccra()
    rows = [
        prompt_ids(tokenizer, "<image>\nWhat is on the table?"),
        prompt_ids(tokenizer, "Where is the dog?"),
        prompt_ids(tokenizer, "<image>\nIs it snow?", "No.", "What then, if it is not snow?"),
    ]
    ids, mask = batch(*rows, left=left)
    with torch.no_grad():
        embeds, valid = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, images[:3])[4:1:-2]
        for i, row in enumerate(rows):
            alone = model.prepare_inputs_labels_for_multimodal(
                row.unsqueeze(0), None, None, None, None, images[i : i + 1]
            )[4]
            torch.testing.assert_close(embeds[i][valid[i]], alone[0], rtol=1e-5, atol=1e-5)


def test_several_pictures_share_their_samples_question(ccra, tokenizer, images):
    model = ccra()
    two = prompt_ids(tokenizer, "<image>\n<image>\nCompare.").unsqueeze(0)
    with torch.no_grad():
        together = model.prepare_inputs_labels_for_multimodal(two, None, None, None, None, images[:2])[4]
        swapped = model.prepare_inputs_labels_for_multimodal(two, None, None, None, None, images[:2].flip(0))[4]
    first, second = (two[0] == IMAGE_TOKEN_INDEX).nonzero().flatten().tolist()
    block = slice(first, first + 16), slice(second + 15, second + 31)
    torch.testing.assert_close(together[0, block[0]], swapped[0, block[1]])
    torch.testing.assert_close(together[0, block[1]], swapped[0, block[0]])


@pytest.mark.parametrize("texts", [("Where is the dog?",), ("<image>\nWhat is on the table?", "A red cup.")])
def test_every_projector_parameter_is_in_the_graph(texts, ccra, tokenizer, images):
    """Also in a batch of text alone, where a parameter without gradient would leave other ranks waiting."""
    model = ccra()
    ids = prompt_ids(tokenizer, *texts).unsqueeze(0)
    model(ids, images=images[:1], labels=ids.clamp(min=0)).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.model.mm_projector.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    if len(texts) == 2:
        keys = [name for name in gradients if name.endswith("weight")]
        assert all(gradients[name].abs().sum() > 0 for name in keys), [n for n in keys if not gradients[n].any()]


def test_generation_in_a_batch_is_that_of_single_prompts(ccra, tokenizer, images):
    model = ccra()
    rows = [
        prompt_ids(tokenizer, "<image>\nWhat is on the table?"),
        prompt_ids(tokenizer, "<image>\nIs it snow or a cat?"),
    ]
    ids, mask = batch(*rows, left=True)
    together = model.generate(ids, images=images[:2], attention_mask=mask, max_new_tokens=6, do_sample=False)
    for i, row in enumerate(rows):
        alone = model.generate(row.unsqueeze(0), images=images[i : i + 1], max_new_tokens=6, do_sample=False)
        assert together[i].tolist() == alone[0].tolist()


def test_a_saved_model_comes_back_whole(ccra, tokenizer, images, tmp_path):
    model = ccra()
    model.save_pretrained(tmp_path)
    config, model_class = load_config(read_json(str(tmp_path / "config.json")), str(tmp_path))
    again, info = model_class.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, value in model.model.mm_projector.state_dict().items():
        assert torch.equal(again.model.mm_projector.state_dict()[name], value), name
    again.get_vision_tower().load_model()
    ids = prompt_ids(tokenizer, "<image>\nWhat is on the table?").unsqueeze(0)
    with torch.no_grad():
        logits = [m.eval()(ids, images=images[:1]).logits for m in (again, model)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)


VARIANTS = {
    "decoupled": {"mm_ccra_integration": "decoupled"},
    "shuffled": {"mm_ccra_integration": "shuffled"},
    "ablated": {"mm_ccra_disable": ["lpwca", "pwca"]},
    "chosen layers": {"mm_ccra_layers": [0, 2, 3]},
    "no smoothing, narrow": {"mm_ccra_kernel_size": 1, "mm_ccra_hidden_dim": 4},
    "last": {"mm_ccra_query": "last", "mm_ccra_norm_order": "post"},
    "normalised": {"mm_ccra_normalize": ["query", "keys"]},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_in_the_config_and_comes_back(variant, ccra, tokenizer, images, tmp_path):
    model = ccra(**VARIANTS[variant])
    model.save_pretrained(tmp_path)
    saved = read_json(str(tmp_path / "config.json"))
    assert {name: saved[name] for name in VARIANTS[variant]} == VARIANTS[variant]
    config, model_class = load_config(saved, str(tmp_path))
    again = model_class.from_pretrained(tmp_path, config=config)
    again.get_vision_tower().load_model()
    assert again.model.mm_projector.needs == model.model.mm_projector.needs
    ids = prompt_ids(tokenizer, "<image>\nWhat is on the table?", "A cup.", "Where?").unsqueeze(0)
    with torch.no_grad():
        ours, theirs, default = (m.eval()(ids, images=images[:1]).logits for m in (model, again, ccra()))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert not torch.allclose(ours, default, atol=1e-3)


def test_chosen_layers_are_what_the_projector_gets(ccra, images, monkeypatch):
    model = ccra(mm_ccra_layers=[0, 2, 3])
    seen = []
    model.model.mm_projector.attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        model.encode_images(images[:1])
        _, stack = model.get_vision_tower().forward_layers(images[:1], "all")
    torch.testing.assert_close(seen[0][:, 1:], stack[:, [1, 2]])


def test_a_layer_that_the_tower_does_not_have_is_refused_at_once(ccra):
    with pytest.raises(UserError, match=r"vision layer 40 does not exist"):
        ccra(mm_ccra_layers=[0, 40])


def test_none_one_and_three_pictures_in_one_batch_are_those_of_each_sample_alone(ccra, tokenizer, images):
    model = ccra()
    rows = [
        prompt_ids(tokenizer, "Where is the dog?"),
        prompt_ids(tokenizer, "<image>\nWhat is on the table?"),
        prompt_ids(tokenizer, "<image>\n<image>\nCompare these.", "Equal.", "<image>\nAnd this?"),
    ]
    pictures = torch.cat([images, images[:1].flip(-1)])
    taken = [pictures[:1], pictures[1:2], pictures[2:]]
    ids, mask = batch(*rows)
    with torch.no_grad():
        embeds, valid = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, pictures)[4:1:-2]
        for i, row in enumerate(rows):
            alone = model.prepare_inputs_labels_for_multimodal(row.unsqueeze(0), None, None, None, None, taken[i])[4]
            torch.testing.assert_close(embeds[i][valid[i]], alone[0], rtol=1e-5, atol=1e-5)


def test_a_picture_without_a_question_leaves_the_layers_as_they_are(ccra, tokenizer, images):
    model = ccra()
    ids = prompt_ids(tokenizer, "<image>").unsqueeze(0)
    with recorded_maps(model) as recorded:
        loss = model(ids, images=images[:1], labels=ids.clamp(min=0)).loss
    (maps,) = recorded
    assert not maps.alpha.any()
    assert not maps.lpwca.any()
    assert not maps.pwca.any()
    assert maps.layer_weights.std() < 1e-7
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.model.mm_projector.parameters())


@pytest.mark.parametrize("merge_type", ["flat", "spatial", "spatial_unpad"])
def test_every_tile_of_a_picture_is_seen_in_the_light_of_its_question(merge_type, ccra, tokenizer, images):
    model = ccra(mm_patch_merge_type=merge_type)
    model.config.image_aspect_ratio = "anyres"
    model.config.image_grid_pinpoints = [[28, 56], [56, 28], [56, 56]]
    tiles = [images[:3], torch.cat([images, images[:1]])]  # whole picture and 1 x 2 tiles; and 2 x 2
    sizes = [(28, 50), (50, 50)]
    rows = [
        prompt_ids(tokenizer, "<image>\nWhat is on the table?"),
        prompt_ids(tokenizer, "<image>\nHow many cats are there?"),
    ]
    ids, mask = batch(*rows)

    def embed(ids, mask, tiles, sizes):
        with torch.no_grad():
            return model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, tiles, sizes)[4:1:-2]

    embeds, valid = embed(ids, mask, tiles, sizes)
    for i, row in enumerate(rows):
        alone, _ = embed(row.unsqueeze(0), None, tiles[i : i + 1], sizes[i : i + 1])
        torch.testing.assert_close(embeds[i][valid[i]], alone[0], rtol=1e-5, atol=1e-5)
    other, _ = embed(rows[1].unsqueeze(0), None, tiles[:1], sizes[:1])
    start = int((rows[0] == IMAGE_TOKEN_INDEX).nonzero())
    for tile in range(3):
        place = slice(start + 16 * tile, start + 16 * (tile + 1))
        assert not torch.allclose(embeds[0][place], other[0][place], atol=1e-4), f"tile {tile} heard no question"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(dtype, ccra, tokenizer, images):
    """Eight roundings of the type, of the embeddings' scale."""
    ids, mask = batch(prompt_ids(tokenizer, "<image>\nWhat is on the table?"), prompt_ids(tokenizer, "<image>\nA?"))
    with torch.no_grad():
        exact, half = (
            model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, images[:2].to(model.dtype))[4]
            for model in (ccra(), ccra(dtype))
        )
    assert half.dtype == dtype
    bound = 8 * torch.finfo(dtype).eps * exact.abs().max()
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=bound.item())


def test_gradient_checkpointing_changes_no_gradient(ccra, tokenizer, images):
    gradients = []
    ids = prompt_ids(tokenizer, "<image>\nWhat is on the table?", "A red cup.").unsqueeze(0)
    for checkpointing in (False, True):
        model = ccra().train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(ids, images=images[:1], labels=ids.clamp(min=0)).loss.backward()
        gradients.append({name: p.grad for name, p in model.model.mm_projector.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)


def test_without_markers_it_says_what_is_missing(ccra, tokenizer, images):
    model = ccra()
    del model.config.mm_query_markers
    with pytest.raises(UserError, match=r"config\.json lacks mm_query_markers"):
        model(prompt_ids(tokenizer, "<image>\nWhat?").unsqueeze(0), images=images[:1])


def test_an_adapter_of_another_width_is_refused(assets, ccra, tmp_path):
    adapter = tmp_path / "mm_projector.bin"
    torch.save(
        {f"model.mm_projector.{k}": torch.zeros(8, 8) for k in ("0.weight", "0.bias", "2.weight", "2.bias")}, adapter
    )
    with pytest.raises(UserError, match=r"0\.weight has the shape \[8, 8\], this model needs \[64, 32\]"):
        ccra(pretrain_mm_mlp_adapter=str(adapter))
    with pytest.raises(UserError, match=r"does not exist; give the mm_projector\.bin"):
        ccra(pretrain_mm_mlp_adapter=str(tmp_path / "none.bin"))
    adapter.write_bytes(b"text")
    with pytest.raises(UserError, match="is not a file of tensors"):
        ccra(pretrain_mm_mlp_adapter=str(adapter))


def test_an_adapter_of_another_variant_is_told_by_its_settings(assets, ccra, tmp_path):
    """By the config.json beside the adapter, or by the model's own where a whole LLaVA is trained on."""
    trained = ccra()
    state = {f"model.mm_projector.{name}": value for name, value in trained.model.mm_projector.state_dict().items()}
    save_projector(state, tmp_path, trained.config, step=1)
    save_config(trained.config, tmp_path)
    smaller = r"mm_ccra_disable \[\] there and \['lwca'\] here"
    adapter = str(tmp_path / "mm_projector.safetensors")
    with pytest.raises(UserError, match=r"does not have; they differ in " + smaller + "$"):
        ccra(pretrain_mm_mlp_adapter=adapter, mm_ccra_disable=["lwca"])
    with pytest.raises(UserError, match=r"does not have; they differ in " + smaller + "$"):
        trained.get_model().initialize_vision_modules(model_arguments(assets, mm_ccra_disable=["lwca"]))
    with pytest.raises(UserError, match=r"they differ in mm_projector_type ccra there and mlp2x_gelu here$"):
        ccra(pretrain_mm_mlp_adapter=adapter, mm_projector_type="mlp2x_gelu")
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"does not have; check mm_projector_type and its settings$"):
        ccra(pretrain_mm_mlp_adapter=adapter, mm_ccra_disable=["lwca"])
