"""The attention stack: token importance, then LPWCA, LWCA and PWCA, integrated in one of three ways (Eq. 2-13)."""

from collections.abc import Collection
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ccra_patch.attention import LPWCA, LWCA, PWCA, TokenImportance, ask
from ccra_patch.integration import INTEGRATE
from ccra_patch.lean import exact, work_dtype
from ccra_patch.removed import NoLPWCA, NoLWCA, NoPWCA
from ccra_patch.settings import require_depth_groups, require_normalize, require_steps

# Embeddings have a mean square of 3e-4 (Vicuna) and more; torch's own choice for bfloat16, 8e-3, would drown them.
QUERY_EPS = 1e-6


@dataclass(frozen=True)
class AttentionMaps:
    """Everything the question did to the picture. Part of the graph: a loss on a map trains it.

    A step that is left out has scores of 0, and the same weight for all layers.

    Attributes:
        alpha: ``[B, T]``, importance of each query token; sums to 1, or is 0 throughout for an empty query.
        lpwca: ``[B, L, N]``, the scores by which LPWCA modulates every patch of every layer (0 = leave it).
        layer_scores: ``[B, L]``, LWCA's scores before smoothing.
        smoothed_scores: ``[B, L]``, and after.
        layer_weights: ``[B, L]``, their softmax.
        pwca: ``[B, N]``, the scores by which PWCA modulates every patch of the fused layer (0 = leave it).
    """

    alpha: Tensor
    lpwca: Tensor
    layer_scores: Tensor
    smoothed_scores: Tensor
    layer_weights: Tensor
    pwca: Tensor


class PAIStack(nn.Module):
    """``F_stack`` and the question in, ``F_regional`` out: what the paper calls the attention stack.

    Its parameters are what the paper counts as "3.55M additional": 3,546,369 at d=1024, D=4096, h=128.

    Args:
        vision_dim: d.
        text_dim: D.
        hidden_dim: h.
        kernel_size, sigma: see :class:`~ccra_patch.smoothing.GaussianSmoothing`.
        norm_order: ``pre``, ``LN(F) * (1 + W)``, or ``post``, ``LN(F * (1 + W))`` as Eq. 5 and 13 are printed.
            LayerNorm does not see a positive factor, so under ``post`` the maps act through the sign of ``1 + W`` only.
        depth_groups: G, mixtures of layers kept side by side, see :mod:`ccra_patch.depth_groups`; 1 is the paper's.
        integration: ``pai``, ``decoupled`` or ``shuffled``, see :mod:`ccra_patch.integration`.
        disable: steps to leave out, any of ``lpwca``, ``lwca`` and ``pwca``; see :mod:`ccra_patch.removed`.
        normalize: beyond the paper, which has none: what to bring to one size before it is compared, by norms without
            parameters. ``query``: the question's tokens, see :meth:`tokens`; ``keys``: the patches that LPWCA scores,
            see :class:`~ccra_patch.attention.LPWCA`.
        grounding: beyond the paper, the weight of a loss on LPWCA's scores, see :mod:`ccra_patch.grounding`.

    Raises:
        ValueError: for an unknown name, and for steps whose integration needs one that is left out.
    """

    def __init__(
        self,
        vision_dim: int,
        text_dim: int,
        hidden_dim: int = 128,
        kernel_size: int = 5,
        sigma: float = 1.0,
        norm_order: str = "pre",
        integration: str = "pai",
        disable: Collection[str] = (),
        depth_groups: int = 1,
        normalize: Collection[str] = (),
        grounding: float = 0.0,
    ) -> None:
        super().__init__()
        require_steps(integration, disable)
        require_depth_groups(depth_groups, integration)
        require_normalize(normalize)
        self.depth_groups = depth_groups
        self.normalize_query = "query" in normalize
        self.vision_dim, self.text_dim, self.integration = vision_dim, text_dim, integration
        widths = (vision_dim, text_dim, hidden_dim)
        self.importance = TokenImportance(text_dim, hidden_dim)
        self.lpwca = NoLPWCA() if "lpwca" in disable else LPWCA(*widths, norm_order, "keys" in normalize, grounding)
        self.lwca = (
            NoLWCA(vision_dim, depth_groups) if "lwca" in disable else LWCA(*widths, kernel_size, sigma, depth_groups)
        )
        self.pwca = NoPWCA() if "pwca" in disable else PWCA(*widths, norm_order)

    def forward(self, stack: Tensor, query: Tensor, query_mask: Tensor) -> tuple[Tensor, AttentionMaps]:
        """Let the question choose layers and patches.

        Runs in float32 around the stack's own precision (float64 for a float64 stack), under autocast too.

        Args:
            stack: ``F_stack [B, L, N, d]``, the outputs of L encoder blocks without the class token, deepest last.
            query: ``F_t [B, T, D]``, the LLM's input embeddings of the query tokens, padded on either side.
            query_mask: ``[B, T]``, False at padding. A row without tokens gets maps of 0 and uniform layer weights.

        Returns:
            ``F_regional [B, N, G * d]`` in the stack's dtype, shallowest group first, and the maps.

        Raises:
            ValueError: for shapes that do not fit.
        """
        self._check(stack, query, query_mask)
        with exact(stack):
            tokens = self.tokens(query)
            alpha = self.importance(tokens, query_mask.bool())  # Eq. 2
            question = ask(tokens, alpha)
            found = INTEGRATE[self.integration](self.lpwca, self.lwca, self.pwca, stack, question)
        regional = rearrange(found.regional, "b g n width -> b n (g width)")
        return regional.to(stack.dtype), AttentionMaps(alpha, found.lpwca, *found.layers, found.pwca)

    def tokens(self, query: Tensor) -> Tensor:
        """``F_t [B, T, D]`` as token importance and all Q see it: as it is, or each token at a root mean square of 1.

        Input embeddings are small (their entries around 0.02 in Vicuna), so a projection of them is mostly its bias,
        whatever the question. RMSNorm is the first thing that the LLM itself does to them.
        """
        if not self.normalize_query:
            return query
        return F.rms_norm(query.to(work_dtype(query)), (self.text_dim,), eps=QUERY_EPS)

    def _check(self, stack: Tensor, query: Tensor, query_mask: Tensor) -> None:
        if stack.dim() != 4 or stack.shape[3] != self.vision_dim:
            raise ValueError(
                f"the layer stack has the shape {list(stack.shape)}; "
                f"it must be [images, layers, patches, {self.vision_dim}]"
            )
        if stack.shape[1] < self.depth_groups:
            raise ValueError(
                f"mm_ccra_depth_groups is {self.depth_groups}, but the stack has {stack.shape[1]} layers; "
                "each group needs one at least"
            )
        if query.dim() != 3 or query.shape[2] != self.text_dim or query.shape[0] != stack.shape[0]:
            raise ValueError(
                f"the query has the shape {list(query.shape)}; it must be [{stack.shape[0]}, tokens, {self.text_dim}], "
                "one question for each image of the stack"
            )
        if query_mask.shape != query.shape[:2]:
            raise ValueError(
                f"the query mask has the shape {list(query_mask.shape)}; "
                f"it must be {list(query.shape[:2])}, as the query's"
            )


def num_attention_parameters(module: nn.Module) -> int:
    """Parameters of the attention stacks inside ``module``: the paper's "3.55M additional parameters"."""
    stacks = [part for part in module.modules() if isinstance(part, PAIStack)]
    return sum(parameter.numel() for stack in stacks for parameter in stack.parameters())
