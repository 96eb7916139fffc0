"""AttAnchor inside the whole model, behind every registered projector, beside an oracle that walks token by token."""

import math

import pytest
import torch

import ccra_patch.register  # noqa: F401
from ccra_patch.query import QueryMarkers, select_query
from llava import conversation
from llava.attanchor import enable_attanchor
from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_config, read_json
from llava.model.multimodal_projector.registry import registered_projectors
from llava.tokenization import load_tokenizer
from llava.train.arguments import ModelArguments

V1 = conversation.conv_templates["v1"]
# Sizes that the tiny models have: five blocks of width 32, sixteen patches.
SMALL = {
    "mm_ccra_hidden_dim": 16,
    "mm_dense_connector_sti_layers": [1, 3],
    "mm_dense_connector_sti_strip": 4,
    "mm_dense_connector_sci_layers": [1, 3],
    "mm_dense_connector_dci_layers": [0, 1, 2, 3],
    "mm_dense_connector_dci_group_size": 2,
    "mm_mmfuser_layers": [1, 3],
    "mm_mmfuser_heads": 4,
    "mm_igva_layers": [1, 2, 3, 4],
    "mm_igva_group_size": 2,
    "mm_igva_hidden_dim": 8,
    "mm_mlvf_ed_layers": [1, 3],
}
EXAMPLES = {"mlp<N>x_gelu": "mlp2x_gelu"}
NAMES = [EXAMPLES.get(spec.name, spec.name) for spec in registered_projectors()]
DIRECTIONS = ("text_into_image", "image_into_text")
TEXT_INTO_IMAGE = {"mm_attanchor_direction": "text_into_image"}
# Mixed on purpose: a picture; none; two of them, and answers between the turns.
DIALOGUES = (
    ("<image>\nWhat is on the table?", "A red cup."),
    ("Where is the dog?", "In the house."),
    ("<image>\nIs it snow?", "No, it is a cat.", "<image>\nAnd what is this?", "A plate."),
)
UNK = 0  # the pause token here
PICTURES = 4  # the text uses up a blank one


def load_model(assets, name):
    path = str(assets / name)
    config, model_class = load_config(read_json(f"{path}/config.json"), path)
    return model_class.from_pretrained(path, config=config, dtype=torch.float32, attn_implementation="sdpa").eval()


@pytest.fixture(scope="module")
def tokenizer(assets):
    return load_tokenizer(str(assets / "vicuna_tiny"))


@pytest.fixture(scope="module")
def build(assets, tokenizer):
    """A tiny LLaVA with any projector, none of whose weights is zero, and AttAnchor as asked."""

    def model(name="mlp2x_gelu", **settings):
        torch.manual_seed(0)
        tower = "clip_tiny64" if name == "identity" else "clip_tiny"
        llava = load_model(assets, "vicuna_tiny")
        flags = {"vision_tower": str(assets / tower), "mm_vision_select_layer": -2, "mm_projector_type": name}
        arguments = ModelArguments(**flags, mm_use_im_patch_token=False)
        for key, value in SMALL.items():
            setattr(arguments, key, value)
        llava.get_model().initialize_vision_modules(arguments)
        for parameter in llava.get_model().mm_projector.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
        # Switched on and off again: the markers, which some projectors need, stay.
        enable_attanchor(llava, tokenizer, V1, **(TEXT_INTO_IMAGE | settings))
        if not settings:
            enable_attanchor(llava, tokenizer, V1, mm_attanchor_direction="off")
        return llava

    return model


