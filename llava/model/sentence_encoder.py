"""A frozen sentence encoder beside the model: the question's text as vectors, for a projector that asks for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from llava.errors import UserError


@contextmanager
def _of_that_name(name: str) -> Iterator[None]:
    """What transformers cannot find or read there is the user's mistake."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(
            f"the sentence encoder {name} cannot be loaded ({str(error).splitlines()[0]}); give the folder or hub name "
            "of one, such as sentence-transformers/all-MiniLM-L6-v2"
        ) from error


@cache
def sentence_width(name: str) -> int:
    """How wide that encoder's vectors are, read from its config. Raises UserError when it has none."""
    with _of_that_name(name):
        return AutoConfig.from_pretrained(name).hidden_size


class SentenceEncoder:
    """Token ids of a language model -> text -> one vector for each turn of the question.

    A vector is the mean of the encoder's last hidden states over the turn's tokens, at length 1: what
    sentence-transformers computes for all-MiniLM-L6-v2 and all-mpnet-base-v2. In float32, without gradient.

    It is no ``nn.Module``, so no checkpoint, optimizer or partitioning of the model around it ever sees its weights:
    they are those of the folder that the config names, as the vision tower's are.

    Args:
        name: folder or hub name.
        tokenizer: the language model's, which turns ids back into text.

    Raises:
        UserError: when there is no such encoder.
    """

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.width = sentence_width(name)
        self.language_tokenizer = tokenizer
        with _of_that_name(name):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self.model: Any = AutoModel.from_pretrained(name, dtype=torch.float32).eval().requires_grad_(False)

    def __call__(self, input_ids: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Read the questions of B samples.

        Args:
            input_ids: ``[B, S]`` of the language model.
            turns: ``[B, S]``, as :func:`ccra_patch.query.number_turns` numbers them.

        Returns:
            vectors ``[B, T, width]``, one for each turn in its order, and which of them are real ``[B, T]``; T is the
            number of turns of the sample that has most, at least 1.
        """
        samples = [self._texts(*row) for row in zip(input_ids.tolist(), turns.tolist(), strict=True)]
        most = max(1, max(map(len, samples)))
        device = input_ids.device
        real = torch.tensor([[place < len(texts) for place in range(most)] for texts in samples], device=device)
        vectors = torch.zeros(*real.shape, self.width, device=device)
        if all_texts := [text for texts in samples for text in texts]:
            self.model.to(device)
            vectors[real] = self.encode(all_texts)
        return vectors, real

    def _texts(self, ids: Sequence[int], turns: Sequence[int]) -> list[str]:
        tokens: dict[int, list[int]] = {}
        for token, turn in zip(ids, turns, strict=True):
            if turn > 0:
                tokens.setdefault(turn, []).append(token)
        return [self.language_tokenizer.decode(turn, skip_special_tokens=True).strip() for turn in tokens.values()]

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Tensor:
        """``[number of texts, width]``; a text that is too long for the encoder loses its end."""
        device = self.model.device
        longest = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        tokens = tokens.to(device)
        with torch.autocast(device.type, enabled=False):
            hidden = self.model(**tokens).last_hidden_state
            counted = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            return normalize((hidden * counted).sum(dim=1) / counted.sum(dim=1), dim=-1)
