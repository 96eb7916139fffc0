"""Every projector that fuses vision layers, inside the whole model: what is common to all of them."""

import logging
import math

import pytest
import torch
from safetensors.torch import load_file

import ccra_patch.register  # noqa: F401
from llava import conversation
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_config, read_json
from llava.model.multimodal_projector.registry import find_projector, needs_of, registered_projectors
from llava.query_markers import query_markers
from llava.tokenization import load_tokenizer
from llava.train.arguments import ModelArguments

# Sizes that the tiny models have: five blocks of width 32.
SMALL = {
    "ccra": {"mm_ccra_hidden_dim": 16},
    "dense_connector_sti": {"mm_dense_connector_sti_layers": [1, 3], "mm_dense_connector_sti_strip": 4},
    "dense_connector_sci": {"mm_dense_connector_sci_layers": [1, 3]},
    "dense_connector_dci": {"mm_dense_connector_dci_layers": [0, 1, 2, 3], "mm_dense_connector_dci_group_size": 2},
    "mmfuser": {"mm_mmfuser_layers": [1, 3], "mm_mmfuser_heads": 4},
    "igva": {"mm_igva_layers": [1, 2, 3, 4], "mm_igva_group_size": 2, "mm_igva_hidden_dim": 8},
    "mlvf_ed": {"mm_mlvf_ed_layers": [1, 3]},
}
FUSING = [spec.name for spec in registered_projectors() if spec.settings is not None]
WITH_MORE_TOKENS = "dense_connector_sti"  # cannot start as LLaVA, nor be arranged in a grid


@pytest.fixture(scope="module")
def tokenizer(assets):
    return load_tokenizer(str(assets / "vicuna_tiny"))


@pytest.fixture
def load(assets, tokenizer):
    """The tiny LLaVA with its own projector, or with another one that starts from it."""

    def model(name=None, **changes):
        path = str(assets / "llava_tiny_mlp2x_gelu")
        config, model_class = load_config(read_json(f"{path}/config.json"), path)
        llava = model_class.from_pretrained(path, config=config, dtype=torch.float32, attn_implementation="sdpa").eval()
        llava.get_vision_tower().load_model()
        if name is None:
            return llava
        flags = {
            "vision_tower": str(assets / "clip_tiny"),
            "mm_vision_select_layer": -2,
            "mm_projector_type": name,
            "mm_use_im_patch_token": False,
        }
        torch.manual_seed(0)
        llava.get_model().initialize_vision_modules(ModelArguments(**(flags | SMALL[name] | changes)))
        llava.config.mm_query_markers = query_markers(conversation.conv_templates["v1"], tokenizer).to_dict()
        return llava

    return model