@pytest.fixture(scope="module")
def images():
    return torch.randn(PICTURES, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def dialogue_ids(tokenizer, turns):
    conv = V1.copy()
    for number, text in enumerate(turns):
        conv.append_message(conv.roles[number % 2], text)
    if len(turns) % 2:
        conv.append_message(conv.roles[1], None)
    return tokenizer_image_token(conv.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")


def collate(rows, left=False):
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(ids.shape[1] - len(row), None) if left else slice(None, len(row))
        ids[i, place], mask[i, place] = row, True
    return ids, mask


@pytest.fixture(scope="module")
def samples(tokenizer):
    """Ids ``[S]`` of the dialogues and labels: whatever follows the first assistant marker counts as trained."""
    rows = [dialogue_ids(tokenizer, turns) for turns in DIALOGUES]
    labels = []
    for row, turns in zip(rows, DIALOGUES, strict=True):
        start = len(dialogue_ids(tokenizer, turns[:1]))
        trained = (torch.arange(len(row)) >= start) & (row != IMAGE_TOKEN_INDEX)
        labels.append(row.masked_fill(~trained, IGNORE_INDEX))
    return rows, labels


def pictures_of(row, images, used):
    count = max(int((row == IMAGE_TOKEN_INDEX).sum()), 1)
    return images[used : used + count], used + count


def prepare(model, ids, mask, labels, images, **options):
    with torch.no_grad():
        out = model.prepare_inputs_labels_for_multimodal(ids, ids, mask, None, labels, images, **options)
    return {"embeds": out[4], "labels": out[5], "mask": out[2], "positions": out[1]}


def middle_threshold(model, row, pictures, direction):
    """One that about half of the tokens pass, with some way to the nearest similarity on either side."""
    _, matches = model.find_anchors(row.unsqueeze(0), None, pictures, direction=direction)
    similarities = matches.similarity[matches.similarity.isfinite()].sort().values
    middle = similarities[len(similarities) // 4 : -len(similarities) // 4]
    widest = int(middle.diff().argmax())
    return middle[widest : widest + 2].mean().item()


def oracle(plain, row, labels, pictures, *, direction, tau, think_tokens=0, query="human"):
    """One sample, token by token, from the merged sequence of the model without AttAnchor."""
    with torch.no_grad():
        base = prepare(plain, row.unsqueeze(0), None, labels.unsqueeze(0), pictures)
        pause = plain.get_model().embed_tokens(torch.tensor(UNK))
    embeds = base["embeds"][0]
    count = (len(embeds) - int((row != IMAGE_TOKEN_INDEX).sum())) // max(int((row == IMAGE_TOKEN_INDEX).sum()), 1)
    markers = QueryMarkers.from_dict(plain.config.mm_query_markers)
    asked = select_query(row.unsqueeze(0), None, markers, query)[0].tolist()
    kinds, turn_ends = [], []
    for i, token in enumerate(row.tolist()):
        # What a projector makes beside the sixteen patches has no place in the picture.
        picture = ["image"] * 16 + ["other"] * (count - 16)
        kinds += picture if token == IMAGE_TOKEN_INDEX else ["text" if asked[i] else "other"]
        # a turn's last question token: answers or markers follow before the next one
        rest = asked[i + 1 :]
        following = rest.index(True) + i + 1 if True in rest else len(row)
        if asked[i] and (following == len(row) or 2 in row[i:following].tolist()):  # </s> closes every round of v1
            turn_ends.append(len(kinds) - 1)
    seeking, sought = ("text", "image") if direction == "text_into_image" else ("image", "text")
    targets = [place for place, kind in enumerate(kinds) if kind == sought]
    behind = {place: [] for place in range(len(kinds))}
    for place, kind in enumerate(kinds):
        if kind == seeking and targets:
            cosines = torch.cosine_similarity(embeds[place].float(), embeds[targets].float(), dim=-1)
            if cosines.max() >= tau:
                behind[targets[int(cosines.argmax())]].append(embeds[place])
    if "image" in kinds:
        for place in turn_ends:
            behind[place] += [pause] * think_tokens
    sequence, expected_labels = [], []
    for place in range(len(kinds)):
        sequence += [embeds[place], *behind[place]]
        expected_labels += [base["labels"][0, place].item()] + [IGNORE_INDEX] * len(behind[place])
    return torch.stack(sequence), expected_labels


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_is_what_the_oracle_says(name, direction, build, samples, images, tokenizer):
    plain = build(name)
    tau = middle_threshold(plain, samples[0][0], images[:1], direction)
    think = {"mm_attanchor_think_tokens": 2, "mm_attanchor_think_token": "<unk>"}
    settings = {"mm_attanchor_direction": direction, "mm_attanchor_tau": tau}
    model = build(name, **settings, **(think if direction == "image_into_text" else {}))
    rows, labels = samples
    ids, mask = collate(rows)
    padded_labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
    got = prepare(model, ids, mask, padded_labels, images)
    used, copies = 0, []
    for i, row in enumerate(rows):
        pictures, used = pictures_of(row, images, used)
        think_tokens = 2 if direction == "image_into_text" else 0
        expected, expected_labels = oracle(
            plain, row, labels[i], pictures, direction=direction, tau=tau, think_tokens=think_tokens
        )
        length = len(expected)
        torch.testing.assert_close(got["embeds"][i, :length], expected, rtol=1e-5, atol=1e-5)
        assert got["labels"][i].tolist()[:length] == expected_labels
        assert got["mask"][i].tolist() == [True] * length + [False] * (got["mask"].shape[1] - length)
        assert got["positions"][i, :length].tolist() == list(range(length))
        alone = prepare(plain, row.unsqueeze(0), None, labels[i].unsqueeze(0), pictures)
        copies.append(length - alone["embeds"].shape[1])
    assert copies[1] == 0
    assert copies[0] > 0
    assert copies[2] > 0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_without_a_match_everything_is_bit_for_bit_as_without_attanchor(name, direction, build, samples, images):
    rows, labels = samples
    ids, mask = collate(rows)
    padded_labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
    off, on = build(name), build(name, mm_attanchor_direction=direction, mm_attanchor_tau=1.0)
    expected = prepare(off, ids, mask, padded_labels, images)
    got = prepare(on, ids, mask, padded_labels, images)
    for key, value in expected.items():
        assert torch.equal(got[key], value), key
    with torch.no_grad():
        calls = [model(ids, attention_mask=mask, labels=padded_labels, images=images) for model in (off, on)]
    assert torch.equal(calls[0].logits, calls[1].logits)
    assert torch.equal(calls[0].loss, calls[1].loss)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_answers_in_a_batch_are_those_of_single_prompts(name, direction, build, tokenizer, images):
    model = build(name, mm_attanchor_direction=direction, mm_attanchor_tau=0.05)
    rows = [dialogue_ids(tokenizer, turns[:-1]) for turns in DIALOGUES]
    options = {"max_new_tokens": 4, "do_sample": False}
    for left in (True, False):
        ids, mask = collate(rows, left)
        together = model.generate(ids, images=images, attention_mask=mask, **options)
        used = 0
        for i, row in enumerate(rows):
            pictures, used = pictures_of(row, images, used)
            alone = model.generate(row.unsqueeze(0), images=pictures, **options)
            assert together[i].tolist() == alone[0].tolist()
            with torch.no_grad():
                following = model(row.unsqueeze(0), images=pictures).logits[0, -1].argmax().item()
            assert alone[0, 0].item() == following, "the cached run starts from another sequence"


def test_only_patches_are_numbered(build, images):
    row = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5]])

    def numbers(model, pictures):
        layout, _ = model.find_anchors(row, None, pictures, direction="text_into_image")
        return layout.patch[layout.source[0, 1:-1]].tolist()

    patches = list(range(16))
    assert numbers(build(), images[:1]) == patches
    assert numbers(build("dense_connector_sti"), images[:1]) == patches + [-1] * 8
    assert numbers(build("dense_connector_sti"), [images[:2]]) == patches + [-1] * 8 + list(range(16, 32)) + [-1] * 8
    whole = build()
    whole.get_vision_tower().select_feature = "cls_patch"
    assert numbers(whole, images[:1]) == [-1, *patches]


