"""Views of a mixed classifier: functions that an attacker differentiates in its place.

A view only proposes points; the mixed classifier itself decides. The white box is the classifier itself.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.losses import append_alpha_loss
from adaptive_smoothing_zoo.backbones.asking import run_base_net
from adaptive_smoothing_zoo.method.classifier import MixedClassifier, is_plain_mix
from adaptive_smoothing_zoo.method.logit_maps import HardMax


class View(nn.Module):
    """A function of a mix's parts. Raises ValueError: ``reset_classifier`` has replaced the mix."""

    def __init__(self, model: MixedClassifier) -> None:
        super().__init__()
        model.check_mixes(type(self).__name__)
        self.model = model


class GrayBox(View):
    """The mix without the gradient of its alpha: the attacker knows alpha, but not its gradient [BAKS24 v1,
    section 4.2, A].

    Args:
        model: with any alpha; a constant one has no gradient to hide.

    The logits are the model's.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C) log-probabilities."""
        if not self.model.alpha.varies:
            return self.model(images)  # type: ignore[no-any-return]
        outputs = self.model.base_outputs(images)
        with torch.no_grad():
            weights = self.model.alpha.log_weights(outputs)
        return outputs.mixed(weights)


class WithAlphaLoss(View):
    """The mix's log-probabilities followed by alpha's loss, from one pass, for ``lowering_alpha``.

    Args:
        model: with an alpha that varies.

    Raises:
        TypeError: alpha is a constant.
    """

    def __init__(self, model: MixedClassifier) -> None:
        super().__init__(model)
        if not model.alpha.varies:
            raise TypeError("a constant alpha has no loss to maximize")

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C + 1), see ``append_alpha_loss``."""
        outputs, alpha = self.model.base_outputs(images), self.model.alpha
        outputs = outputs._replace(alpha_logit=alpha.alpha_logit(outputs))
        assert outputs.alpha_logit is not None
        return append_alpha_loss(outputs.mixed(alpha.log_weights(outputs)), outputs.alpha_logit)


class RawLogits(View):
    """``(1 - alpha) g(x) + alpha h(x)`` of the nets' logits, without maps and softmax, alpha being alpha_min.

    Its gradient goes through both nets whatever the maps, so it reaches points that a map hides from other views. Its
    labels differ from the model's.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C) logits."""
        (std, _), (rob, _) = (run_base_net(net, images, None) for net in (self.model.std_model, self.model.rob_model))
        alpha = self.model.alpha.alpha_min
        return (1.0 - alpha) * std + alpha * rob


def pin_alpha(model: MixedClassifier, alpha: float | None = None) -> MixedClassifier:
    """The mix of the same nets and maps with a constant alpha; ``alpha_min``, where g has most weight, if None.

    Raises:
        ValueError: alpha is outside [0, 1], or ``reset_classifier`` has replaced the mix.
    """
    model.check_mixes("pin_alpha")
    value = model.alpha.alpha_min if alpha is None else alpha
    pinned = MixedClassifier(model.std_model, model.rob_model, value, std_map=model.std_map, rob_map=model.rob_map)
    pinned.training = model.training  # only this module: the nets are the model's own
    return pinned


def stop_flat_gradients(copied: nn.Module) -> None:
    """Let the copy of a mix differentiate nothing through a g whose map is ``HardMax``: that gradient is zero.

    A pass with a gradient then costs g's forward pass alone. Other models stay as they are: surrogates, which have maps
    of their own, and mixes whose mixing network reads g.
    """
    mix = copied.model if isinstance(copied, GrayBox) else copied
    if not is_plain_mix(mix) or not isinstance(mix.std_map, HardMax):
        return
    if not mix.alpha.std_taps and mix.alpha.alpha_min > 0.0:
        mix.std_model.register_forward_pre_hook(_detached)


def _detached(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.detach() for value in inputs)


VIEWS: dict[str, Callable[[MixedClassifier], nn.Module]] = {
    "mix": lambda model: model,
    "gray_box": GrayBox,
    "pinned": pin_alpha,
    "raw": RawLogits,
    "std": lambda model: pin_alpha(model, 0.0),
    "rob": lambda model: pin_alpha(model, 1.0),
}
"""Views by name, all with logits (N, C): the white box ("mix", the papers' adaptive target), the gray box, alpha pinned
at alpha_min, the weighted sum of logits, and the papers' targets STD (g alone) and ROB (h alone)."""
