"""Frozen base nets for the attacks in training: the same function, computed faster."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.prepare import TOLERANCE, TOLERANCE_TF32, fold_batch_norms
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.backbones.calling import run_base_net

logger = logging.getLogger(__name__)


def faster_copy(net: nn.Module, images: Tensor, taps: Sequence[int] | None) -> nn.Module:
    """A copy of a frozen net in eval mode with weight standardization and batch norms folded into its convolutions.

    Where that does not give the net's logits and feature maps on ``images`` up to rounding, the net itself.

    Args:
        images: some images of the kind it will see, (N, channels, H, W), on its device.
        taps: the feature maps that count.
    """
    try:
        folded = copy.deepcopy(net)
        fold_weight_standardization(folded)
        fold_batch_norms(folded, images)
        if _agree(net, folded, images, taps):
            return folded
        reason = "gives other outputs"
    except Exception as error:  # whatever a foreign net's code does when its layers are exchanged
        reason = f"fails ({type(error).__name__}: {error})"
    logger.warning("attacks run on %s as it is, and slower, since its folded copy %s", type(net).__name__, reason)
    return net


@torch.no_grad()
def _agree(net: nn.Module, folded: nn.Module, images: Tensor, taps: Sequence[int] | None) -> bool:
    tf32 = images.is_cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    tolerance = TOLERANCE_TF32 if tf32 else TOLERANCE
    pairs = zip(_outputs(net, images, taps), _outputs(folded, images, taps), strict=True)
    return all(bool((mine - its).abs().max() <= tolerance * mine.abs().max().clamp(min=1.0)) for mine, its in pairs)


def _outputs(net: nn.Module, images: Tensor, taps: Sequence[int] | None) -> list[Tensor]:
    logits, maps = run_base_net(net, images, taps)
    return [logits, *maps]