def test_no_supervised_token_is_ever_copied(build, samples, images, tokenizer):
    """At the lowest threshold all questions are copied, and what stands before an answer does not depend on it."""
    model = build(mm_attanchor_direction="text_into_image", mm_attanchor_tau=-1)
    markers = QueryMarkers.from_dict(model.config.mm_query_markers)
    question = "<image>\nWhat is on the table?"
    prompt = dialogue_ids(tokenizer, (question,))
    sequences = []
    for answer in ("A red cup.", "Nothing at all, not even one plate."):
        row = dialogue_ids(tokenizer, (question, answer))
        labels = row.masked_fill(torch.arange(len(row)) < len(prompt), IGNORE_INDEX)
        got = prepare(model, row.unsqueeze(0), None, labels.unsqueeze(0), images[:1])
        asked = int(select_query(prompt.unsqueeze(0), None, markers, "human").sum())
        assert got["embeds"].shape[1] == len(row) + 15 + asked
        trained = got["labels"][0] != IGNORE_INDEX
        assert got["labels"][0][trained].tolist() == row[len(prompt) :].tolist()
        answers = model.get_model().embed_tokens(row[len(prompt) :])
        assert torch.equal(got["embeds"][0][trained], answers)
        sequences.append(got["embeds"][0, : len(prompt) + 15 + asked])
    assert torch.equal(*sequences)
    alone = prepare(model, prompt.unsqueeze(0), None, None, images[:1])["embeds"][0]
    assert torch.equal(alone, sequences[0]), "training and inference see another prompt"


