"""From a conversation to token ids and labels, in one tokenisation.

A conversation is rendered into segments, pieces of text that are trained on or not. Together they are the text that the
template gives at inference. That text is tokenised once, and each token takes its label from the segment in which
its first character lies; nothing is tokenised again to count how long a part of it is.

Ids are upstream LLaVA's everywhere, and so are labels where upstream's make sense. The rest:

====================================================  ========================  ========================================
sample                                                upstream                  here
====================================================  ========================  ========================================
v1, llama_2: a separator in a turn (``</s>``,         all masked, "tokeniza-    answers and their ``</s>`` trained
``<unk>``, ``ASSISTANT:`` or ``[/INST]``)             tion mismatch"
v1, llama_2: the last turn is the human's             all masked, same warning  the answers before it trained
v1: empty question                                    all masked, same warning  answer and its ``</s>`` trained
chat templates: no answer that has text               all masked, same warning  all masked: there is nothing to learn
llama_2: empty first question                         AssertionError            UserError
mpt, chatml: any sample                               all masked, same warning  answers and their ``<|im_end|>`` trained
``###`` templates (``llava_v0``, ...): any sample     masks slip by a few       answers and the ``###`` that ends them
                                                      tokens with every turn    trained
====================================================  ========================  ========================================
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from llava import conversation as conversation_lib
from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_TOKEN, IGNORE_INDEX
from llava.conversation import Conversation, SeparatorStyle
from llava.errors import UserError
from llava.mm_utils import tokenize_with_images
from llava.tokenization import encode_with_offsets

Turn: TypeAlias = dict[str, str]
Turns: TypeAlias = Sequence[Turn]


class Segment(NamedTuple):
    text: str
    trained: bool


def preprocess(
    sources: Sequence[Turns],
    tokenizer: PreTrainedTokenizerBase,
    has_image: bool = False,
    template: Conversation | None = None,
) -> dict[str, Any]:
    """Token ids and labels of conversations.

    Args:
        sources: conversations, each a list of ``{"from": "human" | "gpt", "value": text}``.
        tokenizer: its ``model_max_length`` cuts text-only conversations (the collator cuts the others).
        has_image: ``<image>`` in the text stands for a picture; otherwise it is ordinary text.
        template: the conversation template; ``llava.conversation.default_conversation`` when not given.

    Returns:
        ``input_ids`` and ``labels``: ``[B, S]`` right-padded for the chat templates, else lists of ``[S]``.

    Raises:
        UserError: a conversation breaks a rule of :func:`check_turns`.
    """
    template = template or conversation_lib.default_conversation
    if template.sep_style == SeparatorStyle.PLAIN:
        return preprocess_plain(sources, tokenizer, template)
    if _takes_turns(template):
        return preprocess_chat(sources, tokenizer, has_image, template)
    return preprocess_v0(sources, tokenizer, has_image, template)


def preprocess_chat(
    sources: Sequence[Turns],
    tokenizer: PreTrainedTokenizerBase,
    has_image: bool = False,
    template: Conversation | None = None,
) -> dict[str, Tensor]:
    """:func:`preprocess` for templates in which human and gpt take turns. The template makes the difference."""
    encoded = _encode_all(chat_segments, sources, tokenizer, has_image, template)
    return {
        "input_ids": pad_sequence(encoded["input_ids"], batch_first=True, padding_value=tokenizer.pad_token_id),
        "labels": pad_sequence(encoded["labels"], batch_first=True, padding_value=IGNORE_INDEX),
    }


preprocess_v1 = preprocess_chat
preprocess_llama_2 = preprocess_chat
preprocess_mpt = preprocess_chat


def preprocess_plain(
    sources: Sequence[Turns], tokenizer: PreTrainedTokenizerBase, template: Conversation | None = None
) -> dict[str, list[Tensor]]:
    """:func:`preprocess` for captions: the picture, then the caption. What the human said is dropped."""
    return _encode_all(plain_segments, sources, tokenizer, True, template)


def preprocess_v0(
    sources: Sequence[Turns],
    tokenizer: PreTrainedTokenizerBase,
    has_image: bool = False,
    template: Conversation | None = None,
) -> dict[str, list[Tensor]]:
    """:func:`preprocess` for the ``###`` templates of the first LLaVA."""
    return _encode_all(v0_segments, sources, tokenizer, has_image, template)


