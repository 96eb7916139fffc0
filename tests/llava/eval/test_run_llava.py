import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from llava.errors import UserError
from llava.eval import run_llava
from llava.eval.run_llava import conv_mode_for, eval_model, image_parser, load_image, load_images, place_images


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("L", (5, 4), 77).save(tmp_path / "http_is_part_of_my_name.png")
    return tmp_path / "http_is_part_of_my_name.png"


def test_pictures_come_from_files_and_addresses(picture: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(picture.parent)
    args = SimpleNamespace(image_file=f"{picture.name};{server}/{picture.name}", sep=";")
    images = load_images(image_parser(args))
    assert [(image.mode, image.size, image.getpixel((0, 0))) for image in images] == [("RGB", (5, 4), (77, 77, 77))] * 2


def test_an_address_is_read_up_to_a_limit(picture: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_llava, "DOWNLOAD_LIMIT", 10)
    with pytest.raises(UserError, match=r"name\.png is larger than 0 MB; give a smaller picture"):
        load_image(f"{server}/{picture.name}")


def test_an_address_or_file_without_picture_is_named(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/none\.png cannot be fetched \(404"):
        load_image(f"{server}/none.png")
    with pytest.raises(UserError, match=r"none\.png of --image-file cannot be read as a picture"):
        load_image(str(tmp_path / "none.png"))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("llava-llama-2-7b-v1", "llava_llama_2"),
        ("llava-v1.6-mistral-7b", "mistral_instruct"),
        ("LLaVA-v1.6-34B", "chatml_direct"),
        ("llava-v1.5-7b", "llava_v1"),
        ("llava-mpt-7b", "mpt"),
        ("llava-7b", "llava_v0"),
    ],
)
def test_the_name_of_a_model_says_its_template(name: str, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert conv_mode_for(name, None) == mode
    assert conv_mode_for(name, mode) == mode
    assert capsys.readouterr().out == ""
    assert conv_mode_for(name, "vicuna_v1") == "vicuna_v1"
    assert capsys.readouterr().out.startswith("[WARNING] ")
    with pytest.raises(UserError, match="--conv-mode is 'v9'"):
        conv_mode_for(name, "v9")


def test_placeholders_become_images_and_a_query_without_gets_one_in_front() -> None:
    assert place_images("What?", False) == "<image>\nWhat?"
    assert place_images("Is <image-placeholder> <image-placeholder>?", False) == "Is <image> <image>?"
    assert place_images("What?", True) == "<im_start><image><im_end>\nWhat?"


def test_the_answer_is_printed(
    tiny_llava: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = SimpleNamespace(
        model_path=str(tiny_llava),
        model_base=None,
        query="Which colour?",
        conv_mode=None,
        image_file=str(picture),
        sep=",",
        temperature=0,
        top_p=None,
        num_beams=1,
        max_new_tokens=6,
    )
    assert eval_model(args) is None
    first = capsys.readouterr().out
    assert first.strip()
    args.image_file, args.query = f"{picture},{picture}", "<image-placeholder> or <image-placeholder>?"
    eval_model(args)
    assert capsys.readouterr().out not in ("", first)

    configs = []
    monkeypatch.setattr(
        run_llava, "generate_texts", lambda model, *given, **more: configs.append(model.config) or ["-"]
    )
    args.mm_attanchor_direction, args.mm_attanchor_tau = "image_into_text", 0.25
    eval_model(args)
    assert (configs[0].mm_attanchor_direction, configs[0].mm_attanchor_tau) == ("image_into_text", 0.25)

    monkeypatch.delattr(run_llava, "load_pretrained_model")
    args.image_file = str(picture)
    with pytest.raises(UserError, match="--query has 2 <image-placeholder> for 1 pictures"):
        eval_model(args)
