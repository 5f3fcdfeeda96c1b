"""Inference in half precision, where precision is not needed."""

import torch

from adaptive_smoothing_zoo.backbones import BaseNet
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def known_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of DTYPES, also by its name: "bfloat16".

    Raises:
        ValueError: another.
    """
    known = {str(each).removeprefix("torch."): each for each in DTYPES}
    found = known.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"inference is in {', '.join(map(str, DTYPES))}, not in {dtype}")
    return found


def to_dtype(model: MixedClassifier, dtype: str | torch.dtype) -> MixedClassifier:
    """Let the base nets and the mixing network of ``model`` compute in ``dtype``, in place.

    Their convolutions (standardized kernels after folding), linear layers and norm layers are cast, weights and
    statistics. What decides a result by small differences stays as it is, in float32: pixels, resizing and
    normalization with their constants, the batch norm behind the mixing network, logit maps, softmax, alpha, the mix,
    and the head that ``reset_classifier`` made.
    (``model.to(dtype)`` casts all of that too: bfloat16 has 8 bits, as few as a pixel.)

    Images may come in float32 or in ``dtype``; log-probabilities are float32. They differ from those of the
    float32 model by the rounding of the layers: expect two to three digits from bfloat16, three to four from float16,
    whose largest number, 65504, is too small for some nets.

    Args:
        model: any mixed classifier whose base nets are of :mod:`adaptive_smoothing_zoo.backbones`.
        dtype: torch.bfloat16, torch.float16, or torch.float32 to compute in that again (with rounded weights); or its
            name, as "bfloat16".

    Returns:
        The model.

    Raises:
        ValueError: another number format, or a base net that is not a ``BaseNet``, whose constants are not known.

    For inference alone: training needs the lost digits, and ``evaluate`` refuses such a model.
    """
    dtype = known_dtype(dtype)
    for name in model.trunks:
        if not isinstance(getattr(model, name), BaseNet):
            raise ValueError(
                f"which constants of {name} ({type(getattr(model, name)).__name__}) must stay float32 is known for "
                "the nets of adaptive_smoothing_zoo.backbones only; use autocast"
            )
    for name in model.trunks:
        _cast(getattr(model, name), dtype)
    for part in model.modules():
        if isinstance(part, MixingNetwork):
            part.to(dtype)
    return model


def _cast(net: BaseNet, dtype: torch.dtype) -> None:
    mean, std = net.mean, net.std
    if dtype.itemsize < 4:
        fold_weight_standardization(net)  # standardized from rounded weights, kernels would be rounded twice
    net.to(dtype)
    net.mean, net.std = mean, std
