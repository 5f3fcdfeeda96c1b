"""Certificates of mixed classifiers from properties of their robust net."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import asked, in_eval_mode, runs_as_written
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification.at_radius import certify_at_radius
from adaptive_smoothing_zoo.certification.bounds import (
    LipschitzNetOutputs,
    SmoothedNet,
    of_lipschitz,
    of_smoothed,
    top_k_of_lipschitz,
)
from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates
from adaptive_smoothing_zoo.certification.rounding import EPS, Alpha, Floats, Values, alpha_min_of, checked_k
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.machine.ready import device_of, refusals_named
from adaptive_smoothing_zoo.method.alpha import keeps_its_range
from adaptive_smoothing_zoo.method.classifier import MixedClassifier, is_plain_mix
from adaptive_smoothing_zoo.method.logit_maps import Scale

ALPHA_SLACK = 1e-6  # float32 rounds alpha by less


def mix_certificates(
    certificates: Certificates, alpha: Alpha, sigma: float, *, bound: str = "theorem5"
) -> Certificates:
    """The certificates of a mix with a Gaussian-smoothed h, from those of h alone.

    A radius r of h [CRK19] is sigma Phi^-1(p) for a lower bound p of its label's probability, so p = Phi(r / sigma);
    every other class has at most 1 - p. With that runner-up "theorem4" is (2 p - 1 - (1 - alpha) / alpha) / (2 Lip)
    with Lip = ``gaussian_lipschitz(sigma)``, "theorem5" sigma Phi^-1(alpha p), and "sharp" r - sigma Phi^-1(1 / (2
    alpha)), which is never smaller than either. If the certificates also bound the runner-up (see
    ``Sampling.runner_up``), this bound replaces 1 - p.

    Args:
        certificates: of h alone, with radii that were computed so.
        alpha: one number in [0, 1], or an alpha module, whose alpha_min counts; that alpha never falls below it is
            trusted.
        sigma: of the noise behind ``certificates``, in units of the images.
        bound: a name from ``BOUNDS`` that is about a smoothed h.

    Returns:
        The same examples with the mix's radii, of the same top k. If h is certified and the mix is not, the
        prediction is -1, since h's log does not determine it. So the certified accuracy at 0 is the limit at radii just
        above 0.

    Raises:
        ValueError: several alphas, or a value outside its range; certificates of several k, or of a k above 1 that do
            not tell p_top and p_runner_up.

    The mix takes h(x) to be the exact mean over the noise of what was voted with, without a map after it. These
    certificates hold with the confidence of h's; radii rounded up in a log make these up to as much too large.
    """
    weight = alpha_min_of(alpha)
    if weight.ndim != 0:
        raise ValueError(f"mix_certificates takes one alpha, got shape {weight.shape}; call it for each")
    if not 0.0 < sigma < np.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    form = of_smoothed(bound)
    knows_another, top_k = not np.isnan(certificates.p_runner_up).any(), _top_k_of(certificates)
    if weight == 1.0 and form.keeps_h and top_k == 1:
        return certificates
    if top_k > 1 and not knows_another:
        raise ValueError(
            f"a radius of the top {top_k} alone does not tell that of a mix; give certificates with p_top and "
            "p_runner_up, as certify and its logs have them"
        )
    if top_k > 1 and form.top_k is not None:
        mixed = form.top_k(certificates.p_top, certificates.p_runner_up, weight, sigma, top_k)
        return certificates.with_radii(np.where(certificates.radius > 0, mixed, 0.0))
    if knows_another and form.two_bounds is not None and weight > 0.5:
        mixed = form.two_bounds(certificates.p_top, certificates.p_runner_up, weight, sigma)
        return certificates.with_radii(np.where(certificates.radius > 0, mixed, 0.0))
    h = SmoothedNet(radius=_with_the_rest(certificates, sigma), sigma=sigma)
    mixed = form.radius(h, weight) if weight > 0.5 else np.zeros_like(h.radius)
    # Rounded down: a quantile near 0 has an absolute error, one far away a relative one.
    slack = 16 * EPS * (np.where(np.isfinite(h.radius), h.radius, 0.0) + sigma)
    return certificates.with_radii(np.where(h.radius > 0, np.maximum(mixed - slack, 0.0), 0.0))


def _top_k_of(certificates: Certificates) -> int:
    """The k of all certificates; 1 if there are none."""
    found = np.unique(certificates.top_k).tolist()
    if len(found) > 1:
        raise ValueError(f"certificates of the top {' and '.join(map(str, found))} are no certificates of one mix")
    return int(found[0]) if found else 1


def _with_the_rest(certificates: Certificates, sigma: float) -> Floats:
    """h's radii with 1 - p for the runner-up, even if the runner-up was bounded separately."""
    bounded = ~np.isnan(certificates.p_top)
    return np.where(bounded, cohen_radius(np.where(bounded, certificates.p_top, 0.5), sigma), certificates.radius)


