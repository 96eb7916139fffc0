"""A loss by which LPWCA learns where the question points: ``mm_ccra_grounding``, an option beyond the paper.

An answer's cross entropy asks nothing of the maps. A language model finds its way among the patches by itself, and maps
trained by it alone come out nearly the same whatever is asked (docs/study.md). What a question shares with its own
picture, and not with the batch's others, is mostly the things that it names. So each question has to tell its picture
by LPWCA's highest scores there, and each picture its question:

    s_qp = logsumexp_n(mean_l W_qp[l, n] / tau)
    loss = -mean_q log softmax_p(s)_qq / 2 - mean_p log softmax_q(s)_pp / 2

InfoNCE (van den Oord et al., 2018, arXiv 1807.03748) in both directions, as weakly supervised phrase grounding uses it
(Gupta et al., 2020, arXiv 2006.09920): pictures and questions alone, no boxes or masks. ``W_qp`` is the score that
question q gives the bare layers of picture p. PWCA's scores cannot be used so: what PWCA reads has been through LPWCA
and LWCA, and carries the question that it would be recognised by.

Shapes: Q questions and as many pictures, one of each per row of the batch; N patches, D LLM width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# tau. Features are multiplied by 1 + W: a patch that is raised by 1 stands out, and counts e^4 times.
TEMPERATURE = 0.25


def contrast(scores: Tensor, pooled: Tensor, asked: Tensor) -> Tensor:
    """The loss, a mean over the rows that ask; 0 if there are not two of them to be told apart.

    Rows that ask the same (tiles of one picture, or "What is this?" twice) are not told apart; different questions are,
    even about one picture.

    Args:
        scores: ``[Q, Q, N]``, those of question q on picture p.
        pooled: ``[Q, D]``, the questions.
        asked: ``[Q]``, False where a row has no question, as one with text alone.
    """
    logits = (scores / TEMPERATURE).logsumexp(dim=2)
    same = (pooled[:, None] == pooled).all(dim=2)
    others = asked & asked[:, None] & ~same
    logits = logits.masked_fill(~(others | torch.eye(len(asked), dtype=torch.bool, device=asked.device)), -math.inf)
    own = torch.arange(len(asked), device=asked.device)
    losses = F.cross_entropy(logits, own, reduction="none") + F.cross_entropy(logits.T, own, reduction="none")
    return losses.sum() / (2 * asked.sum().clamp(min=1))
