"""AttAnchor: copies of tokens beside their nearest relatives of the other modality, without any weights.

After "AttAnchor: Guiding Cross-Modal Token Alignment in VLMs with Attention Anchors" (arXiv 2509.23109). It has two
directions: ``text_into_image`` puts a copy of each question token behind the image token that is most like it, so that
the question stands where it points to; ``image_into_text`` puts a copy of each image token behind the question token
that is most like it. Copies are made only where the cosine similarity reaches a threshold; the sequence itself stays.

This file says which token belongs to which. Who inserts the copies keeps labels, masks and positions in step.
Letters: B samples, N tokens that look for a relative, M tokens they look among, D width, S places of a sequence.
"""

import math
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from ccra_patch.settings import QUERY_MODES, ProjectorSettings, require_choice

DIRECTIONS = ("off", "text_into_image", "image_into_text")


@dataclass
class AttAnchorSettings(ProjectorSettings):
    """What AttAnchor can be told. It works behind any projector."""

    mm_attanchor_direction: str = field(
        default="off",
        metadata={
            "help": "AttAnchor: 'text_into_image' copies question tokens behind their nearest image tokens, "
            "'image_into_text' image tokens behind their nearest question tokens; 'off'."
        },
    )
    mm_attanchor_tau: float = field(
        default=0.12, metadata={"help": "Least cosine similarity for a copy (paper: 0.12 to 0.14 for LLaVA-7B)."}
    )
    mm_attanchor_query: str = field(
        default="human",
        metadata={"help": "Which turns AttAnchor reads: every 'human' turn, or only the 'first' or 'last' one."},
    )
    mm_attanchor_think_tokens: int = field(
        default=0, metadata={"help": "Pause tokens behind each question, for image_into_text (its think mode)."}
    )
    mm_attanchor_think_token: str = field(
        default="...", metadata={"help": "What the tokenizer writes as the one token that serves as pause."}
    )

    def validate(self) -> None:
        require_choice("mm_attanchor_direction", self.mm_attanchor_direction, DIRECTIONS)
        require_choice("mm_attanchor_query", self.mm_attanchor_query, QUERY_MODES)
        tau, count = self.mm_attanchor_tau, self.mm_attanchor_think_tokens
        if type(tau) not in (int, float) or not (math.isfinite(tau) and -1 <= tau <= 1):
            raise ValueError(f"mm_attanchor_tau is {tau!r}; a cosine similarity must be a number from -1 to 1")
        if type(count) is not int or count < 0:
            raise ValueError(
                f"mm_attanchor_think_tokens is {count!r}; it must be a whole number of at least 0 (0 = no think mode)"
            )
        if not self.mm_attanchor_think_token:
            raise ValueError("mm_attanchor_think_token is empty; give a text that the tokenizer writes as one token")
        if self.mm_attanchor_direction == "off":
            for f in fields(AttAnchorSettings):
                value = getattr(self, f.name)
                if value != f.default:
                    raise ValueError(
                        f"{f.name} is {value!r}, but mm_attanchor_direction is off; set it to text_into_image or "
                        f"image_into_text, or leave {f.name} out"
                    )
        elif count > 0 and self.mm_attanchor_direction != "image_into_text":
            raise ValueError(
                f"mm_attanchor_think_tokens is {count}, but mm_attanchor_direction is {self.mm_attanchor_direction}; "
                "think mode belongs to image_into_text"
            )


@torch.no_grad()
def best_matches(seekers: Tensor, sought: Tensor, sought_mask: Tensor) -> tuple[Tensor, Tensor]:
    """For each token the most similar one of the other modality, by cosine.

    In float32 whatever the inputs' type, also under autocast. A zero vector has the similarity 0 to everything.

    Args:
        seekers: ``[B, N, D]``.
        sought: ``[B, M, D]``.
        sought_mask: ``[B, M]`` bool, False where there is none.

    Returns:
        similarity ``[B, N]`` float32, -inf where nothing is sought; its index into ``sought`` ``[B, N]``, the first of
        equals.
    """
    with torch.autocast(seekers.device.type, enabled=False):
        similarity = normalize(seekers.float(), dim=-1) @ normalize(sought.float(), dim=-1).mT
    best = similarity.masked_fill(~sought_mask.unsqueeze(1), -math.inf).max(dim=2)
    return best.values, best.indices


def turn_ends(turns: Tensor) -> Tensor:
    """Where each human turn has its last question token: ``turns [B, S]`` as numbered -> ``[B, S]`` bool."""
    later = torch.where(turns > 0, turns, turns.shape[1] + 1).flip(1).cummin(dim=1).values.flip(1)
    following = pad(later[:, 1:], (0, 1))
    return (turns > 0) & (following != turns)
