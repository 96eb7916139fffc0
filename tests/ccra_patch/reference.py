"""The paper's equations, line by line: the oracle for the shipped modules, which loads the same ``state_dict``.

Nothing is clever here. Every tensor of the paper exists under its name: the scores of every query token against every
patch of every layer, F_lp as a whole, one normalised copy per LayerNorm.
"""

import math

import torch
from torch import Tensor, nn

# Every arrangement of the steps that the settings allow: Tables 3 and 4, their combinations, options beyond the paper.
VARIANTS = {
    "pai": {},
    "decoupled": {"integration": "decoupled"},
    "shuffled": {"integration": "shuffled"},
    "without lpwca": {"disable": ["lpwca"]},
    "without lwca": {"disable": ["lwca"]},
    "without pwca": {"disable": ["pwca"]},
    "lpwca alone": {"disable": ["lwca", "pwca"]},
    "lwca alone": {"disable": ["lpwca", "pwca"]},
    "pwca alone": {"disable": ["lpwca", "lwca"]},
    "decoupled without lpwca": {"integration": "decoupled", "disable": ["lpwca"]},
    "shuffled without lpwca": {"integration": "shuffled", "disable": ["lpwca"]},
    "four depth groups": {"depth_groups": 4},
    "two depth groups without pwca": {"depth_groups": 2, "disable": ["pwca"]},
    "two depth groups without lwca": {"depth_groups": 2, "disable": ["lwca"]},
    "two depth groups shuffled": {"depth_groups": 2, "integration": "shuffled"},
    "query normalised": {"normalize": ["query"]},
    "keys normalised": {"normalize": ["keys"]},
    "decoupled, both normalised": {"integration": "decoupled", "normalize": ["query", "keys"]},
    "shuffled, keys normalised": {"integration": "shuffled", "normalize": ["keys"]},
    "two depth groups, both normalised": {"depth_groups": 2, "normalize": ["keys", "query"]},
}


