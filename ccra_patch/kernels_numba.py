"""The two reads of the layer stack, and their derivatives, as compiled loops: each is one pass over a stack on a CPU.

The same four functions as in :mod:`ccra_patch.kernels_triton`; they take the place of the loops of
:mod:`ccra_patch.lean`, whose every operation is a pass of its own. Numbers are widened to float32 one by one on
their way to the sums, so half precision halves what is read and no copy is made. As many threads as torch has share the
work; who does which part does not change the result.

Shapes: B images, L layers, N patches, K directions, d vision width. The stack may be a view whose last dimension is
contiguous, in float32 or bfloat16.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Strides = tuple[int, int, int]

CHUNK = 256  # patches that are mixed at once: their sums stay in the second cache while layer after layer is added

# Sums in any order, so that they are taken sixteen numbers at a time. Infinities and NaN stay what they are.
compiled = njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})


def read(stack: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, L, N, d]`` and ``[B, K, d]`` -> products ``[B, K, L, N]``, mean and variance over d ``[B, L, N]``."""
    images, layers, patches, _ = stack.shape
    products = directions.new_empty(images, directions.shape[1], layers, patches)
    mean, variance = (directions.new_empty(images, layers, patches) for _ in range(2))
    _share(_read, images * layers, stack, directions, products, mean, variance)
    return products, mean, variance


def read_backward(stack: Tensor, grad_products: Tensor) -> Tensor:
    """Gradient of the directions, ``[B, K, d]``, from that of the products, ``[B, K, L, N]``."""
    images, layers, _, width = stack.shape
    of_layers = grad_products.new_empty(images, layers, grad_products.shape[1], width)
    _share(_read_backward, images * layers, stack, grad_products, of_layers)
    return of_layers.sum(dim=1)


def mix(stack: Tensor, coefficients: Tensor) -> Tensor:
    """``[B, L, N, d]`` and ``[B, L, N]`` -> their weighted sum over the layers, ``[B, N, d]``."""
    images, _, patches, width = stack.shape
    mixed = coefficients.new_empty(images, patches, width)
    _share(_mix, images * -(-patches // CHUNK), stack, coefficients, mixed)
    return mixed


def mix_backward(stack: Tensor, grad_mixed: Tensor) -> Tensor:
    """Gradient of the coefficients, ``[B, L, N]``, from that of the sum, ``[B, N, d]``."""
    grad_coefficients = grad_mixed.new_empty(stack.shape[:3])
    _share(_mix_backward, stack.shape[0] * stack.shape[1], stack, grad_mixed, grad_coefficients)
    return grad_coefficients


def _share(kernel: Callable[..., None], parts: int, stack: Tensor, *others: Tensor) -> None:
    """Run the kernel over all parts of its work, on several threads if torch has them."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(stack.shape, stack.stride(), strict=True))
    whole, bits = (torch.int16, np.uint16) if stack.dtype == torch.bfloat16 else (torch.int32, np.uint32)
    memory = stack.as_strided((span,), (1,)).view(whole).numpy().view(bits)
    given = memory, stack.stride()[:3], *(other.detach().contiguous().numpy() for other in others)
    threads = min(torch.get_num_threads(), parts)
    if threads == 1:
        kernel(*given, 0, parts)
        return
    bounds = [parts * thread // threads for thread in range(threads + 1)]
    list(_pool(threads).map(lambda start, end: kernel(*given, start, end), *zip(*pairwise(bounds), strict=True)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


@compiled
def _patch(memory: Array, strides: Strides, image: int, layer: int, patch: int, width: int) -> Array:
    first = image * strides[0] + layer * strides[1] + patch * strides[2]
    return memory[first : first + width]


def _float32(bits: Any) -> Any:
    """The number that bits in memory stand for; exists in compiled code alone."""
    raise NotImplementedError


@overload(_float32, strict=False)  # which would want lambdas annotated, too
def _by_width(bits: Any) -> Callable[[Any], Any]:
    if bits == types.uint16:  # a bfloat16, the upper half of a float32
        return lambda bits: np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    return lambda bits: np.uint32(bits).view(np.float32)


@compiled
def _read(
    memory: Array, strides: Strides, directions: Array, products: Array, mean: Array, variance: Array,
    start: int, end: int,
) -> None:  # fmt: skip
    _, count, width = directions.shape
    _, layers, patches = mean.shape
    for part in range(start, end):
        image, layer = divmod(part, layers)
        for patch in range(patches):
            features = _patch(memory, strides, image, layer, patch, width)
            total = squares = np.float32(0)
            for column in range(width):
                total += _float32(features[column])
            average = total / np.float32(width)
            for column in range(width):
                away = _float32(features[column]) - average
                squares += away * away
            mean[image, layer, patch], variance[image, layer, patch] = average, squares / np.float32(width)
            for number in range(count):
                direction, product = directions[image, number], np.float32(0)
                for column in range(width):
                    product += _float32(features[column]) * direction[column]
                products[image, number, layer, patch] = product


@compiled
def _read_backward(
    memory: Array, strides: Strides, grad_products: Array, of_layers: Array, start: int, end: int
) -> None:
    _, count, layers, patches = grad_products.shape
    width = of_layers.shape[3]
    for part in range(start, end):
        image, layer = divmod(part, layers)
        of_layers[image, layer] = 0
        for patch in range(patches):
            features = _patch(memory, strides, image, layer, patch, width)
            for number in range(count):
                grad, total = grad_products[image, number, layer, patch], of_layers[image, layer, number]
                for column in range(width):
                    total[column] += grad * _float32(features[column])


@compiled
def _mix(memory: Array, strides: Strides, coefficients: Array, mixed: Array, start: int, end: int) -> None:
    _, layers, patches = coefficients.shape
    width, chunks = mixed.shape[2], -(-patches // CHUNK)
    for part in range(start, end):
        image, chunk = divmod(part, chunks)
        begin, stop = chunk * CHUNK, min(patches, (chunk + 1) * CHUNK)
        mixed[image, begin:stop] = 0
        for layer in range(layers):
            for patch in range(begin, stop):
                features = _patch(memory, strides, image, layer, patch, width)
                coefficient, total = coefficients[image, layer, patch], mixed[image, patch]
                for column in range(width):
                    total[column] += coefficient * _float32(features[column])


@compiled
def _mix_backward(
    memory: Array, strides: Strides, grad_mixed: Array, grad_coefficients: Array, start: int, end: int
) -> None:
    _, layers, patches = grad_coefficients.shape
    width = grad_mixed.shape[2]
    for part in range(start, end):
        image, layer = divmod(part, layers)
        for patch in range(patches):
            features = _patch(memory, strides, image, layer, patch, width)
            grad, product = grad_mixed[image, patch], np.float32(0)
            for column in range(width):
                product += grad[column] * _float32(features[column])
            grad_coefficients[image, layer, patch] = product
