"""IGVA, instruction-guided vision aggregator (Li et al., 2025, arXiv 2501.08443): the question weighs groups of layers.

Where CCRA weighs every patch of every layer, this method has one weight per group of layers and picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import einsum, rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from ccra_patch.baselines.fusion import WideMLP
from ccra_patch.baselines.groups import require_groups
from ccra_patch.settings import QUERY_MODES, ProjectorSettings, require_choice, require_count, require_weight


@dataclass
class IGVASettings(ProjectorSettings):
    """What ``mm_projector_type=igva`` can be told."""

    mm_igva_layers: list[int] = field(
        default_factory=lambda: list(range(1, 25)), metadata={"help": "Hidden states to weigh (0 = embeddings)."}
    )
    mm_igva_group_size: int = field(
        default=6, metadata={"help": "So many of those layers, in the order given, share one weight."}
    )
    mm_igva_average: bool = field(
        default=False, metadata={"help": "Weigh all groups alike, without the question: the method's stage 1."}
    )
    mm_igva_hidden_dim: int = field(default=1024, metadata={"help": "Width of the aggregator."})
    mm_igva_blocks: int = field(default=4, metadata={"help": "Transformer blocks of the aggregator."})
    mm_igva_heads: int = field(default=4, metadata={"help": "Heads of each; must divide mm_igva_hidden_dim."})
    mm_igva_balance: float = field(
        default=0.02, metadata={"help": "Weight of the training loss that keeps all groups in use; 0 = none."}
    )
    mm_igva_query: str = field(
        default="human",
        metadata={"help": "Which turns are the question: every 'human' turn, or only the 'first' or 'last' one."},
    )
    mm_igva_text_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Sentence encoder (folder or hub name) that reads the question; the method's is "
            "sentence-transformers/all-mpnet-base-v2. None unless named: the LLM's own embeddings."
        },
    )

    def validate(self) -> None:
        require_groups("mm_igva", self.mm_igva_layers, self.mm_igva_group_size)
        require_count("mm_igva_hidden_dim", self.mm_igva_hidden_dim, "the method uses 1024")
        require_count("mm_igva_blocks", self.mm_igva_blocks, "the method uses 4")
        require_count("mm_igva_heads", self.mm_igva_heads, "the method uses 4")
        if self.mm_igva_hidden_dim % self.mm_igva_heads:
            raise ValueError(
                f"mm_igva_heads is {self.mm_igva_heads}; it must divide mm_igva_hidden_dim, "
                f"which is {self.mm_igva_hidden_dim}"
            )
        require_weight("mm_igva_balance", self.mm_igva_balance, "the method uses 0.02")
        require_choice("mm_igva_query", self.mm_igva_query, QUERY_MODES)
        if self.mm_igva_average and self.mm_igva_text_encoder is not None:
            raise ValueError(
                f"mm_igva_text_encoder is {self.mm_igva_text_encoder!r}, but mm_igva_average does not read the "
                "question; drop one of them"
            )


class AggregatorBlock(nn.Module):
    """The question attends to the layers, then an MLP; both with the norm behind the sum."""

    def __init__(self, hidden_dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden_dim, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(hidden_dim)
        self.wide = nn.Linear(hidden_dim, hidden_dim)
        self.narrow = nn.Linear(hidden_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, question: Tensor, groups: Tensor) -> Tensor:
        """``[B, 1, h]`` and ``[B, K, h]`` -> ``[B, 1, h]``."""
        seen, _ = self.attention(question, groups, groups, need_weights=False)
        question = self.attention_norm(question + seen)
        return self.norm(question + self.narrow(F.relu(self.wide(question))))


class Aggregator(nn.Module):
    """One weight per group of layers, from the question and the groups' class tokens.

    Args:
        vision_dim: d.
        question_dim: width of the question's embedding.
        num_groups: K.
        hidden_dim: h.
        blocks, heads: of the transformer.
    """

    def __init__(
        self, vision_dim: int, question_dim: int, num_groups: int, hidden_dim: int, blocks: int, heads: int
    ) -> None:
        super().__init__()
        self.question = nn.Linear(question_dim, hidden_dim)
        self.class_token = nn.Linear(vision_dim, hidden_dim)
        self.blocks = nn.ModuleList(AggregatorBlock(hidden_dim, heads) for _ in range(blocks))
        self.score = nn.Linear(hidden_dim, num_groups)

    def forward(self, question: Tensor, class_tokens: Tensor) -> Tensor:
        """``[B, question_dim]`` and ``[B, K, d]`` -> weights ``[B, K]`` that sum to 1."""
        asked = self.question(rearrange(question, "b width -> b 1 width"))
        groups = self.class_token(class_tokens)
        for block in self.blocks:
            asked = block(asked, groups)
        return self.score(rearrange(asked, "b 1 h -> b h")).softmax(dim=-1)


class IGVA(nn.Module):
    """``MLP([F_v || sum_k w_k P_k])``: P_k the mean patches of layer group k, w the aggregator's weights.

    In training ``auxiliary_loss`` holds ``-balance * mean entropy(w)`` of the latest call; it keeps all groups in use.

    Layers: indices of ``hidden_states`` as in the authors' code, groups 1-6, 7-12, 13-18 and 19-24. Unlike there

    - the question is the mean of what ``query`` holds, zeros for an empty one. By default these are the LLM's own input
      embeddings of its tokens, which train with the LLM; ``W_s`` is D wide instead of 768. With
      ``mm_igva_text_encoder`` they are a frozen sentence encoder's vectors of its turns, as in the authors' training,
      but computed from the prompt and not read from a file, so the same at inference. Neither lies in the checkpoint;
    - the entropy is that of w; the authors' code takes a softmax of w once more.

    Args:
        vision_dim: d.
        text_dim: D.
        num_groups: K.
        group_size: layers in each.
        hidden_dim, blocks, heads: of the aggregator.
        balance: weight of the auxiliary loss.
        average: weigh all groups alike; there is no aggregator then, and the question is not read.
        question_dim: width of the question's embedding; D unless given.
    """

    auxiliary_loss: Tensor

    def __init__(
        self,
        vision_dim: int,
        text_dim: int,
        num_groups: int = 4,
        group_size: int = 6,
        hidden_dim: int = 1024,
        blocks: int = 4,
        heads: int = 4,
        balance: float = 0.02,
        average: bool = False,
        question_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_groups = num_groups
        self.balance = balance
        self.aggregator = (
            None if average else Aggregator(vision_dim, question_dim or text_dim, num_groups, hidden_dim, blocks, heads)
        )
        self.mlp = WideMLP(vision_dim, vision_dim, text_dim)

    def forward(
        self, features: Tensor, layers: Tensor, query: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Project the patches of B images into the LLM's space.

        Args:
            features: ``F_v [B, N, d]``, the selected layer.
            layers: ``[B, K * group_size, 1 + N, d]``, group by group, each layer's class token first.
            query: ``[B, T, question_dim]``, the question's tokens or turns; None with ``average``.
            query_mask: ``[B, T]``, False at padding.

        Returns:
            ``[B, N, D]``.
        """
        weights = self.group_weights(layers[:, :, 0], query, query_mask)
        if self.training and self.aggregator is not None and self.balance:
            self.auxiliary_loss = -self.balance * torch.special.entr(weights.float()).sum(dim=-1).mean()
        per_layer = repeat(weights / self.group_size, "b k -> b (k size)", size=self.group_size)
        # over the class token too, and dropped afterwards: cutting it off first would copy the stack
        fused = einsum(per_layer.to(layers.dtype), layers, "b l, b l n d -> b n d")[:, 1:]
        return self.mlp(features, fused)

    def group_weights(self, class_tokens: Tensor, query: Tensor | None, query_mask: Tensor | None) -> Tensor:
        """``w [B, K]`` from the layers' class tokens ``[B, K * group_size, d]`` and the question."""
        if self.aggregator is None:
            return class_tokens.new_full((len(class_tokens), self.num_groups), 1 / self.num_groups)
        if query is None or query_mask is None:
            raise ValueError("igva reads the question; pass query and query_mask, or build it with average=True")
        counted = query_mask[:, :, None].to(query.dtype)
        question = (query * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
        return self.aggregator(question, reduce(class_tokens, "b (k size) d -> b k d", "mean", size=self.group_size))

    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Start as that adapter, bit for bit. Raises ValueError if it does not fit."""
        self.mlp.load_plain_adapter(state)
