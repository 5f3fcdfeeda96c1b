"""Views of a mixed classifier: what an attacker differentiates in its place.

A view proposes; the verdict is always the mixed classifier's own. The white box is the classifier itself.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import append_alpha_loss
from adaptive_smoothing_zoo.backbones.calling import run_base_net
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mix import mix


class GrayBox(nn.Module):
    """The mix without the gradient of its mixing network: alpha is known, but not how it changes (000, section 4.2, A).

    Args:
        model: with any alpha; a constant one has no gradient to withhold.

    Raises:
        ValueError: ``reset_classifier`` has replaced the mix.

    The logits are the model's.
    """

    def __init__(self, model: MixedClassifier) -> None:
        super().__init__()
        model.check_mixes("GrayBox")
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C) log-probabilities."""
        if not isinstance(self.model.alpha, AdaptiveAlpha):
            return self.model(images)  # type: ignore[no-any-return]
        log_std, log_rob, std_maps, rob_maps = _base_nets(self.model, images)
        with torch.no_grad():
            weights = self.model.alpha.log_weights(std_maps, rob_maps)
        return mix(log_std, log_rob, *weights)


class WithAlphaLoss(nn.Module):
    """The mix's log-probabilities with alpha's own loss behind them, for ``lowering_alpha``; from one pass.

    Args:
        model: with a mixing network.

    Raises:
        TypeError: alpha is a constant.
        ValueError: ``reset_classifier`` has replaced the mix.
    """

    def __init__(self, model: MixedClassifier) -> None:
        super().__init__()
        model.check_mixes("WithAlphaLoss")
        if not isinstance(model.alpha, AdaptiveAlpha):
            raise TypeError("a constant alpha has no loss to increase")
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C + 1), see ``append_alpha_loss``."""
        alpha = self.model.alpha
        assert isinstance(alpha, AdaptiveAlpha)
        log_std, log_rob, std_maps, rob_maps = _base_nets(self.model, images)
        alpha_logit = alpha(std_maps, rob_maps)
        logits = mix(log_std, log_rob, *alpha.log_weights_at(alpha_logit.unsqueeze(1)))
        return append_alpha_loss(logits, alpha_logit)


def pin_alpha(model: MixedClassifier, alpha: float | None = None) -> MixedClassifier:
    """The mix of the same nets and maps with a constant alpha; ``alpha_min``, where g counts most, if none is given.

    Raises:
        ValueError: alpha is outside [0, 1], or ``reset_classifier`` has replaced the mix.
    """
    model.check_mixes("pin_alpha")
    value = model.alpha.alpha_min if alpha is None else alpha
    pinned = MixedClassifier(model.std_model, model.rob_model, value, std_map=model.std_map, rob_map=model.rob_map)
    pinned.training = model.training  # of this module alone: the nets are the model's own
    return pinned


VIEWS: dict[str, Callable[[MixedClassifier], nn.Module]] = {
    "mix": lambda model: model,
    "gray_box": GrayBox,
    "pinned": pin_alpha,
    "std": lambda model: pin_alpha(model, 0.0),
    "rob": lambda model: pin_alpha(model, 1.0),
}
"""Views by name, all with logits (N, C): the white box ("mix", the papers' adaptive target), the gray box (which is
alpha detached), alpha pinned at alpha_min, and the papers' targets STD (g alone) and ROB (h alone)."""


def _base_nets(model: MixedClassifier, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Log-probabilities of g and of h, and the feature maps that the mixing network reads."""
    model.check_images(images)
    std_logits, std_maps = run_base_net(model.std_model, images, model.alpha.std_taps)
    rob_logits, rob_maps = run_base_net(model.rob_model, images, model.alpha.rob_taps)
    log_std = F.log_softmax(model.std_map(std_logits), dim=1)
    log_rob = F.log_softmax(model.rob_map(rob_logits), dim=1)
    return log_std, log_rob, std_maps, rob_maps
