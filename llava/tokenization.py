"""Token ids that checkpoints were trained with, and where in the text each id stands.

transformers 5 re-implements ``LlamaTokenizer`` on the Rust back-end. It merges white space in another order, drops
the dummy prefix before a leading space and can lose BOS, so LLaVA checkpoints would see other ids than in training.
:class:`LlamaTokenizer` keeps the ids of transformers 4's slow tokenizer: sentencepiece does the splitting.
"""

import json
import logging
import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import Any

import sentencepiece
from packaging.version import Version
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_sentencepiece import SPIECE_UNDERLINE, SentencePieceBackend
from transformers.utils import cached_file

from llava.errors import UserError

logger = logging.getLogger(__name__)

VOCAB_FILE = "tokenizer.model"

# From 0.2.2 on sentencepiece no longer counts a piece's span in characters.
SPANS_IN_BYTES = Version(sentencepiece.__version__) >= Version("0.2.2")

# A byte that is a character by itself, and what sentencepiece calls it.
ASCII_BYTES = {f"<0x{byte:02X}>": chr(byte) for byte in range(128)}

Span = tuple[int, int]


class LlamaTokenizer(SentencePieceBackend):
    """sentencepiece Llama tokenizer with the ids of transformers 4.37's slow ``LlamaTokenizer``.

    Args:
        vocab_file: the sentencepiece model, ``tokenizer.model``.
        legacy: ``True``: every stretch of text between added tokens gets sentencepiece's dummy prefix (a space).
            ``False``: only the start of the whole text gets it. Tokenizer configs written before this switch existed
            have no such key and mean ``True``.
        add_bos_token, add_eos_token: what ``tokenizer(text)`` puts around the text.

    Raises:
        ValueError: when an added token asks for ``single_word``, which no Llama tokenizer uses.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 - declared so by the base class

    def __init__(
        self,
        vocab_file: str,
        unk_token: str = "<unk>",
        bos_token: str = "<s>",
        eos_token: str = "</s>",
        pad_token: str | None = None,
        add_bos_token: bool = True,
        add_eos_token: bool = False,
        legacy: bool | None = True,
        **kwargs: Any,
    ) -> None:
        self.add_bos_token = add_bos_token
        self.add_eos_token = add_eos_token
        super().__init__(
            vocab_file=vocab_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            add_bos_token=add_bos_token,
            add_eos_token=add_eos_token,
            legacy=legacy is None or legacy,
            **{"clean_up_tokenization_spaces": False, **kwargs},
        )

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [piece for piece, _ in self.pieces_with_spans(text)]

    def pieces_with_spans(self, text: str) -> list[tuple[str, Span]]:
        """Pieces of ``text`` without BOS and EOS, each with its ``[start, end)`` in characters.

        The bytes of one character all carry that character's span; a piece that is only the dummy prefix carries an
        empty one.
        """
        if self.legacy or not text:
            return self._between_added_tokens(text)
        # The one dummy prefix of non-legacy mode is put in front of the whole text, even when an added token is first.
        pieces = self._between_added_tokens(SPIECE_UNDERLINE + text.replace(SPIECE_UNDERLINE, " "))
        if len(pieces) > 1 and pieces[0][0] == SPIECE_UNDERLINE and pieces[1][0] in self.all_special_tokens:
            del pieces[0]
        return [(piece, (max(start - 1, 0), max(end - 1, 0))) for piece, (start, end) in pieces]

    def _between_added_tokens(self, text: str) -> list[tuple[str, Span]]:
        pieces: list[tuple[str, Span]] = []
        for start, end, is_added in self._cut_at_added_tokens(text):
            chunk = text[start:end]
            if is_added:
                pieces.append((chunk, (start, end)))
            elif chunk:
                pieces.extend((piece, (start + a, start + b)) for piece, (a, b) in self._sentencepiece(chunk))
        return pieces

    def _cut_at_added_tokens(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """``(start, end, is_added)`` for each added token in ``text`` and each stretch between them."""
        spans: list[Span] = []
        added: list[bool] = []
        for chunk in filter(None, _cut(tuple(self._added_tokens_encoder)).split(text)):
            start = spans[-1][1] if spans else 0
            spans.append((start, start + len(chunk)))
            added.append(chunk in self._added_tokens_encoder)
        for i in (i for i, is_added in enumerate(added) if is_added):
            token = self._added_tokens_decoder[self._added_tokens_encoder[text[slice(*spans[i])]]]
            if token.single_word:
                raise ValueError(f"added token {token.content!r} is single_word; LlamaTokenizer has no such tokens")
            if token.lstrip and i > 0:
                start, end = spans[i - 1]
                spans[i - 1] = (start, start + len(text[start:end].rstrip()))
            if token.rstrip and i + 1 < len(spans):
                start, end = spans[i + 1]
                spans[i + 1] = (end - len(text[start:end].lstrip()), end)
        return ((start, end, is_added) for (start, end), is_added in zip(spans, added, strict=True))

    def _sentencepiece(self, chunk: str) -> list[tuple[str, Span]]:
        if self.legacy or not chunk.startswith((SPIECE_UNDERLINE, " ")):
            return _split(self.sp_model, chunk)
        # Without the dummy prefix sentencepiece strips a leading space; behind another word it stays.
        guard = str(self.unk_token)
        pieces = _split(self.sp_model, guard + chunk)[len(self.sp_model.encode(guard)) :]
        return [(piece, (max(start - len(guard), 0), end - len(guard))) for piece, (start, end) in pieces]

    @cached_property
    def _piece_ids(self) -> dict[str, int]:
        return {self.sp_model.id_to_piece(number): number for number in range(self.sp_model.get_piece_size())}

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """The base class's, without the three calls that it makes for each token of a list."""
        if isinstance(tokens, str):
            return super().convert_tokens_to_ids(tokens)
        added, pieces, unknown = self._added_tokens_encoder, self._piece_ids, self.sp_model.unk_id()
        return [added[token] if token in added else pieces.get(token, unknown) for token in tokens]

    def _convert_token_to_id(self, token: str) -> int:
        return self._piece_ids.get(token, self.sp_model.unk_id())

    def build_inputs_with_special_tokens(self, ids: list[int], pair_ids: list[int] | None = None) -> list[int]:
        before = [self.bos_token_id] if self.add_bos_token else []
        after = [self.eos_token_id] if self.add_eos_token else []
        pair = [] if pair_ids is None else before + pair_ids + after
        return before + ids + after + pair

    def get_special_tokens_mask(
        self, ids: list[int], pair_ids: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        if already_has_special_tokens:
            return super().get_special_tokens_mask(ids, pair_ids, already_has_special_tokens=True)
        framed = self.build_inputs_with_special_tokens(
            [0] * len(ids), None if pair_ids is None else [0] * len(pair_ids)
        )
        return [int(token_id != 0) for token_id in framed]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """As transformers 4: in legacy mode, text that a special token ends starts with a space."""
        if not tokens:
            return ""
        special = set(self.all_special_tokens)
        tokens = [tokens[0].removeprefix(SPIECE_UNDERLINE), *tokens[1:]]
        runs = [(is_special, list(run)) for is_special, run in groupby(tokens, special.__contains__)]
        texts = []
        for i, (is_special, run) in enumerate(runs):
            gap = " " if self.legacy and not is_special and i + 1 < len(runs) else ""
            texts.append("".join(run) if is_special else gap + self.sp_model.decode(run))
        return "".join(texts)

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
        **kwargs: Any,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        tokens = self.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)
        texts: list[str] = []
        for is_beyond_vocab, run in groupby(tokens, self._is_beyond_vocab):
            pieces = list(run)
            texts += pieces if is_beyond_vocab else [self.convert_tokens_to_string(pieces)]
        texts = [*filter(None, texts[:-1]), *texts[-1:]]
        text = (" " if spaces_between_special_tokens else "").join(texts)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def _is_beyond_vocab(self, token: str) -> bool:
        return self._added_tokens_encoder.get(token, -1) >= self.vocab_size

    def _save_pretrained(
        self, save_directory: Any, file_names: tuple[str, ...], *args: Any, **kwargs: Any
    ) -> tuple[str, ...]:
        """Finish the config that ``save_pretrained`` wrote, so that transformers 4 and 5 read back the same ids."""
        config_file = Path(file_names[0])
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config |= {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": self.add_bos_token,
            "add_eos_token": self.add_eos_token,
            "legacy": self.legacy,
            "additional_special_tokens": config.pop("extra_special_tokens", []),
        }
        config_file.write_text(
            json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        return super()._save_pretrained(save_directory, file_names, *args, **kwargs)


@lru_cache
def _cut(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Splits a text at the added tokens, which stay as parts of their own; of two at one place the longer."""
    return re.compile(f"({'|'.join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))})")


def _split(model: Any, text: str) -> list[tuple[str, Span]]:
    """sentencepiece's pieces of ``text`` with spans; bytes of one character share its span."""
    pieces = model.encode(text, out_type=str)
    written = [ASCII_BYTES.get(piece, piece) for piece in pieces]
    if "".join(written) != SPIECE_UNDERLINE + text.replace(" ", SPIECE_UNDERLINE):
        return _split_by_protocol(model, text)
    # The pieces are the text itself, behind a dummy prefix that is none of its characters.
    ends = accumulate(map(len, written), initial=-1)
    return [(piece, (max(start, 0), end)) for piece, (start, end) in zip(pieces, pairwise(ends), strict=True)]


def _split_by_protocol(model: Any, text: str) -> list[tuple[str, Span]]:
    """:func:`_split` by what sentencepiece says of each piece; several times slower, and for any text."""
    if SPANS_IN_BYTES:
        # A character's bytes after the first belong to it: the place of each byte in characters.
        chars = [i for i, char in enumerate(text) for _ in char.encode()] + [len(text)]
        encoded = model.encode(text, out_type="proto").pieces
        pieces = [(piece.piece, chars[piece.begin], chars[piece.end]) for piece in encoded]
    else:
        encoded = model.encode(text, out_type="immutable_proto").pieces
        pieces = [(piece.piece, piece.begin, piece.end) for piece in encoded]
    spans: list[tuple[str, Span]] = []
    char_end = 0
    for piece, begin, end in reversed(pieces):
        # sentencepiece gives the whole character to the last of its bytes and an empty span to those before
        is_leading_byte = begin == end and piece.startswith("<0x")
        if not is_leading_byte:
            char_end = end
        spans.append((piece, (begin, char_end)))
    return spans[::-1]


def load_tokenizer(path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint: :class:`LlamaTokenizer` where it has a ``tokenizer.model``, else a fast one.

    Args:
        path: local folder or hub name.
        kwargs: handed to ``from_pretrained`` (``model_max_length``, ``padding_side``, ``cache_dir``, ...).

    Raises:
        UserError: when ``path`` holds no tokenizer and is not a hub name that can be reached.
    """
    hub_options = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}
    try:
        vocab_file = cached_file(
            path,
            VOCAB_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **hub_options,
        )
        if vocab_file is not None:
            return LlamaTokenizer.from_pretrained(path, **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(path, **kwargs)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"no tokenizer in {path!r}; give a folder with {VOCAB_FILE} or tokenizer.json, or the name of a hub "
            f"repository that can be reached ({reason})"
        ) from error
    if "Llama" in type(tokenizer).__name__:
        logger.warning(
            "%s has a Llama tokenizer but no %s: ids may differ from training's and BOS may be missing; put it there",
            path,
            VOCAB_FILE,
        )
    return tokenizer


def encode_with_offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span]]:
    """``tokenizer(text).input_ids``, and for each id its ``[start, end)`` in characters of ``text``.

    BOS, EOS and pieces that are only the dummy prefix have an empty span where they stand.
    """
    if tokenizer.is_fast:
        encoded = tokenizer(text, return_offsets_mapping=True)
        return encoded["input_ids"], [tuple(span) for span in encoded["offset_mapping"]]
    pieces = tokenizer.pieces_with_spans(text)
    ids = tokenizer.convert_tokens_to_ids([piece for piece, _ in pieces])
    before = [(0, 0)] if tokenizer.add_bos_token else []
    after = [(len(text), len(text))] if tokenizer.add_eos_token else []
    return tokenizer.build_inputs_with_special_tokens(ids), before + [span for _, span in pieces] + after