def rows_of(tokenizer, *dialogues):
    """``[B, S]`` ids, padded on the right, and their mask; the last turn of each dialogue is the question if odd."""
    rows = []
    for turns in dialogues:
        conv = conversation.conv_templates["v1"].copy()
        for number, text in enumerate(turns):
            conv.append_message(conv.roles[number % 2], text)
        if len(turns) % 2:
            conv.append_message(conv.roles[1], None)
        rows.append(tokenizer_image_token(conv.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt"))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])


def sequence(model, ids, mask, images, sizes=None):
    """Embeddings of the merged sequence ``[B, S', D]`` and which are valid."""
    with torch.no_grad():
        return model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, images, sizes)[4:1:-2]


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def prompt(tokenizer):
    """``[2, S]`` ids and their mask: one question with a picture, one without."""
    answer = "A red cup."
    return rows_of(tokenizer, ("<image>\nWhat is on the table?", answer), ("Where is it?", answer))


def awake(model):
    """Gates opened and widened columns filled, so that everything behind them acts."""
    torch.manual_seed(2)
    for parameter in model.get_model().mm_projector.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def test_each_has_its_small_sizes():
    assert set(FUSING) == set(SMALL)


@pytest.mark.parametrize("name", [name for name in FUSING if name != WITH_MORE_TOKENS])
def test_step_zero_is_the_llava_it_starts_from(name, load, images, prompt):
    ids, mask = prompt
    with torch.no_grad():
        expected = load()(ids, attention_mask=mask, images=images).logits
        model = load(name)
        assert torch.equal(model(ids, attention_mask=mask, images=images).logits, expected)
        assert not torch.allclose(awake(model)(ids, attention_mask=mask, images=images).logits, expected, atol=1e-3)


@pytest.mark.parametrize("name", FUSING)
def test_every_projector_parameter_is_in_the_graph_of_a_text_batch(name, load, images, prompt):
    """A parameter without gradient would leave the other ranks of a distributed run waiting."""
    model = load(name).train()
    ids = prompt[0][1:, prompt[1][1]]
    model(ids, images=images[:1], labels=ids).loss.backward()
    without = [n for n, p in model.get_model().mm_projector.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", FUSING)
def test_a_saved_model_comes_back_whole(name, load, images, prompt, tmp_path):
    model = awake(load(name))
    model.save_pretrained(tmp_path)
    config, model_class = load_config(read_json(str(tmp_path / "config.json")), str(tmp_path))
    again, info = model_class.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not info["missing_keys"]
    again.get_vision_tower().load_model()
    kept = load_file(tmp_path / "model.safetensors")
    for key, value in again.get_model().mm_projector.state_dict().items():
        assert torch.equal(kept[f"model.mm_projector.{key}"], value), key
    ids, mask = prompt
    with torch.no_grad():
        logits = [m.eval()(ids, attention_mask=mask, images=images).logits for m in (model, again)]
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
    assert needs_of(again.get_model().mm_projector) == needs_of(model.get_model().mm_projector)


@pytest.mark.parametrize("name", FUSING)
def test_answers_in_a_batch_are_those_of_single_prompts(name, load, images, prompt):
    model = awake(load(name))
    ids, mask = prompt
    options = {"max_new_tokens": 4, "do_sample": False}
    together = model.generate(ids, images=images, attention_mask=mask, **options)
    for i in range(2):
        alone = model.generate(ids[i : i + 1, mask[i]], images=images[i : i + 1], **options)
        assert together[i].tolist() == alone[0].tolist()


@pytest.mark.parametrize("name", FUSING)
def test_none_one_and_three_pictures_in_one_batch_are_those_of_each_sample_alone(name, load, tokenizer):
    model = awake(load(name))
    compare = ("<image>\n<image>\nCompare these.", "Equal.", "<image>\nAnd this?")
    ids, mask = rows_of(tokenizer, ("Where is the dog?",), ("<image>\nWhat is on the table?",), compare)
    pictures = torch.randn(5, 3, 28, 28, generator=torch.Generator().manual_seed(4))
    embeds, valid = sequence(model, ids, mask, pictures)
    for i, own in enumerate((pictures[:1], pictures[1:2], pictures[2:])):  # a text uses up a blank one
        alone, _ = sequence(model, ids[i : i + 1, mask[i]], None, own)
        torch.testing.assert_close(embeds[i][valid[i]], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "merge_type"),
    [*((name, "flat") for name in FUSING), *((name, "spatial_unpad") for name in FUSING if name != WITH_MORE_TOKENS)],
)
def test_tiles_of_several_pictures_are_those_of_each_alone(name, merge_type, load, tokenizer):
    model = awake(load(name, mm_patch_merge_type=merge_type))
    model.config.image_aspect_ratio = "anyres"
    model.config.image_grid_pinpoints = [[28, 56], [56, 28], [56, 56]]
    tiles = list(torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(4)).split([3, 5]))
    sizes = [(28, 50), (50, 50)]
    ids, mask = rows_of(tokenizer, ("<image>\nWhat is it?",), ("<image>\nHow many cats are on the table?",))
    embeds, valid = sequence(model, ids, mask, tiles, sizes)
    for i in range(2):
        alone, _ = sequence(model, ids[i : i + 1, mask[i]], None, tiles[i : i + 1], sizes[i : i + 1])
        torch.testing.assert_close(embeds[i][valid[i]], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FUSING)
def test_half_precision_stays_near_float32(name, dtype, load, images, prompt):
    """Eight roundings of the type, of the embeddings' scale."""
    exact, half = (sequence(awake(load(name)).to(kind), *prompt, images.to(kind))[0] for kind in (torch.float32, dtype))
    assert half.dtype == dtype
    bound = 8 * torch.finfo(dtype).eps * exact.abs().max()
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=bound.item())


@pytest.mark.parametrize("name", FUSING)
def test_gradient_checkpointing_changes_no_gradient_and_every_weight_has_one(name, load, images, prompt):
    ids, mask = prompt
    labels = ids.masked_fill(~mask | (ids == IMAGE_TOKEN_INDEX), IGNORE_INDEX)
    gradients = []
    for checkpointing in (False, True):
        model = awake(load(name)).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(ids, attention_mask=mask, images=images, labels=labels).loss.backward()
        gradients.append({n: p.grad for n, p in model.get_model().mm_projector.named_parameters()})
    for parameter, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], value, msg=parameter)
    assert [parameter for parameter, value in gradients[0].items() if "weight" in parameter and not value.any()] == []


