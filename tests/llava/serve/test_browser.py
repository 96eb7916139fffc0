"""The page in a real Chromium. Needs one that is installed, and ``pip install -e .[browser]``; else it is skipped."""

import json
import shutil
import threading

import pytest

from llava.serve import app
from llava.serve.gradio_web_server import EXAMPLES

from .conftest import free_port

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]


@pytest.fixture(scope="module")
def chat(ccra_folder):
    """The address of a running chat."""
    port, until = free_port(), threading.Event()
    flags = ["--model-path", str(ccra_folder), "--device", "cpu", "--port", str(port)]
    running = threading.Thread(target=app.run, args=(app.build_parser().parse_args(flags), until))
    running.start()
    yield f"http://127.0.0.1:{port}"
    until.set()
    running.join(30)


@pytest.fixture(scope="module")
def page(chat):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_a_visit(chat, page, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    expect = playwright.expect
    expect.set_options(timeout=60_000)
    for _ in range(300):  # the model may still be loading
        try:
            page.goto(chat)
            break
        except playwright.Error:
            page.wait_for_timeout(200)
    box = page.get_by_placeholder("Enter text and press ENTER")
    buttons = {name: page.locator("#buttons button", has_text=name) for name in ("Upvote", "Regenerate", "Clear")}
    expect(buttons["Clear"]).to_be_disabled()

    # upload, ask, streamed text
    page.set_input_files("input[type=file]", str(EXAMPLES / "shapes.jpg"))
    page.get_by_label("Remove Image").wait_for()
    box.fill("What <b>shape</b> is this?")
    box.press("Enter")
    bot = page.locator("#chatbot .bot.message").last
    expect(bot).to_contain_text("▌")
    expect(buttons["Upvote"]).to_be_enabled()
    expect(bot).not_to_contain_text("▌")
    assert len(bot.inner_text()) > 20
    expect(page.locator("#chatbot")).to_contain_text("What <b>shape</b> is this?")
    assert page.locator("#chatbot img").first.evaluate("image => image.naturalWidth") == 448

    # the attention panel: maps in the picture's own shape, another layer, the numbers
    panel = page.locator("#attention")
    expect(panel).to_contain_text("PWCA")
    drawn = panel.locator("img")
    expect(drawn).to_have_count(4)
    sizes = [image.evaluate("image => [image.naturalWidth, image.naturalHeight]") for image in drawn.all()]
    assert sizes == [[448, 300]] * 4
    expect(panel).to_contain_text("LPWCA, layer 3")
    slider = panel.locator("input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    slider.dispatch_event("pointerup")
    expect(panel).to_contain_text("LPWCA, layer 4")
    with page.expect_download() as download:
        panel.get_by_text("Download the numbers").click()
    download.value.save_as(tmp_path / "numbers.json")
    assert len(json.loads((tmp_path / "numbers.json").read_text())["pictures"][0]["lpwca"]) == 5

    # a vote, once more, a new dialogue
    buttons["Upvote"].click()
    expect(buttons["Upvote"]).to_be_disabled()
    buttons["Regenerate"].click()
    expect(buttons["Upvote"]).to_be_enabled()
    buttons["Clear"].click()
    expect(page.locator("#chatbot .message")).to_have_count(0)
    expect(panel.locator("img")).to_have_count(0)
    outside = [url for url in asked if not url.startswith((chat, "data:", "blob:"))]
    assert outside == []