def certify_mix(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    bound: str = "theorem5",
    radius: float | None = None,
    top_k: int | None = None,
    **settings: Any,
) -> Certificates:
    """Certify a mix whose robust net is Gaussian-smoothed: h by sampling its own kind of votes, then its alpha_min.

    Args:
        model: its ``rob_model`` is a :class:`GaussianSmoothed`, used as it is (``rob_map`` is a scale of 1).
        images, labels: as in ``certify``.
        bound: as in ``mix_certificates``.
        radius: only decide whether the mix has at least this l_2 radius, by ``certify_at_radius``, with far fewer
            samples.
        top_k: certify that the label stays among so many likeliest classes, as in ``certify``; not with a ``radius``.
        settings: of ``certify``; sigma and votes are h's own. A ``log`` is of h alone; with a ``radius``, of the mix.

    Returns:
        Certificates of the mix with the exact smoothed h, of which the model averages over some noises only.

    Raises:
        ValueError: another kind of robust net, or a map behind it; another sigma or other votes than h's; as
            ``check_alphas``; and what ``certify`` raises.
    """
    check_question(radius, top_k)
    h = smoothed_rob_model(model)
    own = {"sigma": h.sigma, "votes": h.votes}
    if any(settings.get(name, value) != value for name, value in own.items()):
        raise ValueError(f"h is smoothed with sigma {h.sigma:g} and {h.votes} votes; omit sigma and votes")
    check_examples(images, labels)
    check_alphas(model, images)
    settings |= own
    if radius is not None:
        return certify_at_radius(h.voter, images, labels, radius=radius, alpha=model.alpha, bound=bound, **settings)
    of_h = certify(h.voter, images, labels, top_k=top_k, **settings)
    return mix_certificates(of_h, model.alpha, h.sigma, bound=bound)


def check_question(radius: float | None, top_k: int | None) -> None:
    """Raise ValueError if both are given."""
    if radius is not None and top_k is not None:
        raise ValueError("a single radius is asked of the likeliest class; omit the radius or top_k")


def smoothed_rob_model(model: MixedClassifier) -> GaussianSmoothed:
    """The robust net of a mix that ``certify_mix`` can certify.

    Raises:
        ValueError: another kind of robust net, a map behind it, or as ``check_plain``.
    """
    check_plain(model)
    h = model.rob_model
    if not isinstance(h, GaussianSmoothed):
        raise ValueError(f"certify_mix needs a rob_model that is GaussianSmoothed, got {type(h).__name__}")
    if not (type(model.rob_map) is Scale and model.rob_map.scale == 1.0):
        raise ValueError("a rob_map other than a scale of 1 changes h's probabilities, which are then not certified")
    if type(h) is not GaussianSmoothed or not runs_as_written(h):
        raise ValueError("hooks or other code change what the smoothed rob_model says, which is then not certified")
    return h


def check_plain(model: MixedClassifier) -> None:
    """Refuse a mix whose parts do not tell its answer: certificates are about these.

    Raises:
        ValueError: ``reset_classifier`` has replaced the mix; or a hook or a subclass may change it.
    """
    model.check_mixes("a certificate")
    if not is_plain_mix(model) or not runs_as_written(model.rob_map):
        raise ValueError(
            f"hooks or other code change what this {type(model).__name__} says, and certificates of a mix are made of "
            "its parts; remove them, or certify its Gaussian-smoothed version"
        )


