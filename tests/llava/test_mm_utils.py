import base64
import hashlib
import io
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerBase

from llava.constants import IMAGE_TOKEN_INDEX
from llava.errors import UserError
from llava.mm_utils import (
    KeywordsStoppingCriteria,
    divide_to_patches,
    expand2square,
    get_anyres_image_grid_shape,
    get_model_name_from_path,
    load_image_from_base64,
    load_image_processor,
    process_anyres_image,
    process_images,
    resize_and_pad_image,
    select_best_resolution,
    tokenize_with_images,
    tokenizer_image_token,
)
from llava.tokenization import load_tokenizer

TOKENIZERS = ["tokenizer_legacy", "tokenizer_nonlegacy", "tokenizer_bytelevel"]
PICTURES = sorted(path.name for path in (Path(__file__).parents[1] / "goldens" / "images").iterdir())
PAD = (122, 116, 104)
# Recorded with Pillow 13; with Pillow 12 anyres views of these differ by a few of 255 grey levels, all else is equal.
RESIZED_DIFFERENTLY = {"img_04_20x100.png", "img_06_29x31.png", "img_13_7x90.png", "palette_30x40.png"}


@pytest.fixture(scope="module")
def tokenizers(assets: Path) -> dict[str, PreTrainedTokenizerBase]:
    return {name: load_tokenizer(str(assets / name)) for name in TOKENIZERS}


