"""A net whose l_2 Lipschitz constant is proven: orthogonal layers and sorting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from adaptive_smoothing_zoo.backbones.architectures import architecture
from adaptive_smoothing_zoo.backbones.asking import runs_as_written
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info

GRAM_SLACK = 1e-10  # least allowance for float64 rounding in a Gram matrix; wide matrices get more


@architecture("lipschitz")
class LipschitzNet(BaseNet):
    """Logits z with ``||z(x) - z(x')||_2 <= lipschitz * ||x - x'||_2`` for all images.

    Pixels are gathered into patches. Each stage applies an orthogonal matrix to the channels of each position and sorts
    pairs of channels. The positions are averaged, and an orthogonal matrix maps the average to the logits.

    Args:
        widths: channels per stage, even; one stage or more.
        patch: side of the square of pixels that becomes one position; image sides must be multiples of it.
        halve: whether each stage but the first begins by gathering 2 x 2 positions into one.

    Raises:
        ValueError: a width is odd.

    Feature maps: the output of each stage. The constant, layer by layer (all norms l_2, over all entries of a map):

    - (x - mean) / std: 1 / min |std|. Pixels to patches, and a bias: 1.
    - A matrix W on the channels of each position: ||W||, since the squares of the positions add up; 1 if orthonormal.
    - max and min of pairs ([ALG19], GroupSort of size 2): 1. Of all ways to pair the entries of two vectors, pairing
      equal ranks has the least sum of squared differences.
    - The average over P positions: 1 / sqrt(P), by Cauchy-Schwarz; counted as 1.

    ``lipschitz`` is their product for the present weights.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (256, 256, 256),
        patch: int = 8,
        halve: bool = False,
        num_classes: int = 10,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(mean, std)
        if odd := [width for width in widths if width % 2]:
            raise ValueError(f"channels are sorted in pairs, so widths must be even, got {odd[0]}")
        self.stem = Patches(patch)
        inputs = [len(mean) * patch**2, *(width * (4 if halve else 1) for width in widths[:-1])]
        self.stages = nn.ModuleList(
            nn.Sequential(*([Patches(2)] if halve and i > 0 else []), ChannelMatrix(channels, width), PairSort())
            for i, (channels, width) in enumerate(zip(inputs, widths, strict=True))
        )
        self.final = nn.Identity()
        self.head = nn.Linear(widths[-1], num_classes)
        self.feature_info = stage_info(widths, [patch * (2**i if halve else 1) for i in range(len(widths))])
        for layer in self.linear_layers():
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.linear_layers())).bias.dtype  # reading a parametrized weight would compute it

    @property
    def lipschitz(self) -> float:
        """The proven l_2 Lipschitz constant of the logits for the present weights; in float64, rounded up.

        Raises:
            ValueError: a layer was replaced, a module has a hook, or this is a subclass: nothing is proven of these.
        """
        parts = list(self._parts())
        changed = [part for part, kinds in parts if type(part).forward not in {kind.forward for kind in kinds}]
        changed += [part for part in self.modules() if not runs_as_written(part)]
        if changed or type(self) is not LipschitzNet:
            what = type(changed[0] if changed else self).__name__
            raise ValueError(f"no constant is proven for a LipschitzNet with a {what} that was replaced or has a hook")
        constant = float(1.0 / self.std.double().abs().min())
        for part, _ in parts:
            if isinstance(part, nn.Linear):
                constant *= spectral_norm_bound(part.weight)
        return constant * (1.0 + 1e-12)

    def _parts(self) -> Iterator[tuple[nn.Module, tuple[type[nn.Module], ...]]]:
        """Its parts, each as often as it runs, with the kinds for which a constant is proven."""
        yield self.stem, (Patches,)
        for stage in self.stages:
            yield stage, (nn.Sequential,)
            for layer in stage._modules.values():
                if layer is not None:
                    yield layer, (Patches, ChannelMatrix, PairSort)
        yield self.final, (nn.Identity,)
        yield self.head, (nn.Linear, nn.Identity)

    def linear_layers(self) -> Iterator[nn.Linear]:
        """The layers with weights, in the order of a pass."""
        yield from (module for module in self.stages.modules() if isinstance(module, nn.Linear))
        if isinstance(self.head, nn.Linear):
            yield self.head

    def parametrize(self) -> LipschitzNet:
        """For training, make every weight a function of free parameters that is always orthogonal."""
        for layer in self.linear_layers():
            if not is_parametrized(layer):
                orthogonal(layer, orthogonal_map="cayley")
        return self

    @torch.no_grad()
    def freeze(self) -> LipschitzNet:
        """Make every weight a plain parameter again: the nearest orthogonal matrix, up to float32 rounding."""
        for layer in self.linear_layers():
            if is_parametrized(layer):
                remove_parametrizations(layer, "weight", leave_parametrized=True)
            u, _, v = torch.linalg.svd(layer.weight.double(), full_matrices=False)
            layer.weight.copy_(u @ v)
        return self


class Patches(nn.Module):
    """The pixels of each square of side s become the channels of one position: (N, C, H, W) to (N, C s^2, H/s, W/s).

    ``nn.PixelUnshuffle`` does the same, but fails on an empty batch.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: Tensor) -> Tensor:
        """Raises ValueError: H or W is not a multiple of the side."""
        n, channels, height, width = features.shape
        side = self.side
        if height % side or width % side:
            raise ValueError(
                f"maps of {height} x {width} cannot be cut into patches of {side} x {side}; give images whose sides "
                "are multiples"
            )
        squares = features.reshape(n, channels, height // side, side, width // side, side)
        return squares.permute(0, 1, 3, 5, 2, 4).reshape(n, channels * side**2, height // side, width // side)

    def extra_repr(self) -> str:
        return str(self.side)


class ChannelMatrix(nn.Linear):
    """A linear layer on the channels of each position: (N, in, h, w) to (N, out, h, w)."""

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.weight[:, :, None, None], self.bias)


class PairSort(nn.Module):
    """The larger of channels i and i + C / 2 becomes channel i, the smaller one i + C / 2."""

    def forward(self, features: Tensor) -> Tensor:
        first, second = features.chunk(2, dim=1)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


@torch.no_grad()
def spectral_norm_bound(weight: Tensor) -> float:
    """A proven upper bound of a matrix's largest singular value: sqrt(1 + ||G - I||_F), G the smaller Gram matrix.

    ||W||^2 = ||G|| <= ||I|| + ||G - I||. It exceeds the value by about half of ||G - I||_F at most.
    """
    matrix = weight.double()
    gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
    excess = torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    # In any order, a sum of n products rounds by at most n u |x||y|: the Gram matrix is off by n u ||W||_F^2 at most.
    rounding = max(matrix.shape) * 2.0**-52 * float((matrix * matrix).sum())
    slack = max(GRAM_SLACK, rounding)
    return float((1.0 + excess * (1.0 + GRAM_SLACK) + slack).sqrt())
