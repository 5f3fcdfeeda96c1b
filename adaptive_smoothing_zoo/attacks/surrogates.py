"""Surrogates for a mixed classifier whose gradients are more useful to attacks than its own.

An attack through a surrogate only proposes points. The true model always decides whether they are adversarial.
"""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.views import View
from adaptive_smoothing_zoo.backbones.asking import run_base_net
from adaptive_smoothing_zoo.backbones.base import check_image_tensor
from adaptive_smoothing_zoo.method.alpha import check_alpha, log_weights_of
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.formula import mix
from adaptive_smoothing_zoo.method.logit_maps import Scale


class MixedNUTSSurrogate(View):
    """The function that the authors of MixedNUTS attack in its place [BZPS24]; the second output of their classifier.

    ``log((1 - alpha) softmax(g) + 0.9 alpha softmax(h) + 0.1 alpha softmax(rob_map(h)))``: g without its hard maximum,
    which has no gradient, and h mostly without its map, which is flat where h is unsure and steep where it is certain.

    Args:
        model: the classifier under attack; its nets and ``rob_map`` are used, its alpha and ``std_map`` are not.
        alpha: weight of h, in [0, 1]. The authors use the best one for mixing without maps.

    Raises:
        ValueError: alpha is outside [0, 1], or ``reset_classifier`` has replaced the mix.

    Its labels differ from the model's: use the model to decide whether a point is adversarial.
    """

    def __init__(self, model: MixedClassifier, alpha: float) -> None:
        super().__init__(model)
        self.alpha = check_alpha(alpha)
        self.plain = Scale()  # finite for any finite logits

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) float images in [0, 1] -> (N, C) log-probabilities."""
        check_image_tensor(images)
        rob_logits = run_base_net(self.model.rob_model, images, None)[0]
        log_std = F.log_softmax(self.plain(run_base_net(self.model.std_model, images, None)[0]), dim=1)
        log_rob = F.log_softmax(self.plain(rob_logits), dim=1)
        log_mapped = F.log_softmax(self.model.rob_map(rob_logits), dim=1)
        return mix(log_std, mix(log_rob, log_mapped, math.log(0.9), math.log(0.1)), *log_weights_of(self.alpha))

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


SURROGATES: dict[str, Callable[[MixedClassifier, float], nn.Module]] = {"mixednuts": MixedNUTSSurrogate}
"""Surrogates by name: functions of the classifier under attack and the weight of its robust net."""
