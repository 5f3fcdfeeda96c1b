"""What code written for a timm backbone asks of a model, answered by a mixed classifier.

A mix has two trunks. Its features are the pooled features of g and of h, concatenated, g first; its feature maps are
those of g followed by those of h. Both base nets must speak the interface of :mod:`adaptive_smoothing_zoo.backbones`
(which is timm's).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.alpha import AdaptiveAlpha, ConstantAlpha
from adaptive_smoothing_zoo.backbones.base import check_image_tensor
from adaptive_smoothing_zoo.mix import mix


class BackboneInterface(nn.Module):
    """timm's method names; ``forward(x) == forward_head(forward_features(x))``."""

    std_model: Any  # any nn.Module; the methods here need one with the interface of ``BaseNet``
    rob_model: Any
    std_map: nn.Module
    rob_map: nn.Module
    alpha: ConstantAlpha | AdaptiveAlpha

    @property
    def num_features(self) -> int:
        """Length of the pooled feature vector: that of g plus that of h."""
        return int(self.std_model.num_features) + int(self.rob_model.num_features)

    @property
    def num_classes(self) -> int:
        return int(self.rob_model.num_classes)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, reduction and module of each feature map: g's, then h's."""
        return [
            {**info, "module": f"{name}.{info['module']}"}
            for name, net in (("std_model", self.std_model), ("rob_model", self.rob_model))
            for info in net.feature_info
        ]

    def forward_intermediates(
        self,
        images: Tensor,
        indices: Sequence[int] | None = None,
        *,
        intermediates_only: bool = False,
    ) -> Any:
        """Feature maps at ``indices`` of ``feature_info`` (all if None), and the features unless told otherwise."""

        check_image_tensor(images)
        n_std, n_rob = len(self.std_model.feature_info), len(self.rob_model.feature_info)
        wanted = range(n_std + n_rob) if indices is None else [range(n_std + n_rob)[i] for i in indices]
        std_final, std_maps = self.std_model.forward_intermediates(images, list(range(n_std)))
        rob_final, rob_maps = self.rob_model.forward_intermediates(images, list(range(n_rob)))
        maps = [*std_maps, *rob_maps]
        chosen = [maps[i] for i in wanted]
        if intermediates_only:
            return chosen
        return self._pack(std_final, rob_final, std_maps, rob_maps), chosen

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, num_features) pooled features; with a mixing network one more column, the alpha_logit of each image."""
        features, _ = self.forward_intermediates(images, [])
        return features  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features of ``forward_features`` -> (N, C) log-probabilities, or the (N, num_features) features alone."""

        if pre_logits:
            return features[:, : self.num_features]
        std_features, rob_features, alpha_logit = features.split(
            [
                self.std_model.num_features,
                self.rob_model.num_features,
                features.shape[1] - self.num_features,
            ],
            dim=1,
        )
        log_std = F.log_softmax(self.std_map(self.std_model.get_classifier()(std_features)), dim=1)
        log_rob = F.log_softmax(self.rob_map(self.rob_model.get_classifier()(rob_features)), dim=1)
        return mix(log_std, log_rob, *self.alpha.log_weights_at(alpha_logit))

    def get_classifier(self) -> nn.ModuleList:
        """The linear heads of g and of h."""
        return nn.ModuleList([self.std_model.get_classifier(), self.rob_model.get_classifier()])

    def _pack(
        self,
        std_final: Tensor,
        rob_final: Tensor,
        std_maps: Sequence[Tensor],
        rob_maps: Sequence[Tensor],
    ) -> Tensor:
        parts = [
            self.std_model.forward_head(std_final, pre_logits=True),
            self.rob_model.forward_head(rob_final, pre_logits=True),
        ]
        if self.alpha.std_taps is not None and self.alpha.rob_taps is not None:
            taps = [std_maps[i] for i in self.alpha.std_taps], [rob_maps[i] for i in self.alpha.rob_taps]
            parts.append(self.alpha(*taps).unsqueeze(1))
        return torch.cat(parts, dim=1)
