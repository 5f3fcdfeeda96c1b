"""CERTIFY (Cohen et al. 2019): certified l_2 radii of a Gaussian-smoothed classifier by sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptive_smoothing_zoo.certification.bounds import betting_lower, clopper_pearson_lower
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, COLUMNS, Certificates
from adaptive_smoothing_zoo.certification.radii import Floats, cohen_radius
from adaptive_smoothing_zoo.certification.running import OnProgress, run_certification, whole_number
from adaptive_smoothing_zoo.certification.sampling import Copies, Votes


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    failure_probability: float = 0.001,
    batch_size: int | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    votes: Votes = "hard",
    fold: bool = True,
    dtype: torch.dtype = torch.float32,
    log: str | Path | None = None,
    times: bool = True,
    on_progress: OnProgress | None = None,
) -> Certificates:
    """Certify the smoothed version of a classifier at each image (Cohen et al. 2019, CERTIFY).

    The smoothed classifier gives the class with the largest mean vote of ``model`` over noise N(0, sigma^2 I) on the
    image. n0 samples choose the class, n others bound its mean vote p from below, and where p > 1/2 no perturbation
    smaller than sigma Phi^-1(p) changes the class.

    Args:
        model: images (N, channels, H, W) to logits (N, C), C >= 2. Noisy images are not clipped to [0, 1].
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        sigma: standard deviation of the noise, > 0, in units of pixels in [0, 1].
        n0, n: samples for the choice and for the bound, whole numbers >= 1.
        failure_probability: of each certificate, in (0, 1), over the noise.
        batch_size: noisy images per pass; images share batches where n is smaller. If None, 128 on the CPU, where more
            leave its caches, and 1000 elsewhere.
        seed: of the noise, with the dataset index of the image.
        indices: (N,) dataset indices; 0 to N - 1 if None.
        device: where to compute; where the model is if None. The model is moved there.
        votes: "hard": each sample votes for its argmax; Clopper-Pearson bound. "soft": its softmax is averaged;
            betting bound. They certify two different smoothed classifiers.
        fold: compute with a copy of the model whose batch norms are folded into its convolutions, which is the same
            function up to rounding and faster (``attacks.prepare``; where that does not apply, the model itself).
        dtype: torch.float32, or torch.bfloat16 or torch.float16 to let layers compute in that (autocast), which is
            faster where the device has units for it. Noise is added in float32, and TF32 is off in any case. What is
            certified is then the smoothed version of the rounded net, not of the float32 net.
        log: a file to which each example's certificate is written as soon as it is known, in the format of
            ``read_log``. A run that was interrupted, however hard, goes on from there if all settings are the same.
        times: write to the log, and return, how long each example took. Without, runs with the same settings give
            the same bytes.
        on_progress: called after each batch.

    Returns:
        One certificate per image, in their order; prediction -1 and radius 0 where the bound does not exceed 1/2.

    Raises:
        ValueError: images, labels or settings that make no sense.
        EvaluationError: the model's output is not (N, C), or NaN somewhere.
        ResultsError: the log is damaged, belongs to other settings, or is being written by another process.

    Each certificate is wrong with at most ``failure_probability``; of N certificates some may be. What is certified is
    the smoothed version of ``model`` as it is computed here, with the rounding of its number format and folding, as if
    inputs and noise were real numbers.

    The noise of an image depends on the seed, its dataset index and the kind of device alone: batch size, order, the
    other images and interruptions change nothing but the rounding of kernels that depend on the shape of a batch, and
    with one batch size not even that. (Generators on the CPU have 32-bit seeds, so two of many images may have the
    same noise; that couples their errors and leaves each guarantee as it is.)
    """
    return run_certification(
        model,
        images,
        labels,
        FixedNumber(sigma=sigma, n=whole_number(n, "n"), failure_probability=failure_probability, votes=votes),
        sigma=sigma,
        n0=n0,
        votes=votes,
        batch_size=batch_size,
        seed=seed,
        indices=indices,
        device=device,
        fold=fold,
        dtype=dtype,
        log=log,
        times=times,
        on_progress=on_progress,
    )


@dataclass(frozen=True, kw_only=True)
class FixedNumber:
    """n votes for every image, and Cohen's radius for their lower bound."""

    sigma: float
    n: int
    failure_probability: float
    votes: Votes

    columns: ClassVar[tuple[str, ...]] = COLUMNS

    def __post_init__(self) -> None:
        check_numbers(self.n, self.failure_probability)

    def settings(self) -> dict[str, Any]:
        return {"n": self.n, "failure_probability": self.failure_probability}

    def group_size(self, batch_size: int) -> int:
        return max(1, round(batch_size / self.n))  # images that fit into one batch

    def certify(self, copies: Copies, tops: Tensor) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
        votes = copies.votes(tops, self.n)
        if self.votes == "hard":
            classes, counts = copies.fetch(tops, votes.sum(dim=1, dtype=torch.float64))
            p_lower = clopper_pearson_lower(counts, self.n, self.failure_probability)
        else:
            classes, soft = copies.fetch(tops, votes)
            p_lower = betting_lower(soft, self.failure_probability)
        predictions = np.where(p_lower > 0.5, classes, ABSTAIN).astype(np.int64)
        return predictions, cohen_radius(p_lower, self.sigma), np.full(len(classes), self.n)


def check_numbers(n: int, failure_probability: float) -> None:
    """Raise ValueError unless both are in their ranges."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0.0 < failure_probability < 1.0:
        raise ValueError(f"the failure probability must be in (0, 1), got {failure_probability}")