@pytest.fixture(scope="module")
def tokens(goldens: Path) -> dict:
    return json.loads((goldens / "tokenizer_image_token.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def processor(assets: Path) -> CLIPImageProcessorPil:
    return load_image_processor(str(assets / "clip_tiny"))


@pytest.fixture(scope="module")
def meta(goldens: Path) -> dict:
    return json.loads((goldens / "images_meta.json").read_text())


@pytest.fixture(scope="module")
def arrays(goldens: Path) -> dict[str, np.ndarray]:
    """Upstream's outputs as 8-bit pixels: normalised ones with the normalisation undone."""
    return dict(np.load(goldens / "images_arrays.npz"))


def open_picture(goldens: Path, name: str) -> Image.Image:
    return Image.open(goldens / "images" / name)


def as_pixels(tensor: torch.Tensor, processor: CLIPImageProcessorPil) -> np.ndarray:
    mean, std = (np.array(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    return (tensor.numpy() * std + mean) * 255


def assert_same_pixels(name: str, actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
    if name in RESIZED_DIFFERENTLY:
        assert difference.max() <= 6.001
        assert difference.mean() < 0.5
    else:
        assert difference.max() < 1e-3


class TestPictures:
    @pytest.mark.parametrize("name", PICTURES)
    @pytest.mark.parametrize("aspect_ratio", ["pad", "None", "anyres"])
    def test_process_images(
        self, name: str, aspect_ratio: str, goldens: Path, processor: CLIPImageProcessorPil, meta: dict, arrays: dict
    ) -> None:
        config = Namespace(image_aspect_ratio=aspect_ratio, image_grid_pinpoints=meta["grid_pinpoints"])
        pixels = process_images([open_picture(goldens, name)], processor, config)
        assert pixels.dtype == torch.float32
        assert_same_pixels(name, as_pixels(pixels, processor), arrays[f"process_images_{aspect_ratio}/{name}"])

    @pytest.mark.parametrize("name", PICTURES)
    def test_canvas_and_square(self, name: str, goldens: Path, meta: dict, arrays: dict) -> None:
        picture = open_picture(goldens, name)
        canvas = select_best_resolution(picture.size, meta["grid_pinpoints"])
        fitted = resize_and_pad_image(picture.convert("RGB"), canvas)
        assert_same_pixels(name, np.array(fitted), arrays[f"resize_and_pad/{name}"])
        square = expand2square(picture, PAD)
        assert square.mode == "RGB"
        if picture.mode == "RGB" and picture.width == picture.height:
            assert square is picture
        else:
            assert np.array_equal(np.array(square), arrays[f"expand2square/{name}"])

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
    def test_any_mode_becomes_a_padded_square(self, mode: str) -> None:
        square = expand2square(Image.new(mode, (4, 2)), PAD)
        assert (square.mode, square.size) == ("RGB", (4, 4))
        assert square.getpixel((0, 0)) == square.getpixel((3, 3)) == PAD

    @pytest.mark.parametrize("name", ["photo_90x60.jpg", "img_09_200x150.png"])
    def test_336_pixels_bit_for_bit(self, name: str, goldens: Path, assets: Path, meta: dict) -> None:
        processor = load_image_processor(str(assets / "processor_336"))
        pixels = process_images([open_picture(goldens, name)], processor, Namespace(image_aspect_ratio="pad"))
        golden = meta[f"336_pad_{name}"]
        assert list(pixels.shape) == golden["shape"]
        digest = hashlib.sha256(pixels.numpy().astype("<f4").tobytes()).hexdigest()
        assert digest == golden["sha256_float32_le"]

    def test_batches_stack_when_shapes_agree(self, goldens: Path, processor: CLIPImageProcessorPil, meta: dict) -> None:
        config = Namespace(image_aspect_ratio="anyres", image_grid_pinpoints=str(meta["grid_pinpoints"]))
        mixed = [open_picture(goldens, name) for name in meta["batch"]["files"]]
        tiled = process_images(mixed, processor, config)
        assert isinstance(tiled, list)
        assert [list(tiles.shape) for tiles in tiled] == meta["batch"]["anyres"]["shapes"]
        alike = [open_picture(goldens, name) for name in meta["batch_same_grid_anyres"]["files"]]
        assert list(process_images(alike, processor, config).shape) == meta["batch_same_grid_anyres"]["shapes"]
        assert process_images(mixed, processor, Namespace(image_aspect_ratio="pad")).shape == (4, 3, 28, 28)
        assert process_images(mixed, processor, object()).shape == (4, 3, 28, 28)

    def test_transparent_pixels_keep_their_colour(self, processor: CLIPImageProcessorPil) -> None:
        hidden_red = Image.new("RGBA", (28, 28), (255, 0, 0, 0))
        pixels = process_images([hidden_red], processor, Namespace())
        assert np.allclose(as_pixels(pixels, processor)[0, :, 0, 0], [255, 0, 0], atol=1e-3)

    def test_anyres_view_order(self, processor: CLIPImageProcessorPil) -> None:
        picture = Image.new("RGB", (56, 56))
        picture.paste((255, 0, 0), (28, 0, 56, 28))
        views = as_pixels(process_anyres_image(picture, processor, [[56, 56]]), processor)
        assert views.shape == (5, 3, 28, 28)
        assert [round(view[0].mean()) for view in views[1:]] == [0, 255, 0, 0]

    def test_tiles_row_by_row(self) -> None:
        picture = Image.new("L", (4, 6))
        picture.putdata(range(24))
        assert [tile.getpixel((0, 0)) for tile in divide_to_patches(picture, 2)] == [0, 2, 8, 10, 16, 18]


class TestBase64:
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
    def test_gives_rgb(self, mode: str) -> None:
        buffer = io.BytesIO()
        Image.new(mode, (3, 2)).save(buffer, format="PNG")
        picture = load_image_from_base64(base64.b64encode(buffer.getvalue()).decode())
        assert (picture.mode, picture.size) == ("RGB", (3, 2))

    @pytest.mark.parametrize("text", ["abc", base64.b64encode(b"no picture").decode()])
    def test_says_what_it_wants(self, text: str) -> None:
        with pytest.raises(UserError, match="not a base64-encoded picture") as caught:
            load_image_from_base64(text)
        assert "\n" not in str(caught.value)

    def test_cut_off_picture(self) -> None:
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 50).convert("RGB").save(buffer, format="PNG")
        cut = base64.b64encode(buffer.getvalue()[:200]).decode()
        with pytest.raises(UserError, match="not a base64-encoded picture"):
            load_image_from_base64(cut)


class TestResolution:
    def test_goldens(self, goldens: Path) -> None:
        golden = json.loads((goldens / "resolution.json").read_text())
        for row in golden["select_best_resolution"]:
            grid, size = golden["grids"][row["grid"]], tuple(row["size"])
            assert select_best_resolution(size, grid) == tuple(row["best"]), row
            for pinpoints in (grid, str(grid)):
                shape = get_anyres_image_grid_shape(size, pinpoints, row["patch_size"])
                assert shape == tuple(row["grid_shape"]), row

    def test_no_canvas(self) -> None:
        with pytest.raises(UserError, match="image_grid_pinpoints is empty"):
            select_best_resolution((10, 10), [])

    def test_pinpoints_that_are_no_list(self) -> None:
        with pytest.raises(UserError, match=r"image_grid_pinpoints is '\[\[336'; it must be a list"):
            get_anyres_image_grid_shape((10, 10), "[[336", 14)


class TestImageTokens:
    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_goldens(self, name: str, tokenizers: dict, tokens: dict) -> None:
        golden = tokens["tokenizers"][name]
        for row in golden["rows"]:
            prompt = row["prompt"]
            assert tokenizer_image_token(prompt, tokenizers[name]) == row["ids"], repr(prompt)
            as_tensor = tokenizer_image_token(prompt, tokenizers[name], return_tensors="pt")
            assert as_tensor.dtype == torch.int64
            assert as_tensor.tolist() == row["ids"]
        assert tokenizer_image_token("a<image>b", tokenizers[name], -7) == golden["custom_index_-7"]
        with pytest.raises(ValueError, match="^" + golden["return_tensors_np"].removeprefix("ValueError: ")):
            tokenizer_image_token("a", tokenizers[name], return_tensors="np")

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_spans_lie_in_the_whole_prompt(self, name: str, tokenizers: dict, tokens: dict) -> None:
        for row in tokens["tokenizers"][name]["rows"]:
            prompt = row["prompt"]
            ids, spans = tokenize_with_images(prompt, tokenizers[name])
            assert ids == row["ids"]
            assert spans == sorted(spans)
            assert {place for start, end in spans for place in range(start, end)} == set(range(len(prompt)))
            images = [prompt[start:end] for i, (start, end) in zip(ids, spans, strict=True) if i == IMAGE_TOKEN_INDEX]
            assert images == ["<image>"] * prompt.count("<image>")

    def test_a_written_bos_stays(self, tokenizers: dict) -> None:
        assert tokenizer_image_token("<image><s>dog", tokenizers["tokenizer_nonlegacy"]) == [1, -200, 1, 1307]
        assert tokenizer_image_token("<image><|endoftext|>", tokenizers["tokenizer_bytelevel"]) == [-200, 0]


class TestModelName:
    def test_goldens(self, tokens: dict) -> None:
        for path, name in tokens["get_model_name_from_path"].items():
            assert get_model_name_from_path(path) == name

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("checkpoint-5", "checkpoint-5"),
            ("./checkpoint-5/", "._checkpoint-5"),
            (r"C:\runs\llava-x\checkpoint-5", "llava-x_checkpoint-5"),
            (r"C:\runs\llava-x" + "\\", "llava-x"),
        ],
    )
    def test_short_and_windows_paths(self, path: str, name: str) -> None:
        assert get_model_name_from_path(path) == name

    @pytest.mark.parametrize("path", ["", "/"])
    def test_no_name(self, path: str) -> None:
        with pytest.raises(UserError, match="give a folder or a hub name"):
            get_model_name_from_path(path)


class TestStopping:
    def test_goldens_with_and_without_the_prompt(self, tokenizers: dict, tokens: dict) -> None:
        tokenizer = tokenizers["tokenizer_legacy"]
        for case in tokens["KeywordsStoppingCriteria"]:
            prompt = torch.tensor([case["prompt_ids"]])
            stop = KeywordsStoppingCriteria(case["keywords"], tokenizer, prompt)
            assert [ids.tolist() for ids in stop.keyword_ids] == case["keyword_ids"]
            assert (stop.start_len, stop.max_keyword_len) == (3, max(map(len, case["keyword_ids"])))
            for length, expected in enumerate(case["steps"], 1):
                answer = torch.tensor([case["generated_ids"][:length]])
                assert stop(torch.cat([prompt, answer], dim=1), None) is expected, (case, length)
                assert stop(answer, None) is expected, (case, length)

    def test_all_rows_must_have_stopped(self, tokenizers: dict) -> None:
        prompt = torch.tensor([[1, 5, 6], [1, 7, 8]])
        stop = KeywordsStoppingCriteria(["dog"], tokenizers["tokenizer_legacy"], prompt)
        dog, other = [750], [5]
        assert stop(torch.tensor([[1, 5, 6, *dog], [1, 7, 8, *dog]]), None) is True
        assert stop(torch.tensor([[1, 5, 6, *dog], [1, 7, 8, *other]]), None) is False
        assert stop(torch.tensor([dog, dog]), None) is True

    def test_the_prompt_is_not_searched(self, tokenizers: dict) -> None:
        prompt = torch.tensor([[1, 5, 750]])
        stop = KeywordsStoppingCriteria(["dog"], tokenizers["tokenizer_legacy"], prompt)
        assert stop(prompt, None) is False
        assert stop(torch.tensor([[1, 5, 750, 5]]), None) is False

    def test_a_long_answer_without_the_prompt(self, tokenizers: dict) -> None:
        # upstream looks from start_len on, so a keyword inside another word goes unnoticed in such answers
        prompt = torch.tensor([[1, *range(300, 340)]])
        stop = KeywordsStoppingCriteria(["dog"], tokenizers["tokenizer_legacy"], prompt)
        assert stop(torch.tensor([[340, 309, 1307]]), None) is True  # "hotdog"
