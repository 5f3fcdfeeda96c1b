"""Certificates of mixed classifiers from what is known of their robust half."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates, mix_certificates
from adaptive_smoothing_zoo.certification.radii import Values, lipschitz_radius
from adaptive_smoothing_zoo.classifier import MixedClassifier
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.logit_maps import Scale


def certify_mix(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    bound: Literal["theorem", "sharp"] = "theorem",
    **settings: Any,
) -> Certificates:
    """Certify a mix whose robust net is Gaussian-smoothed: h by ``certify`` with soft votes, then its alpha_min.

    Args:
        model: its ``rob_model`` is a :class:`GaussianSmoothed`, used as it is (``rob_map`` is a scale of 1).
        images, labels: as in ``certify``.
        bound: as in ``mix_certificates``.
        settings: further arguments of ``certify`` but sigma and votes. A ``log`` holds the certificates of h alone.

    Returns:
        Certificates of the mix with the exact smoothed h, of which the model averages over some noises only.

    Raises:
        ValueError: another kind of robust net, or a map behind it; and what ``certify`` raises.
    """
    h = model.rob_model
    if not isinstance(h, GaussianSmoothed):
        raise ValueError(f"certify_mix needs a rob_model that is GaussianSmoothed, got {type(h).__name__}")
    if not (isinstance(model.rob_map, Scale) and model.rob_map.scale == 1.0):
        raise ValueError("a rob_map other than a scale of 1 changes h's probabilities, which are then not certified")
    of_h = certify(h.base, images, labels, sigma=h.sigma, votes="soft", **settings)
    return mix_certificates(of_h, model.alpha, h.sigma, bound=bound)


@torch.no_grad()
def certify_lipschitz(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    lipschitz: Values,
    indices: Sequence[int] | None = None,
    batch_size: int = 256,
) -> Certificates:
    """Certify a Lipschitz net, or a mix whose robust net is one, by Theorem 4 of 001; no sampling.

    Args:
        model: a net h with logits (N, C), or a :class:`MixedClassifier`, of which ``rob_model`` and ``rob_map`` are
            used, with its alpha_min. Used in eval mode.
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        lipschitz: constants of h's probabilities (behind ``rob_map``), one or (C,), in the norm of the radii.
        indices: (N,) dataset indices; 0 to N - 1 if None.

    Returns:
        Certificates in the constants' norm; prediction -1 where nothing is certified.

    Raises:
        ValueError: images or labels that make no sense, or values out of range.

    As sure as the constants, but for the rounding of h's float32 logits, which is not covered.
    """
    check_examples(images, labels)
    h, alpha = model, 1.0
    if isinstance(model, MixedClassifier):
        h, alpha = nn.Sequential(model.rob_model, model.rob_map), model.alpha.alpha_min
    device = next((tensor.device for tensor in [*h.parameters(), *h.buffers()]), torch.device("cpu"))
    start = time.perf_counter()
    training = [module for module in h.modules() if module.training]
    try:
        h.eval()
        batches = [h(batch.to(device)).double().softmax(dim=1).cpu() for batch in images.split(batch_size)]
    finally:
        for module in training:
            module.training = True
    probabilities = torch.cat(batches).numpy()
    check_examples(images, labels, probabilities.shape[1])
    radius = lipschitz_radius(probabilities, alpha, lipschitz)
    prediction = np.where(radius > 0, probabilities.argmax(axis=1), ABSTAIN)
    return Certificates(
        index=np.arange(len(images)) if indices is None else np.asarray(indices),
        label=labels.cpu().numpy(),
        prediction=prediction,
        radius=radius,
        correct=prediction == labels.cpu().numpy(),
        seconds=np.full(len(images), (time.perf_counter() - start) / len(images)),
    )
