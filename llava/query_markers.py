"""Where human turns begin and end, in token ids: a template's role strings as a tokenizer really writes them.

The ids of ``USER:`` depend on what stands before it: the start of the text, a space, ``</s>``, an image. So this module
renders a dialogue that puts the markers into all these places, tokenises it whole, and reads their ids off it.
"""

import re

from transformers import PreTrainedTokenizerBase

from ccra_patch.query import QueryMarkers
from llava.constants import (
    DEFAULT_IM_END_TOKEN,
    DEFAULT_IM_START_TOKEN,
    DEFAULT_IMAGE_PATCH_TOKEN,
    DEFAULT_IMAGE_TOKEN,
)
from llava.conversation import Conversation, SeparatorStyle
from llava.mm_utils import tokenize_with_images
from llava.tokenization import Span

_FRAMED_IMAGE = f"{DEFAULT_IM_START_TOKEN}{DEFAULT_IMAGE_TOKEN}{DEFAULT_IM_END_TOKEN}"
_TAGGED_IMAGE = f"<Image>{DEFAULT_IMAGE_TOKEN}</Image>"
_IMAGES = (DEFAULT_IMAGE_TOKEN, _FRAMED_IMAGE, _TAGGED_IMAGE)
_BEGINNINGS = ("", "\n", "\n\n", " ", "\t", '"', *_IMAGES, *(f"{image}\n" for image in _IMAGES))
_ENDINGS = ("", ".", "?", "!", '"', ")", "7", "é", "。", "\n", "\n\n", " ", "  ", "\t", *_IMAGES, f"\n{_IMAGES[0]}")


def query_markers(conv: Conversation, tokenizer: PreTrainedTokenizerBase) -> QueryMarkers:
    """The markers by which ``ccra_patch`` finds the question in prompts of ``conv``; none for a template without roles.

    ``skip`` holds the special tokens and the white space that templates and tokenizers put around texts.
    """
    opening, closing = conv.human_markers()
    if not opening:
        return QueryMarkers(open=(), close=(), skip=())
    vocab = tokenizer.get_vocab()
    frames = (DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN)
    skip = {*tokenizer.all_special_ids, *(vocab[token] for token in frames if token in vocab)}
    found: dict[str, set[tuple[int, ...]]] = {marker: set() for marker in [*opening, *closing]}
    any_marker = re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))

    for prompt in _probes(conv, [*opening, *closing], vocab):
        ids, spans = tokenize_with_images(prompt, tokenizer)
        skip |= {i for i, (start, end) in zip(ids, spans, strict=True) if i >= 0 and not prompt[start:end].strip()}
        for match in any_marker.finditer(prompt):
            found[match.group()].add(_ids_touching(match.span(), ids, spans))
    return QueryMarkers(
        open=tuple(sorted(set().union(*(found[marker] for marker in opening)))),
        close=tuple(sorted(set().union(*(found[marker] for marker in closing)))),
        skip=tuple(sorted(skip)),
    )


def _ids_touching(marker: Span, ids: list[int], spans: list[Span]) -> tuple[int, ...]:
    # An id that joins the question's last sign to the marker counts as marker: without it the rest may be ambiguous.
    return tuple(
        i for i, (start, end) in zip(ids, spans, strict=True) if start < end and start < marker[1] and end > marker[0]
    )


def _probes(conv: Conversation, markers: list[str], vocab: dict[str, int]) -> list[str]:
    """Prompts with every marker in every surrounding that a dialogue or a hand-written prompt can give it."""
    dialogue = conv.copy()
    dialogue.messages = []
    for number, ending in enumerate([*_ENDINGS, *_run_ins(conv, vocab)]):
        text = f"{_BEGINNINGS[number % len(_BEGINNINGS)]}It is{ending}"
        dialogue.append_message(conv.roles[0], text)
        dialogue.append_message(conv.roles[1], text)
    return [dialogue.get_prompt(), *(f"{marker} It is {marker} It is\n{marker} It is" for marker in markers)]


def _run_ins(conv: Conversation, vocab: dict[str, int]) -> list[str]:
    """Text ends that a piece of the vocabulary joins with the beginning of the separator, such as ``.#`` or ``?<``."""
    if conv.sep_style not in (SeparatorStyle.SINGLE, SeparatorStyle.MPT):
        return []  # in the other styles a space stands between text and marker
    beginnings = [conv.sep[:length] for length in range(1, len(conv.sep) + 1)]
    ends = {piece.removesuffix(beginning) for piece in vocab for beginning in beginnings if piece.endswith(beginning)}
    texts = {end.replace("▁", " ").replace("Ġ", " ") for end in ends}  # a space in sentencepiece and in byte-level BPE
    return sorted(text for text in texts if text and text.isascii())
