"""3 x 3 convolutions of frozen nets on CPUs with a quarter of the multiplications [LG16]."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# F(4 x 4, 3 x 3) of [LG16, sec. 4.3]: tiles of 6 x 6 pixels give 4 x 4 outputs, from 36 instead of 144 products.
IMAGE = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
         (0, 4, 0, -5, 0, 1))  # fmt: skip
KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6),
          (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
STEP, TILE = 4, 6

CHANNELS = 128  # with fewer, the transformations cost as much as the products save, or more with several threads
FEWEST_TILES, TILES = 16, 128  # at once: fewer do not pay for reading the kernels; more do not fit the caches
MEMORY = 2 * 2**30  # bytes for transformed kernels, which take 8 times the memory of the convolution's own


def use_winograd(net: nn.Module, images: Tensor) -> int:
    """Let a frozen net's 3 x 3 convolutions use Winograd's algorithm where it pays; return how many do.

    It pays on CPUs in float32, with stride 1, 128 channels or more, and maps that tiles of 4 x 4 cover well. Results
    differ by rounding, about 1e-5 of the largest number. Gradients reach the images, not the weights. Inputs in other
    formats and passes under autocast are computed as before.

    Args:
        net: changed in place; its weights must not change afterwards.
        images: some images of the kind it will see, on its device.
    """
    left, count = MEMORY, 0
    for conv, covered in _covered(net, images).items():
        size = 8 * conv.weight.nbytes
        if covered >= 0.6 and size <= left:
            conv.__class__ = _WinogradConv2d  # the layer keeps its place, its weights and its hooks
            conv.register_buffer("kernels", _transformed(conv.weight), persistent=False)
            turned = conv.weight.flip(2, 3).transpose(0, 1)
            conv.register_buffer("kernels_back", _transformed(turned), persistent=False)
            left, count = left - size, count + 1
    return count


def _covered(net: nn.Module, images: Tensor) -> dict[nn.Conv2d, float]:
    """The layers that may change, in the order of a pass, and the share of each one's tiles that its input fills."""
    covered: dict[nn.Conv2d, float] = {}

    def look(conv: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        covered[conv] = height * width / (math.prod(_tiles(height, width)) * STEP**2)

    handles = [conv.register_forward_pre_hook(look) for conv in net.modules() if _may_change(conv)]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return covered


def _may_change(conv: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.weight.device.type == "cpu"
        and conv.weight.dtype == torch.float32
        and not conv.weight.requires_grad
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
        and min(conv.in_channels, conv.out_channels) >= CHANNELS
    )


class _WinogradConv2d(nn.Conv2d):
    kernels: Tensor
    kernels_back: Tensor

    def forward(self, input: Tensor) -> Tensor:
        plain = input.dtype != torch.float32 or input.ndim != 4 or torch.is_autocast_enabled("cpu")
        if plain or len(input) * math.prod(_tiles(*input.shape[-2:])) < FEWEST_TILES:
            return super().forward(input)
        found: Tensor = _Convolution.apply(input, self.kernels, self.kernels_back, self.bias)
        return found


class _Convolution(torch.autograd.Function):
    """A convolution; its gradient by the input is a convolution with the flipped kernels, again differentiable."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernels: Tensor, kernels_back: Tensor, bias: Tensor | None) -> Tensor:
        ctx.kernels, ctx.kernels_back = kernels, kernels_back
        return _convolve(maps, kernels, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        found: Tensor = _Convolution.apply(gradient, ctx.kernels_back, ctx.kernels, None)
        return found, None, None, None


def _convolve(maps: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """Maps (N, C, H, W) convolved with transformed kernels (36, C, D), a few images at a time: (N, D, H, W).

    The result is not a view: many nets write into it, and autograd forbids that for a function's views.
    """
    (count, _, height, width), (_, _, features) = maps.shape, kernels.shape
    rows, columns = _tiles(height, width)
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1 + columns * STEP - width, 1, 1 + rows * STEP - height))
    shape, last = (count, features, rows * STEP, columns * STEP), torch.channels_last
    found = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=last)
    outputs = found.permute(0, 2, 3, 1).view(count, rows, STEP, columns, STEP, features)
    images = max(1, TILES // (rows * columns))
    for some, into in zip(padded.split(images), outputs.split(images), strict=True):
        into.permute(2, 4, 0, 1, 3, 5).copy_(_convolve_tiles(some, kernels, bias, rows, columns))
    return found if shape[2:] == (height, width) else found[:, :, :height, :width].clone(memory_format=last)


def _convolve_tiles(padded: Tensor, kernels: Tensor, bias: Tensor | None, rows: int, columns: int) -> Tensor:
    """The same for padded maps (N, 4 rows + 2, 4 columns + 2, C), all tiles at once: (4, 4, N, rows, columns, D)."""
    (count, _, _, channels), (image, down, right, channel) = padded.shape, padded.stride()
    shape = (TILE, TILE, count, rows, columns, channels)
    strides = (down, right, image, STEP * down, STEP * right, channel)
    tiles = padded.as_strided(shape, strides, padded.storage_offset()).reshape(TILE**2, -1)
    products = torch.bmm((_both(IMAGE) @ tiles).view(TILE**2, -1, channels), kernels)
    if bias is not None:
        products[TILE + 1] += bias  # OUTPUT adds the product at (1, 1) to every output once
    return (_both(OUTPUT) @ products.view(TILE**2, -1)).view(STEP, STEP, count, rows, columns, -1)


def _tiles(height: int, width: int) -> tuple[int, int]:
    return -(-height // STEP), -(-width // STEP)


def _transformed(kernels: Tensor) -> Tensor:
    """Kernels (D, C, 3, 3) transformed to (36, C, D), in float64."""
    flat = _both(KERNEL, torch.float64) @ kernels.double().flatten(2).permute(2, 1, 0).flatten(1)
    return flat.view(TILE**2, kernels.shape[1], kernels.shape[0]).to(kernels.dtype)


@lru_cache
def _both(matrix: tuple[tuple[float, ...], ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix that transforms rows and columns at once."""
    one = torch.tensor(matrix, dtype=dtype, device="cpu")
    return torch.kron(one, one)
