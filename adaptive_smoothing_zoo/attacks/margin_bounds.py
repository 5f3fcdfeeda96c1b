"""Margins of a mix, computed only as far as needed: often a pass of the robust net suffices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import decisive_margin, margin
from adaptive_smoothing_zoo.backbones.base import BaseNet
from adaptive_smoothing_zoo.method.alpha import keeps_its_range, log_weights_of
from adaptive_smoothing_zoo.method.classifier import MixedClassifier, is_plain_mix
from adaptive_smoothing_zoo.method.formula import BaseOutputs

_SLACK = 1e-4  # covers the rounding of margins, which are gaps of log-probabilities, in float32


class BoundedMargins:
    """The margin of a mix at many points, or infinity where certainly not below a threshold.

    First h runs. For any g, the margin is at least ``log(a h_y) - log(a h_i + 1 - a)`` with a = alpha_min and i the
    likeliest other class of h [BAS24, lemma]. If that does not decide, g runs. With both known, the odds of the label
    against each other class are monotone in alpha, so the margin is at least the smaller of those at alpha_min and
    alpha_max. If that does not decide either, the mixing network runs.

    Args:
        model: in eval mode, with an alpha that can be above 0.

    Attributes:
        asked, std_runs, mixing_runs: points so far, and how many of them needed g and the mixing network.
    """

    def __init__(self, model: MixedClassifier) -> None:
        self.model = model
        self.asked = self.std_runs = self.mixing_runs = 0

    @torch.no_grad()
    def __call__(self, points: Tensor, labels: Tensor, worth: Tensor) -> Tensor:
        """Margins (N,) of points (N, channels, H, W); infinity where certainly not below ``worth`` (N,)."""
        model, alpha = self.model, self.model.alpha
        margins = torch.full_like(worth, torch.inf)
        self.asked += len(points)

        if all(isinstance(net, BaseNet) for net in (model.std_model, model.rob_model)):  # others may call view
            points = points.contiguous(memory_format=torch.channels_last)
        log_rob, rob_maps = model.rob_outputs(points, alpha.rob_taps)
        rows = _open(_least_margin(log_rob, labels, alpha.alpha_min), worth)
        if len(rows) == 0:
            return margins
        log_std, std_maps = model.std_outputs(points[rows], alpha.std_taps)
        self.std_runs += len(rows)
        outputs = BaseOutputs(log_std, log_rob[rows], std_maps, [feature_map[rows] for feature_map in rob_maps])
        if alpha.varies:
            ends = (outputs.mixed(log_weights_of(end)) for end in (alpha.alpha_min, alpha.alpha_max))
            least = torch.stack([margin(end, labels[rows]) for end in ends]).amin(dim=0)
            still = _open(least, worth[rows])
            if len(still) == 0:
                return margins
            rows, outputs = rows[still], outputs.rows(still)
            self.mixing_runs += len(rows)
        margins[rows] = decisive_margin(outputs.mixed(alpha.log_weights(outputs)), labels[rows])
        return margins


def bounded_margins(model: nn.Module) -> BoundedMargins | None:
    """``BoundedMargins`` of the model if it is a mix in which h surely has weight; else None."""
    if not is_plain_mix(model) or model.alpha.alpha_min == 0.0 or not keeps_its_range(model.alpha):
        return None
    return BoundedMargins(model)


def _least_margin(log_rob: Tensor, labels: Tensor, alpha_min: float) -> Tensor:
    """The smallest margin over all g and all alpha >= alpha_min, given h's log-probabilities, (N,)."""
    log_std_weight, log_rob_weight = log_weights_of(alpha_min)
    weighted = log_rob + log_rob_weight
    # The worst case: g has probability 1 on another class.
    others = torch.logaddexp(weighted, torch.full_like(weighted, log_std_weight))
    return margin(others.scatter(1, labels[:, None], weighted.gather(1, labels[:, None])), labels)


def _open(least: Tensor, worth: Tensor) -> Tensor:
    """The rows whose margin might be below ``worth``, or is not a number."""
    return (~(least - _SLACK >= worth)).nonzero().squeeze(1)
