"""The two reads of the layer stack, and their derivatives, as Triton kernels: each is one pass over a stack on a GPU.

They take the place of the loops of :mod:`ccra_patch.lean` when the environment says ``CCRA_KERNELS=triton``. Half
precision is read as it is and added up in float32, so no float32 copy of a layer is made. Parity with lean's loops is
tested in Triton's interpreter (``TRITON_INTERPRET=1``, no GPU needed); docs/gpu_checks.md has the check on a GPU.

Shapes: B images, L layers, N patches, K directions, d vision width. The stack may be a view whose last dimension is
contiguous.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads a kernel's annotations as types of its own.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # numbers of the stack that a program holds at once
COLUMNS, ROWS_OF_PRODUCT = 256, 32  # tile of read_backward
LEAST_OF_PRODUCT = 16  # rows that a matrix product takes at least


def read(stack: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, L, N, d]`` and ``[B, K, d]`` -> products ``[B, K, L, N]``, mean and variance over d ``[B, L, N]``."""
    images, layers, patches, width = stack.shape
    count = directions.shape[1]
    products = directions.new_empty(images, count, layers, patches)
    mean, variance = (directions.new_empty(images, layers, patches) for _ in range(2))
    tile = _whole_patches(width)
    _launch(
        _read, (images, layers, triton.cdiv(patches, tile["ROWS"])),
        stack, directions.contiguous(), products, mean, variance, layers, patches, width,
        *stack.stride()[:3], COUNT=count, **tile,
    )  # fmt: skip
    return products, mean, variance


def read_backward(stack: Tensor, grad_products: Tensor) -> Tensor:
    """Gradient of the directions, ``[B, K, d]``, from that of the products, ``[B, K, L, N]``."""
    images, layers, patches, width = stack.shape
    count = grad_products.shape[1]
    of_layers = grad_products.new_empty(images, layers, count, width)
    _launch(
        _read_backward, (images, layers, triton.cdiv(width, COLUMNS)),
        stack, grad_products.contiguous(), of_layers, layers, patches, width, *stack.stride()[:3],
        COUNT=count, PADDED=max(LEAST_OF_PRODUCT, triton.next_power_of_2(count)), ROWS=ROWS_OF_PRODUCT, COLUMNS=COLUMNS,
    )  # fmt: skip
    return of_layers.sum(dim=1)


def mix(stack: Tensor, coefficients: Tensor) -> Tensor:
    """``[B, L, N, d]`` and ``[B, L, N]`` -> their weighted sum over the layers, ``[B, N, d]``."""
    images, layers, patches, width = stack.shape
    mixed = coefficients.new_empty(images, patches, width)
    tile = _whole_patches(width)
    _launch(
        _mix, (images, triton.cdiv(patches, tile["ROWS"])),
        stack, coefficients.contiguous(), mixed, layers, patches, width, *stack.stride()[:3],
        **tile,
    )  # fmt: skip
    return mixed


def mix_backward(stack: Tensor, grad_mixed: Tensor) -> Tensor:
    """Gradient of the coefficients, ``[B, L, N]``, from that of the sum, ``[B, N, d]``."""
    images, layers, patches, width = stack.shape
    grad_coefficients = grad_mixed.new_empty(images, layers, patches)
    tile = _whole_patches(width)
    _launch(
        _mix_backward, (images, triton.cdiv(patches, tile["ROWS"])),
        stack, grad_mixed.contiguous(), grad_coefficients, layers, patches, width, *stack.stride()[:3],
        **tile,
    )  # fmt: skip
    return grad_coefficients


def _whole_patches(width: int) -> dict[str, int]:
    """A tile that holds patches in their whole width."""
    columns = triton.next_power_of_2(width)
    return {"ROWS": max(1, TILE // columns), "COLUMNS": columns}


def _launch(kernel: Any, grid: tuple[int, ...], stack: Tensor, *arguments: Any, **sizes: int) -> None:
    """On the stack's own device, which need not be the current one."""
    with torch.cuda.device_of(stack):
        kernel[grid](stack, *arguments, **sizes)


@triton.jit
def _tile(start, patch, column, patches, width, patch_stride):
    """Patches of one layer, which begins at ``start``, in float32; 0 outside."""
    inside = (patch < patches)[:, None] & (column < width)[None, :]
    return tl.load(start + patch[:, None] * patch_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _read(
    stack, directions, products, mean, variance, layers, patches, width, image_stride, layer_stride, patch_stride,
    COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    patch, column = tl.program_id(2) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    is_patch, is_column = patch < patches, column < width
    start = stack + image * image_stride + layer * layer_stride
    tile = _tile(start, patch, column, patches, width, patch_stride)

    average = tl.sum(tile, axis=1) / width
    centred = tl.where(is_column[None, :], tile - average[:, None], 0.0)
    place = (image * layers + layer) * patches + patch
    tl.store(mean + place, average, mask=is_patch)
    tl.store(variance + place, tl.sum(centred * centred, axis=1) / width, mask=is_patch)
    for number in tl.static_range(COUNT):
        direction = tl.load(directions + (image * COUNT + number) * width + column, mask=is_column, other=0.0)
        place = ((image * COUNT + number) * layers + layer) * patches + patch
        tl.store(products + place, tl.sum(tile * direction[None, :], axis=1), mask=is_patch)


@triton.jit
def _read_backward(
    stack, grad_products, of_layers, layers, patches, width, image_stride, layer_stride, patch_stride,
    COUNT: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image, layer = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    number, column = tl.arange(0, PADDED), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    is_number, is_column = number < COUNT, column < width
    start = stack + image * image_stride + layer * layer_stride
    grads = grad_products + ((image * COUNT + number) * layers + layer) * patches
    total = tl.zeros((PADDED, COLUMNS), dtype=tl.float32)
    for first in range(0, patches, ROWS):
        patch = first + tl.arange(0, ROWS)
        is_grad = is_number[:, None] & (patch < patches)[None, :]
        grad = tl.load(grads[:, None] + patch[None, :], mask=is_grad, other=0.0)
        total += tl.dot(grad, _tile(start, patch, column, patches, width, patch_stride), input_precision="ieee")
    place = ((image * layers + layer) * COUNT + number) * width
    tl.store(of_layers + place[:, None] + column[None, :], total, mask=is_number[:, None] & is_column[None, :])


@triton.jit
def _mix(
    stack, coefficients, mixed, layers, patches, width, image_stride, layer_stride, patch_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    patch, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    is_patch = patch < patches
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for layer in range(layers):
        start = stack + image * image_stride + layer * layer_stride
        coefficient = tl.load(coefficients + (image * layers + layer) * patches + patch, mask=is_patch, other=0.0)
        total += _tile(start, patch, column, patches, width, patch_stride) * coefficient[:, None]
    place = (image * patches + patch[:, None]) * width + column[None, :]
    tl.store(mixed + place, total, mask=is_patch[:, None] & (column < width)[None, :])


@triton.jit
def _mix_backward(
    stack, grad_mixed, grad_coefficients, layers, patches, width, image_stride, layer_stride, patch_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    patch, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    grad = _tile(grad_mixed + image * patches * width, patch, column, patches, width, width)
    for layer in range(layers):
        start = stack + image * image_stride + layer * layer_stride
        tile = _tile(start, patch, column, patches, width, patch_stride)
        place = (image * layers + layer) * patches + patch
        tl.store(grad_coefficients + place, tl.sum(tile * grad, axis=1), mask=patch < patches)