def test_query_modes_choose_the_turns(build, samples, images):
    row = samples[0][2]
    lengths = {}
    for query in ("human", "first", "last"):
        model = build(mm_attanchor_direction="text_into_image", mm_attanchor_tau=-1, mm_attanchor_query=query)
        lengths[query] = prepare(model, row.unsqueeze(0), None, None, images[2:4])["embeds"].shape[1]
    base = len(row) + 2 * 15
    assert lengths["human"] - base == (lengths["first"] - base) + (lengths["last"] - base)
    assert lengths["first"] > base
    assert lengths["last"] > base


def test_copies_on_one_image_token_stand_in_the_order_of_the_prompt(build, samples, images):
    model = build(mm_attanchor_direction="text_into_image", mm_attanchor_tau=-1)
    with torch.no_grad():
        # Every image token alike, so that all words go to the first one.
        model.get_model().mm_projector[2].weight.zero_()
    row = samples[0][0]
    got = prepare(model, row.unsqueeze(0), None, None, images[:1])["embeds"][0]
    asked = select_query(row.unsqueeze(0), None, QueryMarkers.from_dict(model.config.mm_query_markers), "human")[0]
    words = model.get_model().embed_tokens(row[asked])
    first = int((row == IMAGE_TOKEN_INDEX).nonzero()[0])
    assert torch.equal(got[first + 1 : first + 1 + len(words)], words)
    assert torch.equal(got[first], got[first + 1 + len(words)]), "the other image tokens follow"


