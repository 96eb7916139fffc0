"""``tokenizer.json`` for other readers: the sentencepiece tokenizer as one, and one that transformers 4 understands."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_sentencepiece import SPIECE_UNDERLINE

from llava.tokenization import LlamaTokenizer


def tokenizer_json(tokenizer: LlamaTokenizer) -> Tokenizer:
    """A tokenizer of the ``tokenizers`` library with the ids of ``tokenizer``, added tokens included.

    One case of the non-legacy kind it cannot express: text that itself begins with a space gets no dummy prefix.
    """
    model = tokenizer.sp_model
    pieces = [model.id_to_piece(number) for number in range(model.get_piece_size())]
    scores = [model.get_score(number) for number in range(len(pieces))]
    unk, bos, eos = (str(token) for token in (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    fast = Tokenizer(
        models.BPE(vocabulary, _merges(vocabulary, scores), unk_token=unk, fuse_unk=True, byte_fallback=True)
    )
    if tokenizer.legacy:
        # Every stretch of text between added tokens gets the dummy prefix.
        prefixed = [normalizers.Prepend(SPIECE_UNDERLINE), normalizers.Replace(" ", SPIECE_UNDERLINE)]
        fast.normalizer = normalizers.Sequence(prefixed)
    else:
        fast.pre_tokenizer = pre_tokenizers.Metaspace(SPIECE_UNDERLINE, prepend_scheme="first", split=False)
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace(SPIECE_UNDERLINE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=1),
        ]
    )
    before, after = ([bos] if tokenizer.add_bos_token else []), ([eos] if tokenizer.add_eos_token else [])
    fast.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{token}:1" for token in before), "$B:1", *(f"{token}:1" for token in after)],
        special_tokens=[(token, vocabulary[token]) for token in {*before, *after}],
    )
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (unk, bos, eos)])
    for _, token in sorted(tokenizer.added_tokens_decoder.items()):
        add = fast.add_special_tokens if token.special else fast.add_tokens
        add([token])
    return fast


def save_tokenizer_json(tokenizer: LlamaTokenizer, path: Path) -> None:
    """Write :func:`tokenizer_json` in the form that older readers take, too."""
    _write(path, _with_merges_as_texts(json.loads(tokenizer_json(tokenizer).to_str())))


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """``tokenizer.save_pretrained``, so that transformers 4 reads the same ids.

    Of a fast tokenizer transformers 5 writes a class and a form of merges and of special tokens that 4 does not know.
    (:class:`LlamaTokenizer` sees to its files itself.) Merges of pieces that hold a space, which byte-level tokenizers
    do not have, stay in the new form: there is no old one.
    """
    tokenizer.save_pretrained(folder)
    if not tokenizer.is_fast:
        return
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config["tokenizer_class"] == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    _write(file, config)
    file = folder / "tokenizer.json"
    _write(file, _with_merges_as_texts(json.loads(file.read_text(encoding="utf-8"))))


def _with_merges_as_texts(content: dict[str, Any]) -> dict[str, Any]:
    merges = content["model"].get("merges", [])
    if not any(" " in piece for merge in merges for piece in merge):
        content["model"]["merges"] = [" ".join(merge) for merge in merges]
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _merges(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, best score first: the order in which sentencepiece merges."""
    merges = []
    for piece, number in vocabulary.items():
        for cut in range(1, len(piece)):
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary:
                merges.append((-scores[number], number, cut))
    pieces = list(vocabulary)
    return [(pieces[number][:cut], pieces[number][cut:]) for _, number, cut in sorted(merges)]
