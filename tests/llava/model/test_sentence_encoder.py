"""IGVA's question by a sentence encoder: its vectors, how text reaches it, and a model that holds one."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from ccra_patch.query import QueryMarkers, number_turns
from llava import conversation
from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.mm_utils import tokenizer_image_token
from llava.model.builder import load_config, load_pretrained_model, read_json
from llava.model.sentence_encoder import SentenceEncoder, sentence_width
from llava.query_markers import query_markers
from llava.tokenization import load_tokenizer
from llava.train.arguments import ModelArguments

QUESTIONS = ("what is on the table?", "where is it?")


@pytest.fixture(scope="module")
def tokenizer(assets):
    return load_tokenizer(str(assets / "vicuna_tiny"))


@pytest.fixture(scope="module")
def encoder(sentence_encoder, tokenizer):
    return SentenceEncoder(str(sentence_encoder), tokenizer)


@pytest.fixture(scope="module")
def markers(tokenizer):
    return query_markers(conversation.conv_templates["v1"], tokenizer)


def dialogue(tokenizer, *questions: str, answer: str = "a red cup.") -> torch.Tensor:
    """``[1, S]``: a picture and the first question, then the others; the last one is not answered yet."""
    conv = conversation.conv_templates["v1"].copy()
    for number, question in enumerate(questions):
        conv.append_message(conv.roles[0], question if number else f"<image>\n{question}")
        conv.append_message(conv.roles[1], answer if number < len(questions) - 1 else None)
    return tokenizer_image_token(conv.get_prompt(), tokenizer, IMAGE_TOKEN_INDEX, return_tensors="pt")[None]


def by_hand(folder, text: str) -> torch.Tensor:
    """Mean of the last hidden states at length 1, one text at a time."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        mean = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0].mean(dim=0)
    return mean / mean.square().sum().sqrt()


def test_a_vector_is_the_mean_of_its_tokens_at_length_1(encoder, sentence_encoder):
    vectors = encoder.encode(list(QUESTIONS))
    assert vectors.shape == (2, 12) == (2, sentence_width(str(sentence_encoder)))
    assert vectors.dtype == torch.float32
    assert (vectors[0] - vectors[1]).abs().max() > 0.1
    for vector, text in zip(vectors, QUESTIONS, strict=True):
        torch.testing.assert_close(vector, by_hand(sentence_encoder, text), rtol=0, atol=1e-6)


def test_half_precision_around_it_does_not_reach_it(encoder):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = encoder.encode(list(QUESTIONS))
    torch.testing.assert_close(vectors, encoder.encode(list(QUESTIONS)), rtol=0, atol=0)


def test_a_long_text_loses_its_end(encoder):
    long = "abcdefgh " * 5
    assert torch.equal(encoder.encode([long]), encoder.encode([long + "and more of it"]))
    assert not torch.equal(encoder.encode([long]), encoder.encode([long[:30]]))


