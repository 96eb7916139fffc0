"""The page in a real Chromium, through Playwright; skipped where there is none (Debian: ``apt-get install chromium``).

The visit can be made to a trained model, and leave the pictures that README and docs show::

    make screenshots                                      # the demo's model and its first example, into docs/images
    make screenshots ARGS="--model-path ./checkpoints/llava-v1.5-7b-ccra --examples my_examples"
"""

import json
import os
import shlex
import shutil
import threading
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from llava.serve import app
from llava.serve.client import Client
from llava.serve.conversation_log import ConversationLog
from llava.serve.gradio_web_server import build_demo, launch
from llava.serve.page_events import Events

from .conftest import Talker, free_port, wait_for

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # folder to leave them in
CHAT_FLAGS = shlex.split(os.environ.get("CHAT_FLAGS", ""))

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
expect = playwright.expect
PATIENCE = 90_000  # ms; the machine may be busy


@pytest.fixture(scope="module")
def chat(request):
    """The address of a running chat: with the demo's model for screenshots, else with a tiny random one."""
    flags = CHAT_FLAGS if SCREENSHOTS else ["--model-path", str(request.getfixturevalue("ccra_folder"))]
    port, until = free_port(), threading.Event()
    args = app.build_parser().parse_args([*flags, "--port", str(port), "--device", "cpu"])
    running = threading.Thread(target=app.run, args=(args, until))
    running.start()
    yield f"http://127.0.0.1:{port}"
    until.set()
    running.join(30)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A tab."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def photograph(shot: bytes, name: str) -> None:
    """Keep a screenshot small: WebP of the whole page or of one part."""
    if SCREENSHOTS:
        file = Path(SCREENSHOTS) / f"{name}.webp"
        Image.open(BytesIO(shot)).convert("RGB").save(file, quality=80, method=6)
        assert file.stat().st_size < 150_000


def natural_size(image) -> list[int]:
    """Width and height of a picture that has arrived."""
    image.evaluate("image => image.decode()")
    return image.evaluate("image => [image.naturalWidth, image.naturalHeight]")


def test_a_visit(chat, page, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for _ in range(600):  # the model may still be loading
        try:
            page.goto(chat)
            break
        except playwright.Error:
            page.wait_for_timeout(200)
    box = page.get_by_placeholder("Enter text and press ENTER")
    buttons = {name: page.locator("#buttons button", has_text=name) for name in ("Upvote", "Regenerate", "Clear")}
    expect(buttons["Clear"]).to_be_disabled()

    # an example, or an upload and a question of our own; streamed text
    if SCREENSHOTS:
        page.locator("#examples tbody tr").first.click()
        expect(box).not_to_have_value("")
    else:
        page.set_input_files("input[type=file]", str(app.EXAMPLES / "shapes.jpg"))
        box.fill("What <b>shape</b> is this?")
    page.get_by_label("Remove Image").wait_for()
    question = box.input_value()
    box.press("Enter")
    bot = page.locator("#chatbot .bot.message").last
    if not SCREENSHOTS:  # the answer of a trained model may be a single word
        expect(bot).to_contain_text("▌")
    expect(buttons["Upvote"]).to_be_enabled()
    expect(bot).not_to_contain_text("▌")
    assert bot.inner_text().strip()
    expect(page.locator("#chatbot")).to_contain_text(question.partition("\n")[0])
    size = natural_size(page.locator("#chatbot img").first)
    assert max(size) == 448 or SCREENSHOTS

    # the attention panel: maps in the picture's own shape, another layer, the numbers
    panel = page.locator("#attention")
    expect(panel).to_contain_text("PWCA weighs")
    drawn = panel.locator("img")
    expect(drawn).to_have_count(4)
    shapes = [natural_size(image) for image in drawn.all()]
    assert shapes == [shapes[0]] * 4
    assert max(shapes[0]) == 448
    assert shapes[0][0] * size[1] == pytest.approx(shapes[0][1] * size[0], rel=0.01)
    expect(panel.locator("canvas, svg.marks")).to_be_visible()  # the curve is drawn last
    end = panel.bounding_box()
    whole = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": end["y"] + end["height"] + 16}
    photograph(page.screenshot(full_page=True, clip=whole), "chat")
    photograph(panel.screenshot(), "attention")

    with page.expect_download() as download:
        panel.get_by_text("Download the numbers").click()
    download.value.save_as(tmp_path / "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    layers = numbers["layers"]
    assert len(numbers["pictures"][0]["lpwca"]) == len(layers)
    middle = len(layers) // 2
    expect(panel).to_contain_text(f"LPWCA, layer {layers[middle]}:")
    slider = panel.locator("input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    slider.dispatch_event("pointerup")
    expect(panel).to_contain_text(f"LPWCA, layer {layers[middle + 1]}:")

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


@pytest.mark.skipif(SCREENSHOTS is not None, reason="there is nothing to see")
def test_a_closed_tab_ends_the_answer_and_frees_the_slot(start, page):
    controller = start.controller()
    talker = Talker(words=10_000, pause=0.02)
    served = start.worker(talker, controller=controller, slots=1)
    demo = build_demo(Events(Client(controller), ConversationLog(None)))
    try:
        page.goto(launch(demo, "127.0.0.1", free_port(), block=False))
        expect(page.locator("#model_selector_row input")).to_have_value("llava-v1.5-talker")
        box = page.get_by_placeholder("Enter text and press ENTER")
        box.fill("Tell me everything.")
        box.press("Enter")
        expect(page.locator("#chatbot .bot.message").last).to_contain_text("7 8 9")
        page.close()
        wait_for(lambda: talker.ended == ["given up"], seconds=30)
        wait_for(lambda: served.worker.jobs.queue_length == 0)
    finally:
        demo.close(verbose=False)
