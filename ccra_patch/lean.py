"""The two reads of the layer stack: the only code that touches all ``[B, L, N, d]`` of it.

What CCRA wants to know of ``F_stack`` are numbers per patch and layer (products with a few vectors, mean, variance) and
one weighted sum over the layers. :func:`read_stack` and :func:`mix_layers` give exactly that, block by block, so that
no other tensor of the stack's size exists, forward or backward. Both work in float32 (float64 for a float64 stack),
whatever the stack's own precision, and both have derivatives for a trained tower too.

What a frozen tower needs of them, a CPU with numba does by :mod:`ccra_patch.kernels_numba`, several times faster in
bfloat16, and with ``CCRA_KERNELS=triton`` in the environment a GPU by :mod:`ccra_patch.kernels_triton`. ``torch`` there
runs the loops here everywhere, ``numba`` insists on numba.
"""

import importlib
import logging
import os
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ccra_patch.settings import require_choice

logger = logging.getLogger(__name__)

# Numbers per block. On a CPU a block must stay in cache while it is read five times; on an accelerator each block costs
# launches, so it takes an image at once.
CPU_BLOCK = 2**20
DEVICE_BLOCK = 2**26

# Above this ratio of squared mean to variance, "mean of squares minus square of the mean" has lost too many digits.
CANCELLATION_LIMIT = 4.0


class Moments(NamedTuple):
    """Mean and variance of every patch over d, ``[B, L, N]`` (population variance, as LayerNorm takes it)."""

    mean: Tensor
    variance: Tensor


class StackReading(NamedTuple):
    """What the first read finds out.

    Attributes:
        products: ``[B, K, L, N]``, every patch times each of the K directions.
        moments: of every patch.
        weighted: ``[B, L, N]``, the mean over d of ``(weight * (patch - mean))^2``; None without a weight.
    """

    products: Tensor
    moments: Moments
    weighted: Tensor | None


def read_stack(stack: Tensor, directions: Tensor, weight: Tensor | None = None) -> StackReading:
    """Multiply every patch with its image's directions and take its mean and variance, in one read.

    Args:
        stack: ``[B, L, N, d]``.
        directions: ``[B, K, d]``.
        weight: ``[d]``, for :attr:`StackReading.weighted`.
    """
    with exact(stack):
        products, mean, variance, weighted = _ReadStack.apply(stack, directions.to(work_dtype(stack)), weight)
    return StackReading(products, Moments(mean, variance), weighted)


def mix_layers(stack: Tensor, coefficients: Tensor) -> Tensor:
    """``sum_l coefficients[b, l, n] * stack[b, l, n]``.

    Args:
        stack: ``[B, L, N, d]``.
        coefficients: ``[B, L, N]``.

    Returns:
        ``[B, N, d]`` in float32 (float64 for a float64 stack).
    """
    with exact(stack):
        return _MixLayers.apply(stack, coefficients.to(work_dtype(stack)))


def kernels_for(stack: Tensor) -> ModuleType | None:
    """The kernels that read this stack, None for the loops. Raises ValueError if they are asked for and not there."""
    choice = os.environ.get("CCRA_KERNELS", "auto")
    require_choice("CCRA_KERNELS", choice, ("auto", "torch", "numba", "triton"))
    dtypes = [torch.float32, torch.bfloat16]
    if choice == "triton":
        can_read = stack.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
        dtypes.append(torch.float16)
    else:
        can_read = stack.device.type == "cpu"
    if choice == "torch" or not can_read or stack.dtype not in dtypes or stack.stride(-1) != 1:
        return None
    kernels = _load("numba" if choice == "auto" else choice)
    if isinstance(kernels, ModuleType):
        return kernels
    if choice == "auto":
        return None
    raise ValueError(f"CCRA_KERNELS is {choice}, which does not work here ({kernels}); try: pip install {choice}")


@cache
def _load(library: str) -> ModuleType | Exception:
    """The kernels in that library's language, or what keeps them from being loaded."""
    try:
        return importlib.import_module(f"ccra_patch.kernels_{library}")
    except (ImportError, RuntimeError) as error:  # not installed, or no place where numba may keep what it has compiled
        logger.info("the layer stack is read by torch's own operations (%s); numba is faster on a CPU", error)
        return error


def exact(tensor: Tensor) -> torch.autocast:
    """Switch autocast off: it would copy the whole stack into half precision."""
    return torch.autocast(tensor.device.type, enabled=False)


def work_dtype(tensor: Tensor) -> torch.dtype:
    """float32, or float64 for a float64 tensor."""
    return torch.promote_types(tensor.dtype, torch.float32)


