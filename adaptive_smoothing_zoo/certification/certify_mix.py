"""Certificates of mixed classifiers from what is known of their robust half."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification.at_radius import certify_at_radius
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates, mix_certificates
from adaptive_smoothing_zoo.certification.radii import (
    Bound,
    Floats,
    Values,
    check_bound,
    lipschitz_logit_radius,
    lipschitz_radius,
    softmax_lipschitz,
)
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import Scale


def certify_mix(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    bound: Bound = "theorem5",
    radius: float | None = None,
    **settings: Any,
) -> Certificates:
    """Certify a mix whose robust net is Gaussian-smoothed: h by sampling its own kind of votes, then its alpha_min.

    Args:
        model: its ``rob_model`` is a :class:`GaussianSmoothed`, used as it is (``rob_map`` is a scale of 1).
        images, labels: as in ``certify``.
        bound: as in ``mix_certificates``.
        radius: only whether the mix has at least this l_2 radius, by ``certify_at_radius``, with far fewer samples.
        settings: further arguments of ``certify`` (or of ``certify_at_radius``) but sigma and votes. A ``log`` holds
            the certificates of h alone; with a ``radius`` those of the mix.

    Returns:
        Certificates of the mix with the exact smoothed h, of which the model averages over some noises only.

    Raises:
        ValueError: another kind of robust net, or a map behind it; and what ``certify`` raises.
    """
    h = smoothed_rob_model(model)
    settings = {"sigma": h.sigma, "votes": h.votes, **settings}
    if radius is not None:
        return certify_at_radius(h.voter, images, labels, radius=radius, alpha=model.alpha, bound=bound, **settings)
    return mix_certificates(certify(h.voter, images, labels, **settings), model.alpha, h.sigma, bound=bound)


def smoothed_rob_model(model: MixedClassifier) -> GaussianSmoothed:
    """The robust net of a mix that ``certify_mix`` can certify.

    Raises:
        ValueError: another kind of robust net, or a map behind it.
    """
    h = model.rob_model
    if not isinstance(h, GaussianSmoothed):
        raise ValueError(f"certify_mix needs a rob_model that is GaussianSmoothed, got {type(h).__name__}")
    if not (isinstance(model.rob_map, Scale) and model.rob_map.scale == 1.0):
        raise ValueError("a rob_map other than a scale of 1 changes h's probabilities, which are then not certified")
    return h


def certify_lipschitz(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    bound: Bound = "theorem4",
    lipschitz: Values | None = None,
    indices: Sequence[int] | None = None,
    batch_size: int = 256,
    times: bool = True,
) -> Certificates:
    """Certify a Lipschitz net, or a mix whose robust net is one; no sampling.

    Args:
        model: a net h with logits (N, C), or a :class:`MixedClassifier`, of which ``rob_model`` and ``rob_map`` are
            used, with its alpha_min. Used in eval mode and in float64.
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        bound: "theorem4" [BAS24]; or, for a :class:`LipschitzNet`, "sharp" (``lipschitz_logit_radius``).
        lipschitz: constants of h's probabilities (behind ``rob_map``), one or (C,), in the norm of the radii. If None,
            h is a :class:`LipschitzNet`, which proves its own in l_2, and ``rob_map`` a scale.
        indices: (N,) dataset indices; 0 to N - 1 if None.
        times: return how long it took.

    Returns:
        Certificates in the constants' norm; prediction -1 where nothing is certified.

    Raises:
        ValueError: images or labels that make no sense, values out of range, or a net without known constants.

    As sure as the constants, for h in real numbers, which float64 stands for here. The float32 net, evaluated at the
    edge of a radius, may differ from it by its own rounding.
    """
    check_examples(images, labels)
    check_bound(bound)
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    if bound == "theorem5":
        raise ValueError("theorem 5 is about Gaussian-smoothed nets; take theorem4 or sharp for a Lipschitz net")
    start = time.perf_counter()
    h, rob_map, alpha = robust_half(model)
    if lipschitz is None:
        constant = logits_lipschitz(h, rob_map)
    elif bound == "sharp":
        raise ValueError("the sharp bound needs a LipschitzNet; constants of probabilities give theorem4")
    logits = _logits(nn.Sequential(h, rob_map), images, batch_size)
    if bound == "sharp":
        radius = lipschitz_logit_radius(logits, alpha, constant)
    else:
        radius = lipschitz_radius(
            _softmax(logits), alpha, softmax_lipschitz(constant) if lipschitz is None else lipschitz
        )
    check_examples(images, labels, logits.shape[1])
    prediction = np.where(radius > 0, logits.argmax(axis=1), ABSTAIN)
    seconds = (time.perf_counter() - start) / len(images) if times else np.nan
    return Certificates(
        index=np.arange(len(images)) if indices is None else np.asarray(indices),
        label=labels.cpu().numpy(),
        prediction=prediction,
        radius=radius,
        correct=prediction == labels.cpu().numpy(),
        seconds=np.full(len(images), seconds),
    )


def robust_half(model: nn.Module) -> tuple[nn.Module, nn.Module, float]:
    """h, the map of its logits and the smallest alpha; a net that is no mix is its own h, with alpha 1."""
    if isinstance(model, MixedClassifier):
        return model.rob_model, model.rob_map, model.alpha.alpha_min
    return model, Scale(), 1.0


def logits_lipschitz(net: nn.Module, rob_map: nn.Module) -> float:
    """The l_2 constant of the scaled logits of a net that proves its own.

    Raises:
        ValueError: another net, or another map.
    """
    if not isinstance(net, LipschitzNet):
        raise ValueError(f"the Lipschitz constants of {type(net).__name__} are not known; give them as lipschitz")
    if not isinstance(rob_map, Scale):
        raise ValueError(f"rob_map must be a scale for the constants to be known, got {type(rob_map).__name__}")
    return float(net.lipschitz * rob_map.scale)


@torch.no_grad()
def _logits(h: nn.Module, images: Tensor, batch_size: int) -> Floats:
    """The logits of a copy in float64 and eval mode, (N, C)."""
    exact = copy.deepcopy(h).double().eval()
    device = next((tensor.device for tensor in [*h.parameters(), *h.buffers()]), torch.device("cpu"))
    batches = [exact(batch.to(device).double()).cpu() for batch in images.split(batch_size)]
    return torch.cat(batches).numpy()


def _softmax(logits: Floats) -> Floats:
    return torch.from_numpy(logits).softmax(dim=1).numpy()