def test_layers_are_named_at_the_start_and_must_exist(load, caplog):
    with caplog.at_level(logging.INFO, logger="llava.model.llava_arch"):
        load("mlvf_ed", mm_mlvf_ed_layers=[2, -1])
    assert "mlvf_ed reads hidden states (2, 5)" in caplog.text
    with pytest.raises(UserError, match=r"vision layer 15 does not exist: .*clip_tiny has hidden states 0 to 5"):
        load("mlvf_ed", mm_mlvf_ed_layers=[2, 15])
    with pytest.raises(UserError, match=r"vision layers \[5, -1\] name a layer twice"):
        load("mlvf_ed", mm_mlvf_ed_layers=[5, -1])


def test_the_tower_gives_class_tokens_to_those_who_ask(load, images):
    tower = load().get_vision_tower()
    selected, patches = tower.forward_layers(images, (1, 4))
    same, rows = tower.forward_layers(images, (1, 4), class_token=True)
    assert torch.equal(selected, same)
    assert rows.shape == (2, 2, 17, 32)
    assert torch.equal(rows[:, :, 1:], patches)
    assert torch.equal(patches[:, 1], selected)


def test_more_tokens_than_patches_have_no_place_in_a_grid(load, images):
    model = load(WITH_MORE_TOKENS, mm_patch_merge_type="spatial_unpad")
    model.config.image_aspect_ratio = "anyres"
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5]])
    message = (
        r"mm_patch_merge_type is 'spatial_unpad', which places .*; dense_connector_sti makes 24 of 16 patches: use"
    )
    with pytest.raises(UserError, match=message):
        model(ids, images=[images], image_sizes=[(40, 30)])
    model.config.mm_patch_merge_type = "flat"
    assert model(ids, images=[images], image_sizes=[(40, 30)]).logits.shape[1] == 2 + 2 * 24


class TestAuxiliaryLoss:
    """IGVA's balance of groups, from the projector into the loss of the language model."""

    @pytest.fixture
    def losses(self, load, images, prompt):
        ids, mask = prompt
        labels = ids.masked_fill(~mask | (ids == IMAGE_TOKEN_INDEX), IGNORE_INDEX)
        model = awake(load("igva"))

        def compute(training: bool, **kwargs) -> float:
            model.train(training)
            return model(ids, attention_mask=mask, labels=labels, images=images, **kwargs)[0].item()

        def balance() -> float:
            """What the formula gives for the model's own weights."""
            with torch.no_grad():
                _, stack = model.get_vision_tower().forward_layers(images, (1, 2, 3, 4), class_token=True)
                query = model._query(ids, mask, model.get_model().embed_tokens(ids.clamp(min=0)))
                weights = model.get_model().mm_projector.group_weights(stack[:, :, 0], *query)
            return 0.02 * sum(w * math.log(w) for row in weights.tolist() for w in row) / 2

        compute.balance, compute.tokens = balance, int((labels[:, 1:] != IGNORE_INDEX).sum())
        return compute

    def test_it_is_added_in_training_alone(self, losses):
        assert losses(True) - losses(False) == pytest.approx(losses.balance(), abs=2e-6)
        assert losses(True, return_dict=False) == pytest.approx(losses(True), abs=1e-6)

    def test_it_counts_by_the_batchs_share_of_the_update(self, losses):
        """As the cross entropy does under gradient accumulation: this batch is a quarter of the update's tokens."""
        update = 4 * losses.tokens
        added = losses(True, num_items_in_batch=update) - losses(False, num_items_in_batch=update)
        assert added == pytest.approx(losses.balance() / 4, abs=2e-6)

    def test_a_step_without_pictures_adds_nothing(self, losses, load):
        model = load("igva").train()
        ids = torch.tensor([[1, 5, 6, 7]])
        assert model(ids, labels=ids).loss.item() == pytest.approx(model.eval()(ids, labels=ids).loss.item(), abs=1e-6)


def test_igvas_two_stages(load, images, prompt):
    """Stage 1 by average, then an aggregator from scratch over what stage 1 has trained."""
    first = load("igva", mm_igva_average=True)
    assert needs_of(first.get_model().mm_projector).query is None
    trained = awake(first).get_model().mm_projector.state_dict()
    second = load("igva").get_model().mm_projector
    fresh = {name: value.clone() for name, value in second.state_dict().items()}
    find_projector("igva").load_adapter(second, trained)
    for name, value in second.state_dict().items():
        assert torch.equal(value, fresh[name] if name.startswith("aggregator.") else trained[name]), name
