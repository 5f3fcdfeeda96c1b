"""A net smoothed by Gaussian noise, as a net: the mean of its probabilities over a fixed bank of noise."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GaussianSmoothed(nn.Module):
    """``log(mean over m noises of softmax(base(x + sigma * noise)))``.

    Args:
        base: images (N, channels, H, W) to logits (N, C).
        sigma: standard deviation of the noise, > 0, in units of pixels in [0, 1].
        image_shape: (channels, H, W).
        num_noises: m, size of the bank.
        seed: of the bank.

    Raises:
        ValueError: sigma or m out of range.

    The bank is drawn once and kept with the weights, so the net is a deterministic function with gradients. It is an
    approximation of the smoothed net, whose mean is over all noise: certificates (``certification``) are about the
    latter, and hold for this one only as far as m samples tell.
    """

    noise: Tensor

    def __init__(
        self, base: nn.Module, *, sigma: float, image_shape: Sequence[int], num_noises: int = 100, seed: int = 0
    ) -> None:
        super().__init__()
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite, got {sigma}")
        if num_noises < 1:
            raise ValueError(f"at least 1 noise is needed, got {num_noises}")
        self.base, self.sigma = base, float(sigma)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("noise", torch.randn((num_noises, *image_shape), generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images in [0, 1] -> (N, C) log-probabilities; m passes of ``base``."""
        votes = [F.log_softmax(self.base(images + self.sigma * noise), dim=1) for noise in self.noise]
        return torch.stack(votes).logsumexp(dim=0) - math.log(len(self.noise))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, num_noises={len(self.noise)}"
