import io
from pathlib import Path

import pytest
from PIL import Image

from llava.errors import UserError
from llava.eval.items import (
    Item,
    check_items,
    open_image,
    render_prompt,
    resolve_conv_mode,
)


def test_plain_models_get_the_mmtag_template(capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve_conv_mode("llava_v1", "llava-plain-7b") == "v1_mmtag"
    assert "v1_mmtag instead of llava_v1" in capsys.readouterr().out
    assert resolve_conv_mode("llava_v1", "llava-plain-finetune") == "llava_v1"
    assert resolve_conv_mode("v1_mmtag", "llava-plain-7b") == "v1_mmtag"


def test_an_unknown_template_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"--conv-mode is 'vicuna'; it must be one of .*vicuna_v1"):
        resolve_conv_mode("vicuna", "llava")


def test_prompt_opens_the_assistants_turn_and_wraps_pictures() -> None:
    prompt = render_prompt("<image>\nWhat?", "vicuna_v1")
    assert prompt.endswith(" USER: <image>\nWhat? ASSISTANT:")
    assert "USER: <im_start><image><im_end>\nWhat?" in render_prompt("<image>\nWhat?", "vicuna_v1", start_end=True)


def test_a_picture_mark_without_picture_is_refused() -> None:
    with pytest.raises(UserError, match="question 7 has 2 <image> for 1 pictures"):
        check_items([Item({"question_id": 7}, "<image>\nIs <image> a word?", ("a.png",))])


def test_missing_pictures_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    items = [Item({"question_id": i}, "<image>", (str(tmp_path / f"{i}.png"),)) for i in range(3)]
    with pytest.raises(
        UserError, match=r"2 of 3 pictures are not there, first .*1\.png of question 1; check --image-folder"
    ):
        check_items(items)


def test_pictures_are_rgb_from_files_and_from_bytes(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 6), (10, 20, 30, 0)).save(tmp_path / "a.png")
    buffer = io.BytesIO((tmp_path / "a.png").read_bytes())
    for source in (str(tmp_path / "a.png"), buffer.getvalue()):
        image = open_image(source, "question 1")
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (4, 6), (10, 20, 30))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_a_broken_picture_names_file_and_question(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png of question 3 cannot be read as a picture"):
        open_image(str(path), "question 3")
