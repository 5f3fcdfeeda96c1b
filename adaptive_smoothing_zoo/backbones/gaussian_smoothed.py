"""A net smoothed by Gaussian noise: the mean of a base net's votes over a fixed bank of noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.architectures import architecture, build_described
from adaptive_smoothing_zoo.backbones.asking import asked, run_base_net
from adaptive_smoothing_zoo.backbones.scale import Scale

NOISES_AT_ONCE = 8  # noises per pass of the base net
LOG_NONE = -87.0  # stands for log(0) of a hard vote, to stay finite; near the log of float32's smallest normal number


class GaussianSmoothed(nn.Module):
    """``log(mean over m noises of vote(s * base(x + sigma * noise)))``, the vote a softmax or the one-hot argmax.

    Args:
        base: images (N, channels, H, W) to logits (N, C), or to an output that contains them (``asking.logits_of``).
        sigma: standard deviation of the noise, > 0, in units of pixels in [0, 1].
        image_shape: (channels, H, W).
        num_noises: m, size of the bank.
        seed: of the bank.
        votes: "soft" (softmax) or "hard" (argmax, which has no gradient).
        logit_scale: s > 0. The larger it is, the closer soft votes are to hard ones. Nets with logits close together,
            such as those of [JS21], get small certified radii from soft votes without it.

    Attributes:
        voter: the net that votes, base and scale; the one to give to ``certify``.

    Raises:
        ValueError: sigma, m or s out of range, or other votes.

    The bank is drawn once and saved with the weights, so the net is deterministic. Certificates hold for the smoothed
    net, the mean over all noise. This net approximates it with m samples and has no certificate itself.
    """

    noise: Tensor

    def __init__(
        self,
        base: nn.Module,
        *,
        sigma: float,
        image_shape: Sequence[int],
        num_noises: int = 100,
        seed: int = 0,
        votes: Literal["soft", "hard"] = "soft",
        logit_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive and finite, got {sigma}")
        if num_noises < 1:
            raise ValueError(f"at least 1 noise is needed, got {num_noises}")
        if votes not in ("soft", "hard"):
            raise ValueError(f"votes must be 'soft' or 'hard', got {votes!r}")
        self.base, self.sigma, self.votes = base, float(sigma), votes
        self.logit_scale = Scale(logit_scale)
        generator = torch.Generator("cpu").manual_seed(seed)
        bank = torch.randn((num_noises, *image_shape), generator=generator, device="cpu")
        self.register_buffer("noise", bank.to(torch.get_default_device()))

    @property
    def num_classes(self) -> int:
        return int(self.base.num_classes)  # type: ignore[arg-type]

    @property
    def voter(self) -> nn.Module:
        return self.base if self.logit_scale.scale == 1.0 else nn.Sequential(asked(self.base), self.logit_scale)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images in [0, 1] -> (N, C) log-probabilities; ``base`` runs on m N images.

        Raises:
            ValueError: images of another shape than the noise.
        """
        if images.ndim != 4 or images.shape[1:] != self.noise.shape[1:]:
            raise ValueError(
                f"images must have shape (N, {', '.join(map(str, self.noise.shape[1:]))}), got {tuple(images.shape)}"
            )
        sums = []
        for noise in self.noise.split(NOISES_AT_ONCE):
            copies = (images.unsqueeze(1) + self.sigma * noise).flatten(0, 1)
            sums.append(self._votes(self._logits(copies)).unflatten(0, (-1, len(noise))).logsumexp(dim=1))
        return torch.stack(sums).logsumexp(dim=0) - math.log(len(self.noise))

    def _logits(self, images: Tensor) -> Tensor:
        """Logits of ``voter``, (B, C)."""
        logits, _ = run_base_net(self.base, images, None)
        return logits if self.logit_scale.scale == 1.0 else self.logit_scale(logits)

    def _votes(self, logits: Tensor) -> Tensor:
        """Logarithms of the votes, (B, C)."""
        if self.votes == "soft":
            return F.log_softmax(logits, dim=1)
        none = torch.full_like(logits, LOG_NONE)
        return none.scatter(1, logits.argmax(dim=1, keepdim=True), 0.0)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, num_noises={len(self.noise)}, votes={self.votes}"


@architecture("gaussian_smoothed")
def gaussian_smoothed(*, base: Mapping[str, Any], num_classes: int = 10, **arguments: Any) -> GaussianSmoothed:
    """A :class:`GaussianSmoothed` of a described net.

    Args:
        base: a mapping with the base net's "architecture" and, optionally, "arguments".
        arguments: of :class:`GaussianSmoothed`.

    Raises:
        ValueError: an invalid description, or arguments out of range.
    """
    return GaussianSmoothed(build_described(base, num_classes, "base"), **arguments)
