"""Print a sample as the model meets it, every token coloured by what training makes of it.

::

    python -m llava.data.show DATA.json --tokenizer lmsys/vicuna-7b-v1.5 --index 7 [--version v1] [--query human]

Trained tokens carry a loss, query tokens are the question that a projector such as CCRA reads, the picture's tokens
stand where ``<image>`` is, and the rest is only read.
"""

import argparse
import os
import sys
from itertools import groupby
from typing import Any

import torch

from ccra_patch.query import select_query
from ccra_patch.settings import QUERY_MODES
from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, conv_templates
from llava.data.check import AS_TRAINED, read_with_lines
from llava.errors import UserError, exit_on_user_error
from llava.query_markers import query_markers
from llava.tokenization import load_tokenizer
from llava.train.dataset import encode_text
from llava.train.samples import check_sample, pictures_of

# What a token can be -> (ANSI colour, marks around it where there are no colours).
KINDS = {
    "trained": ("\x1b[1;32m", ("[", "]")),
    "query": ("\x1b[33m", ("{", "}")),
    "image": ("\x1b[1;36m", ("", "")),
    "masked": ("\x1b[2m", ("", "")),
}
PLAIN = "\x1b[0m"
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # how sentencepiece writes the space before a word


def kinds_of(sample: dict[str, Any], tokenizer: Any, template: Conversation, query: str) -> list[tuple[int, str]]:
    """(token id, kind) of every position, before ``<image>`` becomes features. UserError as training's."""
    check_sample(sample, template)
    encoded = encode_text(sample, tokenizer, template, AS_TRAINED)
    ids, labels = encoded["input_ids"], encoded["labels"]
    asked = select_query(ids.unsqueeze(0), None, query_markers(template, tokenizer), query)[0]
    kinds = []
    for token, label, is_query in zip(ids.tolist(), labels.tolist(), asked.tolist(), strict=True):
        if token == IMAGE_TOKEN_INDEX:
            kinds.append((token, "image"))
        elif label != IGNORE_INDEX:
            kinds.append((token, "trained"))
        else:
            kinds.append((token, "query" if is_query else "masked"))
    return kinds


def as_text(kinds: list[tuple[int, str]], tokenizer: Any, colour: bool) -> str:
    """The positions as text, stretches of one kind coloured or, without colours, marked."""
    parts = []
    for kind, run in groupby(kinds, key=lambda position: position[1]):
        ids = [token for token, _ in run]
        if kind == "image":
            text = DEFAULT_IMAGE_TOKEN * len(ids)
        else:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            text = tokenizer.convert_tokens_to_string(pieces)
            if pieces[0].startswith(WORD_START) and not text.startswith(" "):
                text = f" {text}"
        code, (before, after) = KINDS[kind]
        parts.append(f"{code}{text}{PLAIN}" if colour else f"{before}{text}{after}")
    return "".join(parts)


def legend(kinds: list[tuple[int, str]], colour: bool) -> str:
    """How many tokens of each kind there are, in that kind's dress."""
    parts = []
    for kind, (code, (before, after)) in KINDS.items():
        count = f"{sum(own == kind for _, own in kinds)} {kind}"
        parts.append(f"{code}{count}{PLAIN}" if colour else f"{before}{count}{after}")
    return "  ".join(parts)


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="JSON list of samples")
    parser.add_argument("--tokenizer", required=True, help="folder or hub name of the language model")
    parser.add_argument("--index", type=int, default=0, help="which sample, from 0; negative from the end")
    parser.add_argument("--version", default="v1", help="conversation template (default: v1)")
    parser.add_argument("--query", choices=QUERY_MODES, default="human", help="as --mm_ccra_query")
    args = parser.parse_args(argv)
    if args.version not in conv_templates:
        raise UserError(f"--version is {args.version!r}; it must be one of {', '.join(conv_templates)}")
    entries = read_with_lines(args.data)
    if not -len(entries) <= args.index < len(entries):
        raise UserError(f"--index is {args.index}; {args.data} has {len(entries)} samples, 0 to {len(entries) - 1}")
    line, sample = entries[args.index]
    tokenizer = load_tokenizer(args.tokenizer, model_max_length=sys.maxsize)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    template = conv_templates[args.version]
    kinds = kinds_of(sample, tokenizer, template, args.query)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"{args.data}, line {line}, id {sample.get('id')!r}, pictures {pictures_of(sample)}")
    print(legend(kinds, colour))
    print(as_text(kinds, tokenizer, colour))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
