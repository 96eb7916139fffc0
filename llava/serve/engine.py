"""From a prompt and pictures to a growing answer: the one way by which worker and command line generate."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationMixin, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ccra_patch.recorder import recorded_maps
from llava.errors import UserError
from llava.eval.generation import Sampling
from llava.mm_utils import KeywordsStoppingCriteria, process_images, tokenizer_image_token
from llava.model.builder import DEFAULT_CONTEXT_LENGTH, load_pretrained_model
from llava.serve.attention import Seen, describe_attention
from llava.serve.pictures import Limits
from llava.serve.prompts import framed, require_marks, too_long

MAX_NEW_TOKENS = 1024
GREEDY_BELOW = 0.001  # temperature


@dataclass(frozen=True)
class Ask:
    """One question in its template, with one ``<image>`` for each picture."""

    prompt: str
    pictures: Sequence[Image.Image] = ()
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    stops: Sequence[str] = ()
    wants_maps: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer so far.

    Attributes:
        text: all of it, without stop strings.
        finished: None while more may come, else ``stop`` or ``length``.
        prompt_tokens: what the language model read, pictures included.
        new_tokens: what it has written.
        maps: see :mod:`llava.serve.attention`; only in the last one, only when asked for.
    """

    text: str = ""
    finished: str | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    maps: dict[str, Any] | None = None


