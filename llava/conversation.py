"""How a dialogue becomes one prompt string: the templates that LLaVA checkpoints were trained with."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from io import BytesIO
from typing import Any

from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError
from llava.mm_utils import expand2square

# A turn's message: its text, None while the model has yet to write it, or (text, picture, how to prepare the picture).
Message = str | tuple[str, Image.Image, str] | None

PAD_COLOR = (122, 116, 104)  # CLIP's mean colour
RESIZE_SIDE = 336


class SeparatorStyle(Enum):
    """How role, text and separator of a turn are put together."""

    SINGLE = auto()
    TWO = auto()
    MPT = auto()
    PLAIN = auto()
    LLAMA_2 = auto()


@dataclass
class Conversation:
    """A prompt template and the dialogue in it. Templates are shared: ``copy()`` before ``append_message``.

    Attributes:
        system: what stands before the first turn.
        roles: names of the human and of the assistant, as the prompt spells them.
        messages: ``[role, message]`` per turn, human first.
        offset: number of example turns that the template begins with.
        sep, sep2: what ends a turn; styles with two use ``sep2`` for the assistant.
        version: family of the template; training chooses its label masking by it.
        skip_next: the chat demo's mark that a turn was refused.
    """

    system: str
    roles: Sequence[str]
    messages: Sequence[Sequence[Any]]
    offset: int
    sep_style: SeparatorStyle = SeparatorStyle.SINGLE
    sep: str = "###"
    sep2: str | None = None
    version: str = "Unknown"
    skip_next: bool = False

    def get_prompt(self) -> str:
        """The whole dialogue as one string; a turn without text leaves its role open for the model to go on.

        Raises:
            UserError: LLAMA_2 style only, when the dialogue does not begin with a human text.
        """
        turns = self._turns()
        match self.sep_style:
            case SeparatorStyle.SINGLE:
                return self.system + self.sep + _join(turns, "{role}:", " {text}", (self.sep, self.sep))
            case SeparatorStyle.TWO:
                return self.system + self.sep + _join(turns, "{role}:", " {text}", (self.sep, self.sep2 or ""))
            case SeparatorStyle.MPT:
                return self.system + self.sep + _join(turns, "{role}", "{text}", (self.sep, self.sep))
            case SeparatorStyle.PLAIN:
                return self.system + _join(turns, "", "{text}", (self.sep, self.sep2 or self.sep))
            case SeparatorStyle.LLAMA_2:
                return self._llama_2_prompt(turns)

    def _turns(self) -> list[tuple[str, str]]:
        """(role, text) per turn, with the placeholder of every picture where this template wants it."""
        turns = [(role, _text(message)) for role, message in self.messages]
        for i, (role, message) in enumerate(self.messages):
            if i > 0 and isinstance(message, tuple) and DEFAULT_IMAGE_TOKEN not in message[0]:
                turns[i] = (role, f"{DEFAULT_IMAGE_TOKEN}\n{message[0]}")
        if not self.messages or not isinstance(self.messages[0][1], tuple):
            return turns

        role, text = turns[0]
        question = text.replace(DEFAULT_IMAGE_TOKEN, "").strip()
        if "mmtag" not in self.version:
            return [(role, f"{DEFAULT_IMAGE_TOKEN}\n{question}"), *turns[1:]]
        shown = [(self.roles[0], f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>"), (self.roles[1], "Received.")]
        return [*shown, (role, question), *turns[1:]]

    def _llama_2_prompt(self, turns: list[tuple[str, str]]) -> str:
        if turns and (turns[0][0] != self.roles[0] or not turns[0][1]):
            raise UserError(f"the dialogue begins with {turns[0]}; this template needs a text of {self.roles[0]} first")
        prompt = ""
        for i, (_, text) in enumerate(turns):
            if i == 0 and self.system:
                text = f"<<SYS>>\n{self.system}\n<</SYS>>\n\n{text}"
            if text:
                prompt += f"{self.sep}[INST] {text} [/INST]" if i % 2 == 0 else f" {text} {self.sep2 or ''}"
        return prompt.removeprefix(self.sep)

    def human_markers(self) -> tuple[list[str], list[str]]:
        """The strings that open and that close a human turn's text in a prompt of this template.

        White space around them is not part of them. Both lists are empty for a template without roles.
        """
        human, assistant = (role.strip() for role in self.roles)
        match self.sep_style:
            case SeparatorStyle.SINGLE:  # with a space: how the training text of version v0 spells it
                opening = [f"{self.sep}{human}:", f"{self.sep} {human}:"]
                closing = [f"{self.sep}{assistant}:", f"{self.sep} {assistant}:"]
            case SeparatorStyle.TWO:
                opening, closing = [f"{human}:"], [f"{assistant}:", self.sep2 or ""]
            case SeparatorStyle.MPT:
                opening, closing = [human], [assistant, self.sep]
            case SeparatorStyle.PLAIN:
                return [], []
            case SeparatorStyle.LLAMA_2:
                opening, closing = ["[INST]", "<</SYS>>"], ["[/INST]", "<<SYS>>", self.sep2 or ""]
        if "mmtag" in self.version:
            # A tagged picture may precede the question. The system prompt holds a tag too, but no line break after it.
            opening, closing = [*opening, "</Image>\n"], [*closing, "<Image>"]
        return opening, [marker for marker in closing if marker]

    def append_message(self, role: str, message: Message) -> None:
        """Add a turn. The messages must be a list: call this on a ``copy()`` of a template."""
        self.messages.append([role, message])  # type: ignore[attr-defined]

    def copy(self) -> "Conversation":
        """A dialogue of its own that begins with these messages."""
        return replace(self, messages=[[role, message] for role, message in self.messages])

    def get_images(self, return_pil: bool = False) -> list[Image.Image | str]:
        """The pictures of the human turns after the template's examples, prepared as their turns ask."""
        return [
            self.process_image(message[1], message[2], return_pil=return_pil)
            for _, message in self.messages[self.offset :: 2]
            if isinstance(message, tuple)
        ]

    def process_image(
        self,
        image: Image.Image,
        image_process_mode: str,
        return_pil: bool = False,
        image_format: str = "PNG",
        max_len: int = 1344,
        min_len: int = 672,
    ) -> Image.Image | str:
        """Prepare a picture for sending: PIL, or base64 of ``image_format``.

        ``Pad`` centres it on a square, ``Resize`` squeezes it to a square of 336 pixels, ``Default`` and ``Crop`` keep
        it. Then, if its longer side exceeds ``max_len``, it shrinks until that fits and the shorter one is at most
        ``min_len``.

        Raises:
            UserError: for another mode.
        """
        if image_process_mode == "Pad":
            image = expand2square(image, PAD_COLOR)
        elif image_process_mode == "Resize":
            image = image.resize((RESIZE_SIDE, RESIZE_SIDE))
        elif image_process_mode not in ("Default", "Crop"):
            raise UserError(f"Invalid image_process_mode: {image_process_mode}; choose Pad, Resize, Default or Crop")
        image = _shrink(image, max_len, min_len)
        return image if return_pil else _to_base64(image, image_format)

    def to_gradio_chatbot(self) -> list[list[str | None]]:
        """``[human, assistant]`` per round after the template's examples; pictures as inline HTML images."""
        rounds: list[list[str | None]] = []
        for i, (_, message) in enumerate(self.messages[self.offset :]):
            if i % 2 == 1:
                rounds[-1][1] = message
            elif isinstance(message, tuple):
                source = self.process_image(message[1], "Default", image_format="JPEG")
                picture = f'<img src="data:image/jpeg;base64,{source}" alt="user upload image" />'
                rounds.append([picture + message[0].replace(DEFAULT_IMAGE_TOKEN, "").strip(), None])
            else:
                rounds.append([message, None])
        return rounds

    def dict(self) -> dict[str, Any]:
        """A JSON-able record of the dialogue, without the pictures themselves."""
        messages = [[role, message[0] if isinstance(message, tuple) else message] for role, message in self.messages]
        return {
            "system": self.system,
            "roles": self.roles,
            "messages": messages,
            "offset": self.offset,
            "sep": self.sep,
            "sep2": self.sep2,
            "sep_style": self.sep_style.name,
            "version": self.version,
        }