class _ReadStack(Function):
    @staticmethod
    def forward(ctx: Any, stack: Tensor, directions: Tensor, weight: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.kernels = None if weight is not None or ctx.needs_input_grad[0] else kernels_for(stack)
        if ctx.kernels is not None:
            products, mean, variance = ctx.kernels.read(stack, directions)
            ctx.save_for_backward(stack)
            ctx.mark_non_differentiable(mean, variance)
            return products, mean, variance, None

        images, layers, patches, width = stack.shape
        products = directions.new_empty(images, directions.shape[1], layers * patches)
        total = directions.new_empty(images, layers * patches)
        norm, weighted = torch.empty_like(total), torch.empty_like(total)
        for image in range(images):
            for span, rows in _blocks(stack[image]):
                torch.sum(rows, dim=-1, out=total[image, span])
                torch.linalg.vector_norm(rows, dim=-1, out=norm[image, span])
                for direction, product in zip(directions[image], products[image, :, span], strict=True):
                    torch.mv(rows, direction, out=product)
                if weight is not None:
                    centred = rows - total[image, span, None] / width
                    weighted[image, span] = torch.linalg.vector_norm(centred.mul_(weight), dim=-1).square() / width
        mean, variance = _moments(stack, total, norm)

        ctx.save_for_backward(stack, directions, mean, weight)
        products, mean, variance, weighted = (
            each.unflatten(-1, (layers, patches)) for each in (products, mean, variance, weighted)
        )
        if not ctx.needs_input_grad[0]:
            ctx.mark_non_differentiable(mean, variance)
        return products, mean, variance, None if weight is None else weighted

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_products: Tensor, of_mean: Tensor, of_variance: Tensor, of_weighted: Tensor | None
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        if ctx.kernels is not None:
            return None, ctx.kernels.read_backward(*ctx.saved_tensors, of_products), None

        stack, directions, mean, weight = ctx.saved_tensors
        width = stack.shape[-1]
        of_products, of_mean, of_variance = (grad.flatten(-2) for grad in (of_products, of_mean, of_variance))
        grad_directions = torch.zeros_like(directions)
        grad_weight = None
        if of_weighted is not None:
            of_weighted, grad_weight = of_weighted.flatten(-2), torch.zeros_like(weight)
        grad_stack = torch.empty_like(stack, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        for image in range(len(stack)):
            for span, rows in _blocks(stack[image]):
                place = (image, span, None)
                grad_directions[image].addmm_(of_products[image, :, span], rows)
                if of_weighted is not None:
                    squares = (rows - mean[place]).square_()
                    grad_weight += (of_weighted[image, span] @ squares) * weight * (2 / width)
                if grad_stack is not None:
                    spread = of_variance[place] * (rows - mean[place])
                    if of_weighted is not None:
                        pull = (rows - mean[place]) * weight.square()
                        spread += of_weighted[place] * (pull - pull.mean(dim=-1, keepdim=True))
                    of_rows = of_products[image, :, span].T @ directions[image] + (of_mean[place] + 2 * spread) / width
                    grad_stack[image].flatten(0, 1)[span] = of_rows.to(stack.dtype)
        return grad_stack, grad_directions, grad_weight


class _MixLayers(Function):
    @staticmethod
    def forward(ctx: Any, stack: Tensor, coefficients: Tensor) -> Tensor:
        ctx.save_for_backward(stack, coefficients)
        ctx.kernels = None if ctx.needs_input_grad[0] else kernels_for(stack)
        if ctx.kernels is not None:
            return ctx.kernels.mix(stack, coefficients)
        images, layers, patches, width = stack.shape
        mixed = coefficients.new_zeros(images, patches, width)
        for image in range(images):
            for layer in range(layers):
                mixed[image].addcmul_(stack[image, layer], coefficients[image, layer, :, None])
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mixed: Tensor) -> tuple[Tensor | None, Tensor]:
        stack, coefficients = ctx.saved_tensors
        if ctx.kernels is not None:
            return None, ctx.kernels.mix_backward(stack, grad_mixed)
        images, layers = coefficients.shape[:2]
        grad_coefficients = torch.empty_like(coefficients)
        product = torch.empty_like(grad_mixed[0])
        for image in range(images):
            for layer in range(layers):
                torch.mul(stack[image, layer], grad_mixed[image], out=product)
                torch.sum(product, dim=-1, out=grad_coefficients[image, layer])
        if not ctx.needs_input_grad[0]:
            return None, grad_coefficients

        grad_stack = torch.empty_like(stack, memory_format=torch.contiguous_format)
        for image in range(images):
            for layer in range(layers):
                torch.mul(grad_mixed[image], coefficients[image, layer, :, None], out=product)
                grad_stack[image, layer] = product
        return grad_stack, grad_coefficients


def _blocks(image: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Cut one image's ``[L, N, d]`` into blocks of patches: their place in ``L * N``, and ``[rows, d]`` to work on."""
    patches = image.flatten(0, 1)
    size = max(1, (CPU_BLOCK if image.device.type == "cpu" else DEVICE_BLOCK) // patches.shape[1])
    for start in range(0, patches.shape[0], size):
        span = slice(start, start + size)
        yield span, patches[span].to(work_dtype(image))


def _moments(stack: Tensor, total: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance of every patch ``[B, L * N]``, from its sum and its norm.

    On a CPU ``var_mean`` takes twenty times as long as a sum and a norm. ``|f|^2 / d - mean^2`` loses a relative
    precision of about ``eps * mean^2 / variance``; the patches (in practice none) where that ratio is above
    :data:`CANCELLATION_LIMIT` are read again, so the variance is good to 2e-6 in float32 everywhere.
    """
    width = stack.shape[-1]
    mean = total / width
    variance = norm.square() / width - mean.square()
    lost = mean.square() > CANCELLATION_LIMIT * variance
    if lost.any():
        variance[lost] = stack.flatten(1, 2)[lost].to(total.dtype).var(dim=-1, correction=0)
    return mean, variance
