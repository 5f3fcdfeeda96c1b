"""The mixed classifier: an accurate net, a robust net, and the weight between them (method of 000, eq. (4))."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.calling import number_of_classes, run_base_net
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, ConstantAlpha, check_alpha, log_weights_of
from adaptive_smoothing_zoo.method.backbone import TRUNKS, BackboneInterface
from adaptive_smoothing_zoo.method.logit_maps import Scale
from adaptive_smoothing_zoo.method.mix import mix


class MixedClassifier(BackboneInterface):
    """``log((1 - alpha) softmax(t_g g(x)) + alpha softmax(t_h h(x)))``, a drop-in for a single net's logits.

    Args:
        std_model: g, accurate and not robust. Images in [0, 1], (N, channels, H, W), to logits (N, C).
        rob_model: h, robust. The same shapes.
        alpha: weight of ``rob_model``: a number in [0, 1], or an :class:`AdaptiveAlpha` (a mixing network with its
            range), for which both base nets must offer ``forward_intermediates`` and ``forward_head``.
        std_map, rob_map: what happens to each net's logits before its softmax: a module of
            :mod:`adaptive_smoothing_zoo.method.logit_maps`, or a positive number (t_g, t_h) to multiply them by.

    Raises:
        ValueError: alpha outside [0, 1], a scale that is not positive, nets with different numbers of classes (found
            at the first pass if they do not tell before), or a base net without the feature maps that a mixing
            network reads.

    The output is a log-probability vector: ``exp`` gives probabilities, and a softmax of it changes nothing.
    ``train()`` and ``eval()`` change nothing but batch norm. Robustness is a property of the attack as much as of the
    model: nothing here is a certificate.
    """

    alpha: ConstantAlpha | AdaptiveAlpha

    def __init__(
        self,
        std_model: nn.Module,
        rob_model: nn.Module,
        alpha: float | ConstantAlpha | AdaptiveAlpha,
        *,
        std_map: float | nn.Module = 1.0,
        rob_map: float | nn.Module = 1.0,
    ) -> None:
        super().__init__()
        self.std_model, self.rob_model = std_model, rob_model
        self.alpha = alpha if isinstance(alpha, nn.Module) else ConstantAlpha(alpha)
        self.std_map = std_map if isinstance(std_map, nn.Module) else Scale(std_map)
        self.rob_map = rob_map if isinstance(rob_map, nn.Module) else Scale(rob_map)
        self.head, self.trunks = None, TRUNKS["both"]
        counts = number_of_classes(std_model), number_of_classes(rob_model)
        if None not in counts and counts[0] != counts[1]:
            raise ValueError(
                f"std_model has {counts[0]} classes and rob_model {counts[1]}; mix nets that have the same classes"
            )
        if isinstance(self.alpha, AdaptiveAlpha):
            for name, net in (("std_model", std_model), ("rob_model", rob_model)):
                if not (hasattr(net, "forward_intermediates") and hasattr(net, "forward_head")):
                    raise ValueError(
                        f"{name} ({type(net).__name__}) has no forward_intermediates and forward_head, so the mixing "
                        "network cannot read its feature maps; use a net that has them, or a constant alpha"
                    )

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C) log-probabilities.

        With alpha 0 or 1 everywhere only the net that counts is run. After ``reset_classifier``: the new head's logits.
        """
        self.check_images(images)
        if self.head is not None:
            return self.forward_head(self.forward_features(images))
        if self.alpha.alpha_max == 0.0:
            return self._std(images, None)[0]
        if self.alpha.alpha_min == 1.0:
            return self._rob(images, None)[0]
        log_std, std_maps = self._std(images, self.alpha.std_taps)
        log_rob, rob_maps = self._rob(images, self.alpha.rob_taps)
        return mix(log_std, log_rob, *self.alpha.log_weights(std_maps, rob_maps))

    def alpha_logit_of(self, images: Tensor) -> Tensor:
        """The mixing network's alpha_logit for each image, (N,).

        Raises:
            TypeError: alpha is a constant.
            ValueError: ``reset_classifier`` has replaced the mix; so ``alpha_of`` and ``sweep``.
        """
        self.check_mixes("alpha_logit_of")
        if not isinstance(self.alpha, AdaptiveAlpha):
            raise TypeError("a constant alpha has no alpha_logit")
        self.check_images(images)
        std_maps = self._std(images, self.alpha.std_taps)[1]
        rob_maps = self._rob(images, self.alpha.rob_taps)[1]
        return self.alpha(std_maps, rob_maps)  # type: ignore[no-any-return]

    def alpha_of(self, images: Tensor) -> Tensor:
        """The weight of the robust net for each image, (N,), in [0, 1]."""
        self.check_mixes("alpha_of")
        self.check_images(images)
        if isinstance(self.alpha, AdaptiveAlpha):
            return self.alpha.alpha(self.alpha_logit_of(images))
        return self.alpha(images)  # type: ignore[no-any-return]

    def sweep(self, images: Tensor, alphas: Sequence[float] | Tensor) -> Tensor:
        """Log-probabilities for many constant alphas from one pass of each net: (A,) alphas -> (A, N, C).

        The model's own alpha is not used.
        """
        self.check_mixes("sweep")
        self.check_images(images)
        values = [check_alpha(float(alpha)) for alpha in alphas]
        if not values:
            raise ValueError("sweep needs at least one alpha")
        log_std, log_rob = self._std(images, None)[0], self._rob(images, None)[0]
        return torch.stack([mix(log_std, log_rob, *log_weights_of(alpha)) for alpha in values])

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Labels (N,), the argmax of ``forward``, running the standard net only where it can matter.

        Where h's probability margin exceeds (1 - alpha_min) / alpha_min, g cannot change the label, whatever it says
        (the lemma of 001 and 003, with the lower end of alpha's range), so g is skipped for that image. The labels
        are those of ``forward`` in eval mode, up to the rounding of kernels that depend on the batch size. (In train
        mode batch norm makes an image's alpha depend on its batch.) Not for attacks: the result has no gradient.

        Raises:
            ValueError: ``reset_classifier(0)`` has left no classes.
        """
        self.check_images(images)
        if self.head is not None and self.num_classes == 0:
            raise ValueError("reset_classifier(0) has left features and no classes to predict")
        alpha_min = self.alpha.alpha_min if self.head is None else 0.0
        if alpha_min <= 0.5:  # h alone never decides
            return self(images).argmax(dim=1)  # type: ignore[no-any-return]
        log_rob, rob_maps = self._rob(images, self.alpha.rob_taps)
        top_two = log_rob.exp().topk(2, dim=1).values
        # The slack covers the rounding of the probabilities in float32.
        open_ = top_two[:, 0] - top_two[:, 1] <= (1.0 - alpha_min) / alpha_min + 1e-5
        labels = log_rob.argmax(dim=1)
        if bool(open_.any()):
            log_std, std_maps = self._std(images[open_], self.alpha.std_taps)
            weights = self.alpha.log_weights(std_maps, [feature_map[open_] for feature_map in rob_maps])
            labels[open_] = mix(log_std, log_rob[open_], *weights).argmax(dim=1)
        return labels

    def _std(self, images: Tensor, taps: Sequence[int] | None) -> tuple[Tensor, list[Tensor]]:
        logits, maps = run_base_net(self.std_model, images, taps)
        return F.log_softmax(self.std_map(logits), dim=1), maps

    def _rob(self, images: Tensor, taps: Sequence[int] | None) -> tuple[Tensor, list[Tensor]]:
        logits, maps = run_base_net(self.rob_model, images, taps)
        return F.log_softmax(self.rob_map(logits), dim=1), maps