def _text(message: Message) -> str:
    return message[0] if isinstance(message, tuple) else message or ""


def _join(turns: list[tuple[str, str]], opener: str, body: str, ends: tuple[str, str]) -> str:
    return "".join(
        opener.format(role=role) + (body.format(text=text) + ends[i % 2] if text else "")
        for i, (role, text) in enumerate(turns)
    )


def _shrink(image: Image.Image, max_len: int, min_len: int) -> Image.Image:
    if max(image.size) <= max_len:
        return image
    aspect = max(image.size) / min(image.size)
    short = max(1, int(min(max_len / aspect, min_len, min(image.size))))
    long = min(max_len, int(short * aspect))
    return image.resize((long, short) if image.width > image.height else (short, long))


def _to_base64(image: Image.Image, image_format: str) -> str:
    if image_format == "JPEG" and image.mode != "RGB":  # JPEG has neither alpha nor palette
        image = image.convert("RGB")
    buffer = BytesIO()
    image.save(buffer, format=image_format)
    return base64.b64encode(buffer.getvalue()).decode()


_USER_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_HUMAN_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_TAGGED_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_LLAMA_2_SYSTEM = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, "
    "explain why instead of answering something not correct. "
    "If you don't know the answer to a question, please don't share false information."
)
_VISION_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_EXAMPLE_QUESTION = "What are the key differences between renewable and non-renewable energy sources?"
_EXAMPLE_ANSWER = (
    "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, "
    "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, "
    "are finite and will eventually be depleted, such as coal, oil, and natural gas. "
    "Here are some key differences between renewable and non-renewable energy sources:\n"
    "1. Availability: Renewable energy sources are virtually inexhaustible, "
    "while non-renewable energy sources are finite and will eventually run out.\n"
    "2. Environmental impact: Renewable energy sources have a much lower environmental impact "
    "than non-renewable sources, which can lead to air and water pollution, greenhouse gas emissions, "
    "and other negative effects.\n"
    "3. Cost: Renewable energy sources can be more expensive to initially set up, "
    "but they typically have lower operational costs than non-renewable sources.\n"
    "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations "
    "than non-renewable sources.\n"
    "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
    "and needs, while non-renewable sources are more rigid and inflexible.\n"
    "6. Sustainability: Renewable energy sources are more sustainable over the long term, "
    "while non-renewable sources are not, and their depletion can lead to economic and social instability.\n"
)
_SPEAKERS = ("Human", "Assistant")
_PARTIES = ("USER", "ASSISTANT")
_CHATML_ROLES = ("<|im_start|>user\n", "<|im_start|>assistant\n")