def chat_segments(turns: Turns, template: Conversation) -> list[Segment]:
    """Segments whose text is ``template.get_prompt()``; trained: each answer and the separator that closes it."""
    conversation = template.copy()
    conversation.messages = []
    segments = []
    done = ""
    for turn in used_turns(turns, template):
        if turn["from"] == "human":
            conversation.append_message(conversation.roles[0], turn["value"])
            continue
        open_turn = conversation.copy()
        open_turn.append_message(conversation.roles[1], None)
        asked = open_turn.get_prompt()
        conversation.append_message(conversation.roles[1], turn["value"])
        answered = conversation.get_prompt()
        segments += [Segment(asked[len(done) :], False), Segment(answered[len(asked) :], True)]
        done = answered
    return [*segments, Segment(conversation.get_prompt()[len(done) :], False)]


def plain_segments(turns: Turns, template: Conversation) -> list[Segment]:
    """The picture, then the trained caption and separator."""
    return [Segment(DEFAULT_IMAGE_TOKEN, False), Segment(turns[1]["value"] + template.sep, True)]


def v0_segments(turns: Turns, template: Conversation) -> list[Segment]:
    """``### Role: text`` lines; trained: each answer and the ``###`` behind it, by which the reader knows its end."""
    roles = {"human": template.roles[0], "gpt": template.roles[1]}
    segments = [Segment(f"{template.system}\n\n###", False)]
    for turn in turns:
        speaker = turn["from"].lower()
        segments.append(Segment(f" {roles.get(speaker, 'unknown')}:", False))
        segments.append(Segment(f" {turn['value']}\n###", speaker == "gpt"))
    return [*segments, Segment(" ", False)]


def encode_segments(
    segments: Sequence[Segment], tokenizer: PreTrainedTokenizerBase, has_image: bool
) -> tuple[list[int], list[int]]:
    """Ids of the whole text and their labels: the id itself in a trained segment, ``IGNORE_INDEX`` elsewhere.

    A token belongs to the segment of its first character. A token without characters (BOS, a dummy prefix) belongs to
    that of the character behind it.
    """
    text = "".join(segment.text for segment in segments)
    if has_image:
        ids, spans = tokenize_with_images(text, tokenizer)
    else:
        ids, spans = encode_with_offsets(tokenizer, text)
        ids, spans = ids[: tokenizer.model_max_length], spans[: tokenizer.model_max_length]
    ends = list(accumulate(len(segment.text) for segment in segments))
    last = len(segments) - 1
    trained = [segments[min(bisect_right(ends, start), last)].trained for start, _ in spans]
    return ids, [token if is_trained else IGNORE_INDEX for token, is_trained in zip(ids, trained, strict=True)]


def _encode_all(
    segments_of: Callable[[Turns, Conversation], list[Segment]],
    sources: Sequence[Turns],
    tokenizer: PreTrainedTokenizerBase,
    has_image: bool,
    template: Conversation | None,
) -> dict[str, list[Tensor]]:
    template = template or conversation_lib.default_conversation
    encoded: dict[str, list[Tensor]] = {"input_ids": [], "labels": []}
    for turns in sources:
        check_turns(turns, template)
        ids, labels = encode_segments(segments_of(turns, template), tokenizer, has_image)
        encoded["input_ids"].append(torch.tensor(ids, dtype=torch.long))
        encoded["labels"].append(torch.tensor(labels, dtype=torch.long))
    return encoded