class ReferenceImportance(nn.Module):
    def __init__(self, text_dim: int, hidden_dim: int):
        super().__init__()
        self.query = nn.Linear(text_dim, hidden_dim)
        self.key = nn.Linear(text_dim, hidden_dim)
        self.value = nn.Linear(text_dim, hidden_dim)
        self.score = nn.Linear(hidden_dim, 1)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Eq. 2, one sample at a time and without its padding."""
        alphas = []
        for sample, keep in zip(tokens, mask, strict=True):
            text = sample[keep]
            alpha = sample.new_zeros(len(sample))
            if len(text):
                weights = (self.query(text) @ self.key(text).T / math.sqrt(self.query.out_features)).softmax(-1)
                alpha[keep] = self.score(weights @ self.value(text)).squeeze(-1).softmax(0)
            alphas.append(alpha)
        return torch.stack(alphas)


class ReferenceAttention(nn.Module):
    def __init__(self, vision_dim: int, text_dim: int, hidden_dim: int):
        super().__init__()
        self.query = nn.Linear(text_dim, hidden_dim)
        self.key = nn.Linear(vision_dim, hidden_dim)
        self.norm = nn.LayerNorm(vision_dim)

    def scores(self, tokens: Tensor, alpha: Tensor, features: Tensor) -> Tensor:
        """``alpha^T Q(F_t) K(X)^T / sqrt(h)``: X ``[B, M, d]`` -> ``[B, M]``, by way of ``[B, T, M]``."""
        attention = self.query(tokens) @ self.key(features).transpose(1, 2) / math.sqrt(self.query.out_features)
        return (alpha[:, :, None] * attention).sum(1)


def smooth(scores: Tensor, kernel_size: int, sigma: float) -> Tensor:
    """Taps ``exp(-offset^2 / 2 sigma^2)``, normalised over those that lie inside the stack."""
    layers = scores.shape[1]
    columns = []
    for layer in range(layers):
        offsets = [o for o in range(-(kernel_size // 2), (kernel_size + 1) // 2) if 0 <= layer + o < layers]
        taps = [math.exp(-(o**2) / (2 * sigma**2)) for o in offsets]
        columns.append(sum(tap / sum(taps) * scores[:, layer + o] for o, tap in zip(offsets, taps, strict=True)))
    return torch.stack(columns, dim=1)


class ReferencePAI(nn.Module):
    def __init__(
        self,
        vision_dim,
        text_dim,
        hidden_dim=128,
        kernel_size=5,
        sigma=1.0,
        norm_order="pre",
        integration="pai",
        disable=(),
        depth_groups=1,
        normalize=(),
    ):
        super().__init__()
        self.depth_groups, self.normalize = depth_groups, normalize
        self.kernel_size, self.sigma, self.norm_order = kernel_size, sigma, norm_order
        self.integration, self.disable = integration, disable
        self.importance = ReferenceImportance(text_dim, hidden_dim)
        for step in ("lpwca", "lwca", "pwca"):
            if step not in disable:
                setattr(self, step, ReferenceAttention(vision_dim, text_dim, hidden_dim))

    def modulate(self, features: Tensor, scores: Tensor, norm: nn.LayerNorm) -> Tensor:
        if self.norm_order == "pre":
            return norm(features) * (1 + scores[..., None])
        return norm(features * scores[..., None] + features)  # Eq. 5 and 13 as printed

    def tokens(self, query: Tensor) -> Tensor:
        """Root mean square 1 for every token, if asked for."""
        if "query" not in self.normalize:
            return query
        return query / (query.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    def layer_patch_scores(self, query: Tensor, alpha: Tensor, stack: Tensor) -> Tensor:
        keys = stack
        if "keys" in self.normalize:
            variance, mean = torch.var_mean(stack, dim=-1, correction=0, keepdim=True)
            keys = (stack - mean) / (variance + 1e-5).sqrt()
        return self.lpwca.scores(query, alpha, keys.flatten(1, 2)).unflatten(1, stack.shape[1:3])  # Eq. 3-4

    def layer_patch_wise(self, query: Tensor, alpha: Tensor, stack: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if "lpwca" in self.disable:
            return {"lpwca": torch.zeros_like(stack[..., 0])}, stack
        w_lp = self.layer_patch_scores(query, alpha, stack)
        return {"lpwca": w_lp}, self.modulate(stack, w_lp, self.lpwca.norm)  # Eq. 5

    def layer_wise(self, query: Tensor, alpha: Tensor, f_lp: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if "lwca" in self.disable:
            none = torch.zeros_like(f_lp[:, :, 0, 0])
            maps = {"layer_scores": none, "smoothed_scores": none, "layer_weights": none.softmax(1)}
            return maps, torch.stack([group.mean(1) for group in self.grouped(f_lp)], dim=1)
        f_layer = f_lp.mean(2)  # Eq. 6
        w_l = self.lwca.scores(query, alpha, f_layer)  # Eq. 7
        smoothed = smooth(w_l, self.kernel_size, self.sigma)
        w_hat = smoothed.softmax(1)
        f_semantic = []
        for w, f in zip(self.grouped(w_hat), self.grouped(f_lp), strict=True):
            share = w.sum(1)[:, None, None]
            f_hat = (w[:, :, None, None] * f).sum(1) / share
            normalised = self.lwca.norm(f_hat + f_hat.mean(1, keepdim=True))  # Eq. 10
            f_semantic.append(normalised * share * self.depth_groups)  # times 1 in the paper
        maps = {"layer_scores": w_l, "smoothed_scores": smoothed, "layer_weights": w_hat}
        return maps, torch.stack(f_semantic, dim=1)

    def grouped(self, layers: Tensor) -> list[Tensor]:
        """``[B, L, ...]`` cut along L; what does not divide goes to the deeper groups."""
        count = layers.shape[1]
        sizes = [
            (g + 1) * count // self.depth_groups - g * count // self.depth_groups for g in range(self.depth_groups)
        ]
        return list(layers.split(sizes, dim=1))

    def patch_wise(self, query: Tensor, alpha: Tensor, features: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Features ``[B, G, N, d]`` or a stack ``[B, L, N, d]``, scored by the mean over groups or layers."""
        if "pwca" in self.disable:
            return {"pwca": torch.zeros_like(features[:, 0, :, 0])}, features
        w_p = self.pwca.scores(query, alpha, features.mean(1))  # Eq. 11-12
        return {"pwca": w_p}, self.modulate(features, w_p[:, None], self.pwca.norm)  # Eq. 13

    def forward(self, stack: Tensor, query: Tensor, query_mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        query = self.tokens(query)
        alpha = self.importance(query, query_mask)
        asked = (query, alpha)
        lpwca, f_lp = self.layer_patch_wise(*asked, stack)
        match self.integration:
            case "pai":
                lwca, f_semantic = self.layer_wise(*asked, f_lp)
                pwca, f_regional = self.patch_wise(*asked, f_semantic)
            case "decoupled":
                lwca, f_semantic = self.layer_wise(*asked, f_lp)
                pwca, f_deepest = self.patch_wise(*asked, f_lp[:, -1:])
                f_regional = (f_semantic + f_deepest) / 2
            case "shuffled":
                pwca, f_p = self.patch_wise(*asked, f_lp)
                lwca, f_regional = self.layer_wise(*asked, f_p)
        return torch.cat(f_regional.unbind(1), dim=-1), {"alpha": alpha, **lpwca, **lwca, **pwca}