conv_vicuna_v0 = Conversation(
    system=_HUMAN_SYSTEM,
    roles=_SPEAKERS,
    messages=((_SPEAKERS[0], _EXAMPLE_QUESTION), (_SPEAKERS[1], _EXAMPLE_ANSWER)),
    offset=2,
)
conv_llava_v0 = Conversation(system=_HUMAN_SYSTEM, roles=_SPEAKERS, messages=(), offset=0)
conv_llava_v0_mmtag = replace(conv_llava_v0, system=_TAGGED_SYSTEM, version="v0_mmtag")

conv_vicuna_v1 = Conversation(
    system=_USER_SYSTEM,
    roles=_PARTIES,
    messages=(),
    offset=0,
    sep_style=SeparatorStyle.TWO,
    sep=" ",
    sep2="</s>",
    version="v1",
)
conv_llava_v1 = replace(conv_vicuna_v1, system=_HUMAN_SYSTEM)
conv_llava_v1_mmtag = replace(conv_vicuna_v1, system=_TAGGED_SYSTEM, version="v1_mmtag")

conv_llama_2 = Conversation(
    system=_LLAMA_2_SYSTEM,
    roles=_PARTIES,
    messages=(),
    offset=0,
    sep_style=SeparatorStyle.LLAMA_2,
    sep="<s>",
    sep2="</s>",
    version="llama_v2",
)
conv_llava_llama_2 = replace(conv_llama_2, system=_VISION_SYSTEM)
conv_mistral_instruct = replace(conv_llama_2, system="", sep="")

conv_mpt = Conversation(
    system=(
        "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
        "The assistant gives helpful and honest answers."
    ),
    roles=_CHATML_ROLES,
    messages=(),
    offset=0,
    sep_style=SeparatorStyle.MPT,
    sep="<|im_end|>",
    version="mpt",
)
conv_chatml_direct = replace(conv_mpt, system="<|im_start|>system\nAnswer the questions.")

conv_llava_plain = Conversation(
    system="", roles=("", ""), messages=(), offset=0, sep_style=SeparatorStyle.PLAIN, sep="\n"
)

# Training's --version rebinds this name; read it as conversation.default_conversation.
default_conversation = conv_vicuna_v1

conv_templates = {
    # two separators: Vicuna v1.1 and later, all LLaVA-1.5 checkpoints
    "vicuna_v1": conv_vicuna_v1,
    "v1": conv_vicuna_v1,
    "llava_v1": conv_llava_v1,
    "v1_mmtag": conv_llava_v1_mmtag,
    # one separator: Vicuna v0
    "default": conv_vicuna_v0,
    "v0": conv_vicuna_v0,
    "llava_v0": conv_llava_v0,
    "v0_mmtag": conv_llava_v0_mmtag,
    # [INST] blocks
    "llama_2": conv_llama_2,
    "llava_llama_2": conv_llava_llama_2,
    "mistral_instruct": conv_mistral_instruct,
    # ChatML
    "mpt": conv_mpt,
    "chatml_direct": conv_chatml_direct,
    "mistral_direct": conv_chatml_direct,
    # stage 1: caption only
    "plain": conv_llava_plain,
    "v0_plain": conv_llava_plain,
}