def check_turns(turns: Any, template: Conversation) -> None:
    """The rules that a conversation must keep under ``template``.

    Raises:
        UserError: the first broken rule.
    """
    if not isinstance(turns, list) or not turns:
        raise UserError("its conversations must be a list of at least one turn {'from': ..., 'value': ...}")
    for number, turn in enumerate(turns):
        if not (isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)):
            raise UserError(f"turn {number} must be an object with the texts 'from' and 'value'")
    if template.sep_style == SeparatorStyle.PLAIN:
        _check_plain(turns)
    elif _takes_turns(template):
        _check_chat(turns, template)


def preprocess_multimodal(
    sources: Sequence[Turns], data_args: Any, template: Conversation | None = None, keep_places: bool = False
) -> Sequence[Turns]:
    """Put ``<image>`` where the model expects it: on a line of its own at the start of its turn.

    Args:
        sources: conversations of samples with pictures.
        data_args: ``is_multimodal`` (False: nothing is changed), ``mm_use_im_start_end`` (put ``<im_start>`` and
            ``<im_end>`` around ``<image>``).
        template: a version with ``mmtag`` in its name puts ``<Image>`` tags around ``<image>``.
        keep_places: leave each ``<image>`` in its place in the text, for samples with several pictures.
            Otherwise a turn has one picture, however often it says ``<image>``.
    """
    if not data_args.is_multimodal:
        return sources
    shown = DEFAULT_IMAGE_TOKEN
    if data_args.mm_use_im_start_end:
        shown = DEFAULT_IM_START_TOKEN + shown + DEFAULT_IM_END_TOKEN
    if "mmtag" in (template or conversation_lib.default_conversation).version:
        shown = f"<Image>{shown}</Image>"

    def placed(text: str) -> str:
        if DEFAULT_IMAGE_TOKEN not in text:
            return text
        if not keep_places:
            text = f"{DEFAULT_IMAGE_TOKEN}\n{text.replace(DEFAULT_IMAGE_TOKEN, '').strip()}".strip()
        return text.replace(DEFAULT_IMAGE_TOKEN, shown)

    return [[{**turn, "value": placed(turn["value"])} for turn in turns] for turns in sources]


def _takes_turns(template: Conversation) -> bool:
    return (
        template.sep_style == SeparatorStyle.LLAMA_2 or template.version.startswith("v1") or template.version == "mpt"
    )


def _check_plain(turns: Turns) -> None:
    if len(turns) != 2:
        raise UserError(f"it has {len(turns)} turns; the plain template takes two, human and gpt")
    if DEFAULT_IMAGE_TOKEN not in turns[0]["value"]:
        raise UserError(f"its first turn has no {DEFAULT_IMAGE_TOKEN}; the plain template trains captions of a picture")


def _check_chat(turns: Turns, template: Conversation) -> None:
    for number, turn in enumerate(turns):
        if turn["from"] not in ("human", "gpt"):
            raise UserError(f"turn {number} is from {turn['from']!r}; a turn must be from 'human' or 'gpt'")
    rest = used_turns(turns, template)
    if not rest:
        raise UserError("it has no human turn; a conversation needs a question (a gpt turn at the start is dropped)")
    for number, turn in enumerate(rest):
        if turn["from"] != ("human", "gpt")[number % 2]:
            place = number + len(turns) - len(rest)
            raise UserError(f"turn {place} is from {turn['from']!r} like the one before; human and gpt must alternate")
    if template.sep_style == SeparatorStyle.LLAMA_2 and not rest[0]["value"]:
        raise UserError("its first question is empty; the llama_2 templates need its text")


def used_turns(turns: Turns, template: Conversation) -> Turns:
    """Without an opening gpt turn, where turns alternate: some datasets greet the user first."""
    return turns[1:] if _takes_turns(template) and turns[0]["from"] != "human" else turns