@torch.no_grad()
def check_alphas(model: MixedClassifier, images: Tensor, batch_size: int = 256) -> None:
    """Refuse an alpha of a user's own class that leaves, at some image, the range which it declares.

    A certificate trusts that alpha stays in this range within the radius, too; of a constant and of a mixing network
    that is proven.

    Raises:
        ValueError: it does, or is not a number there.
    """
    low, high, device = model.alpha.alpha_min, model.alpha.alpha_max, device_of(model) or torch.device("cpu")
    if keeps_its_range(model.alpha) or low == 1.0:  # then g never runs
        return
    with in_eval_mode(model):
        for batch in images.split(batch_size):
            std, rob = model.alpha.log_weights(model.base_outputs(batch.to(device)))
            alpha = torch.as_tensor(rob - std, dtype=torch.float64).sigmoid().flatten()  # only the ratio matters
            wrong = alpha[~((alpha >= low - ALPHA_SLACK) & (alpha <= high + ALPHA_SLACK))]
            if len(wrong):
                raise ValueError(
                    f"alpha is {float(wrong[0]):g} at an image, and its {type(model.alpha).__name__} declares that it "
                    f"stays in [{low:g}, {high:g}], which certificates rely on; correct alpha_min and alpha_max"
                )


def certify_lipschitz(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    bound: str = "theorem4",
    lipschitz: Values | None = None,
    top_k: int | None = None,
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
        bound: a name from ``BOUNDS`` that is about a Lipschitz h.
        lipschitz: constants of h's probabilities (behind ``rob_map``), one or (C,), in the norm of the radii. If None,
            h is a :class:`LipschitzNet`, which proves its own in l_2, and ``rob_map`` a scale.
        top_k: certify that the label stays among so many likeliest classes, in [1, C - 1], instead of that the
            likeliest class stays the first.
        indices: (N,) dataset indices; 0 to N - 1 if None.
        times: return how long it took.

    Returns:
        Certificates in the constants' norm; prediction -1 where nothing is certified, and with ``top_k`` the label
        elsewhere.

    Raises:
        ValueError: images or labels that make no sense, values out of range, or a net without known constants; or as
            ``check_alphas``.
        EvaluationError: the model fails on such images.

    As sure as the constants, for h in real numbers, which float64 stands for here.
    """
    check_examples(images, labels)
    if batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    form, start = of_lipschitz(bound), time.perf_counter()
    h, rob_map, alpha = _robust_half(model, images, batch_size)
    constant = logits_lipschitz(h, rob_map) if lipschitz is None else None
    logits = _logits(nn.Sequential(asked(h), rob_map), images, batch_size)
    outputs = LipschitzNetOutputs(logits=logits, of_logits=constant, of_probabilities=lipschitz)
    check_examples(images, labels, logits.shape[1])
    weight, classes = alpha_min_of(alpha), logits.argmax(axis=1)
    if top_k is None:
        radius = form(outputs, weight)
    else:
        classes = labels.cpu().numpy()
        radius = top_k_of_lipschitz(bound)(outputs, weight, classes, checked_k(top_k, logits.shape[1]))
    prediction = np.where(radius > 0, classes, ABSTAIN)
    seconds = (time.perf_counter() - start) / len(images) if times else np.nan
    return Certificates(
        index=np.arange(len(images)) if indices is None else np.asarray(indices),
        label=labels.cpu().numpy(),
        prediction=prediction,
        radius=radius,
        correct=prediction == labels.cpu().numpy(),
        seconds=np.full(len(images), seconds),
        top_k=np.full(len(images), top_k or 1),
    )


def _robust_half(model: nn.Module, images: Tensor, batch_size: int) -> tuple[nn.Module, nn.Module, float]:
    """h, its map, and the least weight that it has; of a net of its own that net."""
    if not isinstance(model, MixedClassifier):
        return model, Scale(), 1.0
    check_plain(model)
    check_alphas(model, images, batch_size)
    return model.rob_model, model.rob_map, model.alpha.alpha_min


def logits_lipschitz(net: nn.Module, rob_map: nn.Module) -> float:
    """The l_2 constant of the scaled logits of a net that proves its own.

    Raises:
        ValueError: another net, or another map.
    """
    if not isinstance(net, LipschitzNet):
        raise ValueError(f"the Lipschitz constants of {type(net).__name__} are not known; give them as lipschitz")
    if type(rob_map) is not Scale:  # a subclass may compute something else
        raise ValueError(f"rob_map must be a scale for the constants to be known, got {type(rob_map).__name__}")
    return float(net.lipschitz * rob_map.scale)


@torch.no_grad()
def _logits(h: nn.Module, images: Tensor, batch_size: int) -> Floats:
    """The logits of a copy in float64 and eval mode, (N, C)."""
    exact = copy.deepcopy(h).double().eval()
    device = device_of(h) or torch.device("cpu")
    with refusals_named(images):
        return torch.cat([exact(batch.to(device).double()).cpu() for batch in images.split(batch_size)]).numpy()
