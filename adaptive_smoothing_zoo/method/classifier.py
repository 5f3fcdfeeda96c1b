"""The mixed classifier: an accurate net, a robust net, and the weight between them [BAKS24, eq. (4)]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import run_base_net, runs_as_written
from adaptive_smoothing_zoo.backbones.made_for import MadeFor, made_for
from adaptive_smoothing_zoo.method.alpha import Alpha, as_alpha, check_alpha, log_weights_of
from adaptive_smoothing_zoo.method.backbone import TRUNKS, BackboneInterface
from adaptive_smoothing_zoo.method.formula import BaseOutputs
from adaptive_smoothing_zoo.method.logit_maps import Scale
from adaptive_smoothing_zoo.method.pair import check_pair, check_size, check_sizes
from adaptive_smoothing_zoo.method.pretrained import Pretrained


class MixedClassifier(Pretrained, BackboneInterface):
    """``log((1 - alpha) softmax(t_g g(x)) + alpha softmax(t_h h(x)))``, a drop-in for a single net's logits.

    Args:
        std_model: g, accurate and not robust. Images in [0, 1], (N, channels, H, W), to logits (N, C).
        rob_model: h, robust. The same shapes.
        alpha: weight of ``rob_model``: a number in [0, 1]; an :class:`AdaptiveAlpha` (a mixing network with its
            range); or another module like :class:`Alpha`. If it reads feature maps, both base nets need
            ``forward_intermediates`` and ``forward_head``.
        std_map, rob_map: maps applied to each net's logits before the softmax: a module of
            :mod:`adaptive_smoothing_zoo.method.logit_maps`, or a positive factor (t_g, t_h).

    Raises:
        ValueError: alpha outside [0, 1]; a scale that is not positive; a net without a classifier, or without the
            feature maps that alpha reads; nets with different numbers of classes or channels, or for different image
            sizes (detected at the first pass if the nets do not declare them).
        TypeError: a net is no module, or alpha is one without the interface of :class:`Alpha`.

    The outputs are log-probabilities: ``exp`` or ``softmax`` of them gives probabilities. ``train()`` and ``eval()``
    only change batch norm. Nothing here is a certificate: measured robustness depends on the attack as well as on the
    model.
    """

    identity_ignores: ClassVar[tuple[str, ...]] = ("made_for",)  # it warns, and decides nothing
    made_for: tuple[MadeFor, ...]
    alpha: Alpha
    std_map: nn.Module
    rob_map: nn.Module

    def __init__(
        self,
        std_model: nn.Module,
        rob_model: nn.Module,
        alpha: float | nn.Module,
        *,
        std_map: float | nn.Module = 1.0,
        rob_map: float | nn.Module = 1.0,
    ) -> None:
        super().__init__()
        self.std_model, self.rob_model = std_model, rob_model
        self.alpha = as_alpha(alpha)
        self.std_map = std_map if isinstance(std_map, nn.Module) else Scale(std_map)
        self.rob_map = rob_map if isinstance(rob_map, nn.Module) else Scale(rob_map)
        self.head, self.trunks = None, TRUNKS["both"]
        check_pair((std_model, rob_model), self.alpha)
        known = (made_for(net, name) for net, name in ((std_model, "std_model"), (rob_model, "rob_model")))
        self.made_for = tuple(each for each in known if each is not None)
        check_sizes(self.made_for)

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C) log-probabilities.

        If alpha is 0 or 1 everywhere, only one net runs. After ``reset_classifier``: the new head's logits.
        """
        self.check_images(images)
        if not self.is_mix:
            return self.forward_head(self.forward_features(images))
        if self.alpha.alpha_max == 0.0:
            return self.std_outputs(images)[0]
        if self.alpha.alpha_min == 1.0:
            return self.rob_outputs(images)[0]
        outputs = self.base_outputs(images)
        return outputs.mixed(self.alpha.log_weights(outputs))

    def base_outputs(self, images: Tensor, *, maps: bool = True) -> BaseOutputs:
        """The outputs of g and h from one pass of each, with or without the feature maps that alpha reads.

        Raises:
            ValueError: ``reset_classifier`` has replaced the mix. The same holds for ``alpha_of``, ``alpha_logit_of``
                and ``sweep``.
        """
        self.check_mixes("the outputs of g and h")
        self.check_images(images)
        log_std, std_maps = self.std_outputs(images, self.alpha.std_taps if maps else None)
        log_rob, rob_maps = self.rob_outputs(images, self.alpha.rob_taps if maps else None)
        return BaseOutputs(log_std, log_rob, std_maps, rob_maps)

    def std_outputs(self, images: Tensor, taps: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """g's mapped log-probabilities (N, C), and its feature maps at ``taps``."""
        logits, maps = run_base_net(self.std_model, images, taps)
        return F.log_softmax(self.std_map(logits), dim=1), maps

    def rob_outputs(self, images: Tensor, taps: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The same for h."""
        logits, maps = run_base_net(self.rob_model, images, taps)
        return F.log_softmax(self.rob_map(logits), dim=1), maps

    def alpha_logit_of(self, images: Tensor) -> Tensor:
        """alpha_logit of each image, (N,), from the mixing network. Raises TypeError if alpha is constant."""
        outputs = self.base_outputs(images)
        return self.alpha.alpha_logit(outputs)

    def alpha_of(self, images: Tensor) -> Tensor:
        """The weight of the robust net for each image, (N,), in [0, 1]; float32 even for half-precision images."""
        self.check_mixes("alpha_of")
        self.check_images(images)
        if self.alpha.varies:
            return self.alpha.alpha(self.alpha_logit_of(images))
        dtype = torch.promote_types(images.dtype, torch.float32)
        return torch.full((len(images),), self.alpha.alpha_min, device=images.device, dtype=dtype)

    def sweep(self, images: Tensor, alphas: Sequence[float] | Tensor) -> Tensor:
        """Log-probabilities for many constant alphas from one pass of each net: (A,) alphas -> (A, N, C).

        The model's own alpha is not used.
        """
        values = [check_alpha(float(alpha)) for alpha in alphas]
        if not values:
            raise ValueError("sweep needs at least one alpha")
        outputs = self.base_outputs(images, maps=False)
        return torch.stack([outputs.mixed(log_weights_of(alpha)) for alpha in values])

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Labels (N,), the argmax of ``forward``; the standard net runs only where it can change the label.

        Where h's probability margin exceeds (1 - alpha_min) / alpha_min, g cannot change the label [BAS24, lemma], so g
        is skipped for that image. The labels are those of ``forward`` in eval mode, up to the rounding of kernels that
        depend on the batch size. (In train mode batch norm makes an image's alpha depend on its batch.) Do not attack
        this method: it has no gradient.

        Raises:
            ValueError: ``reset_classifier(0)`` has left no classes.
        """
        self.check_images(images)
        if not self.is_mix and self.num_classes == 0:
            raise ValueError("reset_classifier(0) has left features and no classes to predict")
        if not is_plain_mix(self) or self.alpha.alpha_min <= 0.5:  # h alone never decides
            return self(images).argmax(dim=1)  # type: ignore[no-any-return]
        alpha_min = self.alpha.alpha_min
        log_rob, rob_maps = self.rob_outputs(images, self.alpha.rob_taps)
        top_two = log_rob.exp().topk(2, dim=1).values
        # The slack covers the rounding of the probabilities in float32.
        open_ = top_two[:, 0] - top_two[:, 1] <= (1.0 - alpha_min) / alpha_min + 1e-5
        labels = log_rob.argmax(dim=1)
        if bool(open_.any()):
            log_std, std_maps = self.std_outputs(images[open_], self.alpha.std_taps)
            outputs = BaseOutputs(log_std, log_rob[open_], std_maps, [each[open_] for each in rob_maps])
            labels[open_] = outputs.mixed(self.alpha.log_weights(outputs)).argmax(dim=1)
        return labels

    def check_images(self, images: Tensor) -> None:
        """As in ``BackboneInterface``; also reject sizes a net cannot take, and warn of sizes it was not made for."""
        super().check_images(images)
        check_size(images, self.made_for)

    def _mix_taps(self) -> dict[str, Sequence[int] | None]:
        return {"std_model": self.alpha.std_taps, "rob_model": self.alpha.rob_taps}

    def _mix_columns(self, std_maps: Sequence[Tensor], rob_maps: Sequence[Tensor]) -> list[Tensor]:
        return [self.alpha(std_maps, rob_maps).unsqueeze(1)] if std_maps or rob_maps else []

    def _mix_of(self, std_logits: Tensor, rob_logits: Tensor, columns: Tensor) -> Tensor:
        log_std = F.log_softmax(self.std_map(std_logits), dim=1)
        log_rob = F.log_softmax(self.rob_map(rob_logits), dim=1)
        outputs = BaseOutputs(log_std, log_rob, alpha_logit=columns.squeeze(1) if columns.shape[1] else None)
        return outputs.mixed(self.alpha.log_weights(outputs))

    def _drop_mix(self) -> None:
        del self.alpha, self.std_map, self.rob_map


def is_mix(model: nn.Module) -> TypeGuard[MixedClassifier]:
    """Whether a model is a mix of two nets that ``reset_classifier`` has not replaced."""
    return isinstance(model, MixedClassifier) and model.is_mix


_ANSWERED_BY = ("forward", "base_outputs", "std_outputs", "rob_outputs")  # the methods that make a mix's answer


def is_plain_mix(model: nn.Module) -> TypeGuard[MixedClassifier]:
    """Whether a model's answer is the mix of its parts and nothing else, which no hook and no subclass changes."""
    if not (is_mix(model) and runs_as_written(model)):
        return False
    methods = [getattr(getattr(model, name), "__func__", None) for name in _ANSWERED_BY]
    return methods == [getattr(MixedClassifier, name) for name in _ANSWERED_BY]