def test_each_turn_of_the_question_has_its_vector(encoder, sentence_encoder, tokenizer, markers):
    two, one = dialogue(tokenizer, *QUESTIONS), dialogue(tokenizer, QUESTIONS[1])
    ids = torch.zeros(3, two.shape[1], dtype=torch.long)
    ids[0], ids[1, -one.shape[1] :] = two[0], one[0]
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0], mask[1, -one.shape[1] :] = True, True
    vectors, real = encoder(ids, number_turns(ids, mask, markers, "human"))
    assert real.tolist() == [[True, True], [True, False], [False, False]]
    expected = [by_hand(sentence_encoder, text) for text in QUESTIONS]
    torch.testing.assert_close(vectors[0], torch.stack(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(vectors[1, 0], expected[1], rtol=0, atol=1e-6)
    assert not vectors[~real].any()

    last, real = encoder(ids, number_turns(ids, mask, markers, "last"))
    assert real.shape == (3, 1)
    torch.testing.assert_close(last[0, 0], expected[1], rtol=0, atol=1e-6)


def test_samples_without_questions_have_none(encoder):
    nothing = QueryMarkers(open=((7, 8),), close=((9,),))
    ids = torch.randint(10, 50, (2, 5))
    vectors, real = encoder(ids, number_turns(ids, None, nothing, "human"))
    assert vectors.shape == (2, 1, 12)
    assert not real.any()
    assert not vectors.any()


class TestInTheModel:
    @pytest.fixture
    def load(self, assets, tokenizer, markers, sentence_encoder):
        """The tiny LLaVA with IGVA, whose question a sentence encoder reads."""

        def model(**changes):
            path = str(assets / "llava_tiny_mlp2x_gelu")
            config, model_class = load_config(read_json(f"{path}/config.json"), path)
            llava = model_class.from_pretrained(path, config=config, dtype=torch.float32).eval()
            llava.get_vision_tower().load_model()
            flags = {
                "vision_tower": str(assets / "clip_tiny"), "mm_vision_select_layer": -2, "mm_projector_type": "igva",
                "mm_igva_layers": [1, 2, 3, 4], "mm_igva_group_size": 2, "mm_igva_hidden_dim": 8,
                "mm_igva_text_encoder": str(sentence_encoder), "mm_use_im_patch_token": False,
            }  # fmt: skip
            torch.manual_seed(0)
            inner = llava.get_model()
            inner.initialize_vision_modules(ModelArguments(**(flags | changes)))
            torch.nn.init.normal_(inner.mm_projector.mlp.fused.weight)
            inner.load_sentence_encoder(tokenizer)
            llava.config.mm_query_markers = markers.to_dict()
            return llava

        return model

    @pytest.fixture
    def images(self):
        return torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(1))

    def test_its_text_decides_what_is_seen(self, load, tokenizer, images):
        model = load()
        assert model.get_model().mm_projector.aggregator.question.in_features == 12
        with torch.no_grad():
            first, second = (
                model.lay_out_prompt(dialogue(tokenizer, question), None, images).vectors[-17:-1]
                for question in ("is it red?", "is it big?")
            )
            empty = model.encode_images(images)[0]
        assert (first - second).abs().max() > 1e-5
        assert (first - empty).abs().max() > 1e-5

    def test_it_is_no_part_of_the_model(self, load, tokenizer, images):
        model = load().train()
        ids = dialogue(tokenizer, *QUESTIONS)
        model(ids, images=images, labels=ids.clamp(min=0)).loss.backward()
        projector, encoder = model.get_model().mm_projector, model.get_model().sentence_encoder
        assert projector.aggregator.question.weight.grad.any()
        assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
        ours = {id(parameter) for parameter in model.parameters()}
        assert ours.isdisjoint(id(parameter) for parameter in encoder.model.parameters())
        assert encoder.model.training is False
        assert not [name for name in model.state_dict() if "sentence" in name]

    def test_a_saved_model_reads_it_from_its_folder_again(
        self, load, tokenizer, images, assets, sentence_encoder, tmp_path
    ):
        model = load()
        folder = tmp_path / "llava-igva"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        assert read_json(folder / "config.json")["mm_igva_text_encoder"] == str(sentence_encoder)
        assert not [name for name in load_file(folder / "model.safetensors") if "sentence" in name]
        _, again, _, _ = load_pretrained_model(str(folder), None, "llava-igva", device="cpu")
        ids = dialogue(tokenizer, *QUESTIONS)
        with torch.no_grad():
            expected = model(ids, images=images).logits
            torch.testing.assert_close(again(ids, images=images).logits, expected, rtol=0, atol=1e-5)
        options = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(again.generate(ids, images=images, **options), model.generate(ids, images=images, **options))

        moved = tmp_path / "moved"
        shutil.move(folder, moved)
        config = (moved / "config.json").read_text().replace(str(sentence_encoder), str(tmp_path / "gone"))
        (moved / "config.json").write_text(config)
        with pytest.raises(UserError, match=r"the sentence encoder .*gone cannot be loaded \(.*\); give the folder or"):
            load_pretrained_model(str(moved), None, "llava-igva", device="cpu")

    def test_without_it_the_model_says_what_is_missing(self, load, tokenizer, images):
        model = load()
        model.get_model().sentence_encoder = None
        message = r"igva reads the question by .*, which is not loaded; use load_pretrained_model, or call model\.get"
        with pytest.raises(UserError, match=message):
            model(dialogue(tokenizer, "is it red?"), images=images)

    def test_answers_and_padding_do_not_reach_it(self, load, tokenizer, images):
        """The question of a training sample is that of the prompt, in batches padded on either side too."""
        model = load()
        prompt = dialogue(tokenizer, QUESTIONS[0])
        answered = dialogue(tokenizer, QUESTIONS[0], "")[:, : prompt.shape[1] + 4]
        embeds = model.get_model().embed_tokens
        alone = model._query(prompt, torch.ones_like(prompt).bool(), embeds(prompt.clamp(min=0)))
        padded = torch.nn.functional.pad(answered, (3, 2))
        valid = torch.nn.functional.pad(torch.ones_like(answered), (3, 2)).bool()
        for got, expected in zip(model._query(padded, valid, embeds(padded.clamp(min=0))), alone, strict=True):
            assert torch.equal(got, expected)
