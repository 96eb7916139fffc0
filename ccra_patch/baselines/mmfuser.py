"""MMFuser (Cao et al., 2024, arXiv 2410.11829): the selected layer fetches details from shallow ones.

Its deformable attention is written with ``grid_sample`` alone: no compiled extension, any device.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from ccra_patch.baselines.fusion import PlainMLP
from ccra_patch.lean import work_dtype
from ccra_patch.settings import ProjectorSettings, require_count, require_layers

NORM_EPSILON = 1e-6


@dataclass
class MMFuserSettings(ProjectorSettings):
    """What ``mm_projector_type=mmfuser`` can be told."""

    mm_mmfuser_layers: list[int] = field(
        default_factory=lambda: [3, 8, 13, 18], metadata={"help": "Hidden states to fetch from (0 = embeddings)."}
    )
    mm_mmfuser_heads: int = field(
        default=16, metadata={"help": "Heads of the deformable attention; must divide the vision width."}
    )
    mm_mmfuser_points: int = field(default=4, metadata={"help": "Places that each head looks at, per layer."})

    def validate(self) -> None:
        require_layers("mm_mmfuser_layers", self.mm_mmfuser_layers)
        require_count("mm_mmfuser_heads", self.mm_mmfuser_heads, "the method uses 16")
        require_count("mm_mmfuser_points", self.mm_mmfuser_points, "the method uses 4")


class DeformableAttention(nn.Module):
    """Every patch looks at a few places of every level, which it chooses itself (Zhu et al., 2021, Eq. 3).

    For the patch ``q`` whose centre is ``p`` (in [0, 1] x [0, 1]), head m and levels l of size W x H::

        offsets o = W_o q + b_o, in patches;    weights A = softmax over levels and points of (W_a q + b_a)
        head_m = sum_{l, k} A_mlk  bilinear(v_l^m, p + o_mlk / (W, H)),   v_l = W_v x_l + b_v;   0 outside the picture
        out = W_p [head_1 || ... || head_M] + b_p

    At the start every head looks into a compass direction of its own, 1 to K patches far, with equal weights.

    Args:
        dim: d.
        levels: L.
        heads: M, a divisor of d.
        points: K.
    """

    def __init__(self, dim: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"mm_mmfuser_heads is {heads}; it must divide the vision width, which is {dim}")
        self.levels, self.heads, self.points = levels, heads, points
        self.value = nn.Linear(dim, dim)
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.output = nn.Linear(dim, dim)
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.weights.bias)
        angle = torch.arange(self.heads, device=self.offsets.bias.device) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.points + 1, device=angle.device)
        steps = einsum(direction, distance, "m xy, k -> m k xy")
        self.offsets.bias.copy_(repeat(steps, "m k xy -> (m l k xy)", l=self.levels))

    def forward(self, queries: Tensor, layers: Tensor) -> Tensor:
        """``[B, N, d]`` and ``[B, L, N, d]``, patches of a square grid in raster order -> ``[B, N, d]``.

        Places are sampled in float32 (float64 for float64). Raises ValueError for a grid that is not square.
        """
        side = math.isqrt(queries.shape[1])
        if side * side != queries.shape[1]:
            raise ValueError(f"mmfuser got {queries.shape[1]} patches; it needs those of a square picture, no other")
        sizes = {"m": self.heads, "l": self.levels, "k": self.points}
        exact = work_dtype(queries)
        offsets = rearrange(self.offsets(queries).to(exact), "b n (m l k xy) -> b m n l k xy", xy=2, **sizes)
        scores = rearrange(self.weights(queries).to(exact), "b n (m l k) -> b m n (l k)", **sizes)
        weights = rearrange(scores.softmax(dim=-1), "b m n (l k) -> b m n l k", **sizes)

        # grid_sample's coordinates: -1 and 1 are the outer edges of the picture
        centre = (2 * torch.arange(side, device=queries.device, dtype=exact) + 1) / side - 1
        row, column = torch.meshgrid(centre, centre, indexing="ij")
        own_place = rearrange(torch.stack([column, row], dim=-1), "h w xy -> (h w) 1 1 xy")
        places = rearrange(own_place + offsets * (2 / side), "b m n l k xy -> (b m l) n k xy")
        values = rearrange(self.value(layers).to(exact), "b l (h w) (m c) -> (b m l) c h w", h=side, m=self.heads)
        with torch.autocast(queries.device.type, enabled=False):
            seen = F.grid_sample(values, places, mode="bilinear", padding_mode="zeros", align_corners=False)
            seen = rearrange(seen, "(b m l) c n k -> b m l c n k", m=self.heads, l=self.levels)
            heads = einsum(weights, seen, "b m n l k, b m l c n k -> b n m c")
        return self.output(rearrange(heads, "b n m c -> b n (m c)").to(layers.dtype))


class MMFuser(nn.Module):
    """``MLP(F_v + g1 * (A + g2 * self(A)))`` with ``A`` the selected layer's attention to shallow ones.

    ::

        A  = deformable attention of LN(F_v) to LN(V_3), LN(V_8), LN(V_13), LN(V_18), one LN for all four
        A' = A + g2 * deformable attention of LN(A) to LN(A)
        F  = F_v + g1 * A',    the gates g1 and g2 [d] starting at zero

    So it starts as the plain adapter, bit for bit; what is behind the gates gets its gradient once they have moved.
    Layers: indices of ``hidden_states`` as in the authors' code. A single level, or two, gives the "external modular"
    form of MLVF (Lin et al., 2025).

    Args:
        vision_dim: d.
        text_dim: D.
        num_layers: L.
        heads: M, a divisor of d.
        points: K.
    """

    def __init__(self, vision_dim: int, text_dim: int, num_layers: int = 4, heads: int = 16, points: int = 4) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(vision_dim, NORM_EPSILON)
        self.layer_norm = nn.LayerNorm(vision_dim, NORM_EPSILON)
        self.cross = DeformableAttention(vision_dim, num_layers, heads, points)
        self.self_norm = nn.LayerNorm(vision_dim, NORM_EPSILON)
        self.self_attention = DeformableAttention(vision_dim, 1, heads, points)
        self.self_gate = nn.Parameter(torch.zeros(vision_dim))
        self.gate = nn.Parameter(torch.zeros(vision_dim))
        self.mlp = PlainMLP(vision_dim, text_dim)

    def fuse(self, features: Tensor, layers: Tensor) -> Tensor:
        """``F_v [B, N, d]`` and layers ``[B, L, N, d]`` -> ``F [B, N, d]``."""
        details = self.cross(self.query_norm(features), self.layer_norm(layers))
        normed = self.self_norm(details)
        details = details + self.self_gate * self.self_attention(normed, rearrange(normed, "b n d -> b 1 n d"))
        return features + self.gate * details

    def forward(self, features: Tensor, layers: Tensor) -> Tensor:
        """``F_v [B, N, d]`` and layers ``[B, L, N, d]`` -> ``[B, N, D]``. Raises ValueError unless N is a square."""
        return self.mlp(self.fuse(features, layers))

    def load_plain_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Start as that adapter, bit for bit. Raises ValueError if it does not fit."""
        self.mlp.load_plain_adapter(state)