def test_a_training_batch_is_cut_behind_the_copies(build, samples, images):
    rows, labels = samples
    model = build(mm_attanchor_direction="text_into_image", mm_attanchor_tau=-1)
    whole = prepare(model, rows[0].unsqueeze(0), None, labels[0].unsqueeze(0), images[:1])
    model.config.tokenizer_model_max_length = 30
    cut = prepare(model, rows[0].unsqueeze(0), None, labels[0].unsqueeze(0), images[:1])
    assert torch.equal(cut["embeds"], whole["embeds"][:, :30])
    assert torch.equal(cut["labels"], whole["labels"][:, :30])
    prompt = prepare(model, rows[0].unsqueeze(0), None, None, images[:1], for_generation=True)
    assert torch.equal(prompt["embeds"], whole["embeds"])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_parameter_is_in_the_graph_and_copies_train_their_token(direction, build, samples, images):
    rows, labels = samples
    gradients = []
    for tau in (-1.0, 1.0):
        model = build(mm_attanchor_direction=direction, mm_attanchor_tau=tau).train()
        loss = model(rows[0].unsqueeze(0), labels=labels[0].unsqueeze(0), images=images[:1]).loss
        loss.backward()
        parameters = dict(model.get_model().mm_projector.named_parameters())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters.values())
        gradients.append(parameters["2.weight"].grad)
    assert not torch.allclose(*gradients)
    for row in (rows[1],):  # text alone
        model.zero_grad()
        model(row.unsqueeze(0), labels=row.unsqueeze(0), images=images[:1]).loss.backward()
        assert all(p.grad is not None for p in model.get_model().mm_projector.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_match_in_float32(dtype, build, samples, images):
    model = build(mm_attanchor_direction="text_into_image", mm_attanchor_tau=0.0).to(dtype)
    row = samples[0][0].unsqueeze(0)
    layout, matches = model.find_anchors(row, None, images[:1].to(dtype), direction="text_into_image")
    for place, partner, similarity in zip(matches.place[0], matches.partner[0], matches.similarity[0], strict=True):
        pair = layout.vectors[layout.source[0, [place, partner]]].float()
        assert similarity.item() == pytest.approx(torch.cosine_similarity(*pair, dim=0).item(), abs=1e-6)
    assert model(row, images=images[:1].to(dtype)).logits.dtype == dtype


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_ends_of_lines_are_no_image_tokens(direction, assets, tokenizer):
    """``spatial_unpad`` puts a learned vector behind every line of patches; no word belongs to it."""
    model = load_model(assets, "llava_tiny_anyres_unpad")
    model.get_vision_tower().load_model()
    enable_attanchor(model, tokenizer, V1, mm_attanchor_direction=direction, mm_attanchor_tau=-1.0)
    row = dialogue_ids(tokenizer, ("<image>\nWhat is on the table?",))
    asked = select_query(row.unsqueeze(0), None, QueryMarkers.from_dict(model.config.mm_query_markers), "human")
    with torch.no_grad():  # all words would be most like it
        model.get_model().image_newline.copy_(model.get_model().embed_tokens(row[asked[0]]).mean(dim=0))
    tiles = torch.randn(5, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    layout, matches = model.find_anchors(row.unsqueeze(0), None, [tiles], [(50, 40)], direction=direction)
    newline = (layout.vectors[layout.source[0]] == model.get_model().image_newline).all(dim=-1)
    assert newline.any()
    assert not newline[matches.place[0]].any()
    assert not newline[matches.partner[0]].any()
    patches = layout.patch[layout.source[0, layout.is_image[0]]]
    assert patches[:16].tolist() == list(range(16)), "the whole picture comes first"
    assert len(patches.unique()) == len(patches)
    assert patches.max() < 5 * 16
    if direction == "image_into_text":
        assert (matches.similarity[0] > -math.inf).sum() == len(patches)


def test_what_the_config_must_say(build, samples, images):
    model = build(mm_attanchor_direction="image_into_text")
    model.config.mm_attanchor_think_tokens = 3
    row = samples[0][0].unsqueeze(0)
    with pytest.raises(UserError, match=r"think_tokens is 3, but config\.json lacks mm_attanchor_think_id; switch"):
        model(row, images=images[:1])
    model.config.mm_attanchor_tau = 2
    with pytest.raises(UserError, match=r"mm_attanchor_tau is 2; a cosine similarity must be"):
        model(row, images=images[:1])
    model = build(mm_attanchor_direction="image_into_text")
    del model.config.mm_query_markers
    with pytest.raises(UserError, match=r"AttAnchor reads the question, but config\.json lacks mm_query_markers"):
        model(row, images=images[:1])
