"""The web page: chat about pictures with any model that the controller knows, and see where its question looked."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from llava.constants import LOGDIR
from llava.errors import UserError, exit_on_user_error
from llava.eval.items import known_conv_mode
from llava.serve.access import MAX_REQUEST_MB, add_token_flag
from llava.serve.client import Client
from llava.serve.conversation_log import ConversationLog
from llava.serve.dialogue import new_dialogue
from llava.serve.page_events import VOTES, Events
from llava.serve.panel import explanation
from llava.serve.pictures import Limits
from llava.utils import build_logger, moderation_key

logger = logging.getLogger(__name__)

TITLE = "LLaVA"
HEADER = """# LLaVA with CCRA
Ask about a picture. Below the answer you see where in the picture, and in which layers of the vision tower, the
question made the model look."""
TERMS = """### Terms of use
This is a research demo. What it says can be wrong, biased or rude: check it before you rely on it, and upload nothing
private. {storage}

### License
The page is Apache-2.0. Models and the data they were trained on carry licenses of their own."""
STORES = "This server stores questions, answers and pictures."
STORES_NOTHING = "This server logs no questions, answers or pictures; uploads are deleted after an hour or two."
EXAMPLES = Path(__file__).parent / "examples"
QUESTIONS = "questions.jsonl"  # in a folder of examples

READ_URL = "() => Object.fromEntries(new URLSearchParams(window.location.search))"
SAVE_JSON = """(maps) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(maps)], {type: "application/json"}));
    link.download = "attention.json";
    link.click();
    URL.revokeObjectURL(link.href);
}"""
# No fonts from elsewhere: the page works offline and tells nobody of its visitors.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
# Captions stand above the maps, not on them.
STYLE = "#attention .block:not(#pins) > label[data-testid='block-label'] { position: static; border: 0; }"
FILE_LIFE = 3600  # seconds that Gradio's copies of uploaded and drawn pictures stay on disk


@contextlib.contextmanager
def private_uploads() -> Iterator[None]:
    """Let Gradio keep its copies of pictures where only this user can read them, and only as long as the page is up."""
    variable = "GRADIO_TEMP_DIR"
    before = os.environ.get(variable)
    with tempfile.TemporaryDirectory(prefix="llava-page-", ignore_cleanup_errors=True) as folder:
        os.environ[variable] = folder
        try:
            yield
        finally:
            os.environ.pop(variable)
            if before is not None:
                os.environ[variable] = before


def read_examples(folder: Path) -> list[list[str]]:
    """Pictures and questions that a click puts into the page: lines of ``image`` and ``text`` in ``questions.jsonl``.

    Raises UserError for a folder that has none, and for a line or a picture that cannot be used.
    """
    file = folder / QUESTIONS
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
        examples = [[str(folder / line["image"]), line["text"]] for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} holds no examples ({error!r}); each line is JSON with the keys image and text"
        ) from error
    for picture, _ in examples:
        if not Path(picture).is_file():
            raise UserError(
                f"{file} names {picture}, which does not exist; put the picture there or leave its line out"
            )
    return examples


def guarded(box: gr.Image) -> gr.Image:
    """The same box, which takes uploads only, and tells the visitor why it does not take a picture.

    Gradio itself opens whatever file a hand-made request names, as long as the request does not call it a file. Not a
    subclass: Gradio writes a stub file beside the module of every component class.
    """
    take, uploads = box.preprocess, Path(box.GRADIO_CACHE).resolve()

    def preprocess(payload: Any) -> Any:
        if payload is not None and not Path(payload.path).resolve().is_relative_to(uploads):
            logger.warning("a request named the file %s, which nobody uploaded", payload.path)
            raise gr.Error("The picture was not uploaded; choose it on the page.", print_exception=False)
        try:
            return take(payload)
        except Image.DecompressionBombError as error:
            most = Limits().pixels / 1e6
            told = f"The picture is larger than {most:g} million pixels; upload a smaller one."
            raise gr.Error(told, print_exception=False) from error
        except (OSError, SyntaxError, ValueError) as error:
            logger.warning("an upload cannot be read: %s", error)
            told = "The file cannot be read as a picture; upload a whole PNG, JPEG or WebP."
            raise gr.Error(told, print_exception=False) from error

    box.preprocess = preprocess  # type: ignore[method-assign]
    return box


def build_demo(events: Events, embed: bool = False, concurrency: int = 16, examples: Path = EXAMPLES) -> gr.Blocks:
    """The page: its elements, and which event each of them starts.

    Args:
        events: what they do.
        embed: leave header and terms out.
        concurrency: answers streamed at once.
        examples: folder of pictures and questions to begin with; see :func:`read_examples`.
    """
    suggested = read_examples(examples)
    life = (FILE_LIFE, FILE_LIFE)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=life) as demo:
        state, maps, url_params = gr.State(new_dialogue), gr.State(None), gr.JSON(visible="hidden")
        if not embed:
            gr.Markdown(HEADER)
        notice = gr.Markdown()
        with gr.Row():
            with gr.Column(scale=3):
                with gr.Row(elem_id="model_selector_row"):
                    model = gr.Dropdown(choices=[], interactive=True, show_label=False, container=False)
                image = guarded(gr.Image(type="pil", label="Picture"))
                mode = gr.Radio(
                    ["Crop", "Resize", "Pad", "Default"],
                    value="Default",
                    label="Preprocess for non-square image",
                    visible=False,
                )
                with gr.Accordion("Parameters", open=False):
                    wishes = [
                        gr.Slider(0.0, 1.0, value=0.2, step=0.1, label="Temperature"),
                        gr.Slider(0.0, 1.0, value=0.7, step=0.1, label="Top P"),
                        gr.Slider(64, 1024, value=512, step=64, label="Max output tokens"),
                        gr.Checkbox(value=True, label="Ask for the question's attention"),
                    ]
                suggestions = gr.Column()
            with gr.Column(scale=8):
                chatbot = gr.Chatbot(
                    elem_id="chatbot", label="LLaVA Chatbot", height=650, layout="panel", buttons=["copy"]
                )
                with gr.Row():
                    with gr.Column(scale=8):
                        textbox = gr.Textbox(
                            label="Question",
                            show_label=False,
                            placeholder="Enter text and press ENTER",
                            container=False,
                        )
                    with gr.Column(scale=1, min_width=50):
                        send = gr.Button("Send", variant="primary")
                with gr.Row(elem_id="buttons"):
                    labels = ("👍  Upvote", "👎  Downvote", "⚠️  Flag", "🔄  Regenerate", "🗑️  Clear")
                    five = [gr.Button(label, size="md", min_width=100, interactive=False) for label in labels]
        with suggestions:  # below its picture, now that the text box is there
            gr.Examples(suggested, [image, textbox], elem_id="examples")
        attention = _build_panel(events, state, maps)
        if not embed:
            gr.Markdown(TERMS.format(storage=STORES if events.log.folder else STORES_NOTHING))

        turn = [state, chatbot, textbox, image, *five]
        *voting, again, clean = five
        for start in (
            textbox.submit(events.add_text, [state, textbox, image, mode], turn),
            send.click(events.add_text, [state, textbox, image, mode], turn),
            again.click(events.regenerate, [state, mode], turn),
        ):
            start.success(
                events.http_bot, [state, model, *wishes], [state, chatbot, maps, *five], concurrency_limit=concurrency
            ).then(events.show_panel, [state, maps], attention)
        for emptied in (clean.click, chatbot.clear):  # the latter is the chat box's own bin
            emptied(events.clear, None, [*turn, maps]).then(events.show_panel, [state, maps], attention)
        for button, kind in zip(voting, ("upvote", "downvote", "flag"), strict=True):
            button.click(events.vote(kind), [state, model], [textbox, *five[:VOTES]], api_name=kind)
        demo.load(events.load_page, url_params, [model, notice], js=READ_URL)
    return demo


def _build_panel(events: Events, state: gr.State, maps: gr.State) -> list[Any]:
    """The attention panel; returns what :meth:`Events.show_panel` fills."""
    with gr.Accordion("Attention", elem_id="attention"):
        told = gr.Markdown(explanation(None))
        words = gr.HighlightedText(visible=False)
        with gr.Row():
            pictures = [gr.Image(visible=False, interactive=False, buttons=["fullscreen"]) for _ in range(4)]
        with gr.Row():
            weights = gr.LinePlot(
                x="layer",
                y="weight",
                color="kind",
                title="LWCA, layer weights",
                height=220,
                visible=False,
            )
            with gr.Column():
                slider = gr.Slider(
                    1, 2, step=1, label="Middle picture: which of the layers, from shallow to deep", visible=False
                )
                save = gr.Button("Download the numbers (JSON)", visible=False)
        pins = gr.AnnotatedImage(label="AttAnchor: pinned words", elem_id="pins", height=380, visible=False)
    numbers = gr.JSON(visible="hidden")
    slider.release(events.show_layer, [state, maps, slider], pictures[1])
    save.click(lambda maps: maps, maps, numbers, api_name="numbers").then(None, numbers, None, js=SAVE_JSON)
    return [told, words, *pictures, weights, slider, pins, save]


def launch(demo: gr.Blocks, host: str, port: int | None, share: bool = False, block: bool = True) -> str:
    """Serve the page; returns its address. Nothing about visitors is kept or sent elsewhere by Gradio itself."""
    Image.MAX_IMAGE_PIXELS = Limits().pixels // 2  # PIL refuses pictures of more than twice that
    demo.queue(api_open=False)
    _, url, _ = demo.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=not block,
        quiet=not block,
        run_history=False,
        max_file_size=MAX_REQUEST_MB << 20,
        footer_links=["gradio"],
        theme=THEME,
        css=STYLE,
    )
    return url


def add_examples_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--examples",
        type=Path,
        metavar="FOLDER",
        help=f"pictures, and {QUESTIONS} with a line of image and text for each question (default: two drawings)",
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava.serve.gradio_web_server", description="Serve the web page.")
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=None, help="default: the first free one from 7860 on")
    parser.add_argument("--controller-url", type=str, default="http://localhost:21001", help="URL of the controller")
    parser.add_argument("--concurrency-count", type=int, default=16, help="answers streamed at once (default: 16)")
    parser.add_argument(
        "--model-list-mode", type=str, choices=["once", "reload"], default="once", help="when models are listed"
    )
    parser.add_argument("--share", action="store_true", help="also a public address through gradio.live")
    parser.add_argument("--moderate", action="store_true", help="OpenAI moderation of questions (OPENAI_API_KEY)")
    parser.add_argument("--embed", action="store_true", help="leave header and terms out")
    parser.add_argument("--conv-mode", type=str, help="template of all models (default: as workers and names say)")
    parser.add_argument("--log-dir", type=str, default=LOGDIR, help="folder of logs and conversations (default: .)")
    parser.add_argument("--no-conversations", action="store_true", help="store no questions, answers and pictures")
    add_examples_flag(parser)
    add_token_flag(parser)
    return parser


@exit_on_user_error
def main() -> None:
    args = build_parser().parse_args()
    build_logger("gradio_web_server", "gradio_web_server.log", capture_output=True, folder=args.log_dir)
    logger.info("args: %s", {name: value for name, value in vars(args).items() if name != "auth_token"})
    if args.conv_mode:
        known_conv_mode(args.conv_mode)
    if args.moderate:
        moderation_key()  # asked for now, not at the first question
    client = Client(args.controller_url, args.auth_token)
    events = Events(
        client,
        ConversationLog(None if args.no_conversations else Path(args.log_dir)),
        conv_mode=args.conv_mode,
        reload=args.model_list_mode == "reload",
        moderate=args.moderate,
    )
    try:
        events.models = asyncio.run(client.models())
    except UserError as error:
        logger.warning("%s; the page asks again when it is opened", error)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and leaves nothing behind
    with private_uploads():
        demo = build_demo(events, args.embed, args.concurrency_count, args.examples or EXAMPLES)
        launch(demo, args.host, args.port, args.share)


if __name__ == "__main__":
    main()