class Engine:
    """A loaded model. :meth:`answer` may run in several threads at once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: Any, image_processor: Any, limits: Limits | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.image_processor = image_processor
        self.limits = limits or Limits()
        self.context_length = getattr(model.config, "max_position_embeddings", DEFAULT_CONTEXT_LENGTH)
        # Fast tokenizers change their own settings in a call and may not be called by two threads.
        self._tokenizing = threading.Lock()

    @classmethod
    def load(
        cls, model_path: str, model_base: str | None, model_name: str, limits: Limits | None = None, **options: Any
    ) -> "Engine":
        """Load a checkpoint; ``options`` are those of ``load_pretrained_model``, whose errors it raises."""
        tokenizer, model, image_processor, _ = load_pretrained_model(model_path, model_base, model_name, **options)
        return cls(tokenizer, model, image_processor, limits)

    @torch.inference_mode()
    def answer(self, ask: Ask, tell: Callable[[Answer], None], given_up: threading.Event) -> Answer:
        """Write the answer, calling ``tell`` with each new state of it; ends soon after ``given_up`` is set.

        Raises:
            UserError: when marks and pictures do not fit each other or the model; TooLong when there is no room left.
        """
        text = self._read(ask)
        input_ids = self._tokenize(text)
        with recorded_maps(self.model) as recorded:
            prompt = self._embed(input_ids, ask.pictures)
        budget = min(ask.max_new_tokens, MAX_NEW_TOKENS, self.context_length - prompt.length)
        if budget < 1:
            raise too_long(f"{prompt.length} tokens with its pictures", self.context_length)

        def tell_text(text: str, count: int) -> None:
            tell(Answer(text, None, prompt.length, count))

        narrator = _Narrator(self.tokenizer, ask.stops, tell_text)
        criteria = [_Halt(lambda: narrator.has_stopped or given_up.is_set())]
        if ask.stops:  # by id too: a stop string that is a special token never shows in the text
            criteria.append(KeywordsStoppingCriteria(ask.stops, self.tokenizer, input_ids))
        sampling = Sampling(0 if ask.temperature <= GREEDY_BELOW else ask.temperature, ask.top_p, 1, budget)
        pad = self.tokenizer.pad_token_id
        # transformers' own: LLaVA's generate would embed the prompt once more.
        GenerationMixin.generate(
            self.model,
            **prompt.arguments,
            **sampling.arguments(),
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
            use_cache=True,
            streamer=narrator,
            stopping_criteria=StoppingCriteriaList(criteria),
        )
        cut_off = narrator.count >= budget and not narrator.has_stopped and narrator.last_id not in self._end_ids()
        maps = None
        if ask.wants_maps:
            seen = Seen(text, input_ids, ask.pictures, prompt.tiles, recorded[0] if recorded else None)
            maps = describe_attention(self.model, self.tokenizer, self.image_processor, seen)
        answer = Answer(narrator.text, "length" if cut_off else "stop", prompt.length, narrator.count, maps)
        tell(answer)
        return answer

    def _read(self, ask: Ask) -> str:
        """The prompt as the model wants it. Raises UserError for what cannot be asked."""
        if ask.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {ask.max_new_tokens}; it must be at least 1")
        require_marks(ask.prompt, len(ask.pictures))
        if ask.pictures and self.image_processor is None:
            raise UserError("this model reads text only; send no pictures, or ask a LLaVA model")
        if len(ask.prompt) > self.limits.prompt_characters:
            raise too_long(f"{len(ask.prompt)} characters", self.context_length)
        return framed(ask.prompt) if getattr(self.model.config, "mm_use_im_start_end", False) else ask.prompt

    def _tokenize(self, prompt: str) -> Tensor:
        """Ids ``[1, S]`` with ``IMAGE_TOKEN_INDEX`` at pictures."""
        with self._tokenizing:
            ids = tokenizer_image_token(prompt, self.tokenizer)
        if len(ids) > self.context_length:  # before the vision tower works in vain
            raise too_long(f"{len(ids)} tokens", self.context_length)
        return torch.tensor([ids], device=self.model.device)

    def _embed(self, input_ids: Tensor, pictures: Sequence[Image.Image]) -> "_Prompt":
        mask = torch.ones_like(input_ids)
        if not pictures:
            return _Prompt({"input_ids": input_ids, "attention_mask": mask}, input_ids.shape[1])
        pixels = process_images(pictures, self.image_processor, self.model.config)
        tiles = [1 if picture.ndim == 3 else len(picture) for picture in pixels]
        on_device = [picture.to(self.model.device, self.model.dtype) for picture in pixels]
        _, _, mask, _, embeds, _ = self.model.prepare_inputs_labels_for_multimodal(
            input_ids,
            None,
            mask,
            None,
            None,
            on_device if isinstance(pixels, list) else torch.stack(on_device),
            [picture.size for picture in pictures],
            for_generation=True,
        )
        return _Prompt({"inputs_embeds": embeds, "attention_mask": mask}, embeds.shape[1], tiles)

    def _end_ids(self) -> set[int]:
        end = self.model.generation_config.eos_token_id
        return set(end) if isinstance(end, list) else {end}


@dataclass(frozen=True)
class _Prompt:
    """A prompt as ``generate`` takes it, the positions it fills, and how many tiles each picture was cut into."""

    arguments: dict[str, Tensor]
    length: int
    tiles: Sequence[int] = ()


class _Halt(StoppingCriteria):
    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> bool:
        return self._wanted()


class _Narrator(BaseStreamer):
    """Turns tokens into the text so far, as ``generate`` hands them over, and watches for stop strings."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], tell: Callable[[str, int], None]
    ) -> None:
        self.text = ""
        self.has_stopped = False
        self._tokenizer = tokenizer
        self._stops = stops
        self._tell = tell
        self._ids: list[int] = []
        self._prompt_is_over = False

    @property
    def count(self) -> int:
        return len(self._ids)

    @property
    def last_id(self) -> int | None:
        return self._ids[-1] if self._ids else None

    def put(self, value: Tensor) -> None:
        if not self._prompt_is_over:  # the first call brings the prompt
            self._prompt_is_over = True
            return
        self._ids += value.tolist()
        # The whole answer anew: pieces by themselves lose spaces and split characters.
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        self.text, self.has_stopped = cut_at_stop(text, self._stops)
        if not text.endswith("\ufffd"):
            self._tell(self.text[: len(self.text) - _held_back(self.text, self._stops)], self.count)

    def end(self) -> None:
        pass


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there is one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may become a stop string."""
    return max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
        default=0,
    )
