"""Verifies stored adversarial images by the model alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.verify import check_adversarials, count_classes, predict
from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.data import Examples, check_examples
from adaptive_smoothing_zoo.machine.devices import pick_device
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel


@own_surroundings()
def judge_adversarials(
    model: nn.Module,
    examples: Examples,
    adversarials: Tensor,
    threat: ThreatModel,
    *,
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> Tensor:
    """Which images the model still classifies correctly, (N,) bool; their share is the robust accuracy.

    Args:
        model: as for ``evaluate``.
        examples: the clean images and their labels.
        adversarials: (N, channels, H, W) float32, one for each example in its order.
        threat: the threat model they must obey.
        batch_size: that of the evaluation that found them, since the last bits of logits depend on it.
        device: where to compute; if None "cuda" when available, else "cpu".

    Raises:
        ValueError: images that do not fit the examples or the model.
        EvaluationError: an image leaves the ball or [0, 1]; or the model fails.
    """
    if adversarials.shape != examples.images.shape:
        shapes = f"{tuple(adversarials.shape)} and {tuple(examples.images.shape)}"
        raise ValueError(f"each example needs one adversarial image of its shape, got shapes {shapes}")
    images, labels, chosen = own_copy(adversarials), own_copy(examples.labels), pick_device(device)
    check_adversarials(own_copy(examples.images), images, torch.arange(len(labels)), threat)
    with ready(model, chosen) as net:
        check_examples(images, labels, count_classes(net, images, chosen))
        return predict(net, images, min(batch_size, len(images)), chosen) == labels
