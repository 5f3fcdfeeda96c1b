"""Inference in half precision, where precision is not needed."""

import torch

from adaptive_smoothing_zoo.backbones import BaseNet
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def known_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of DTYPES, also by its name: "bfloat16". Raises ValueError: another."""
    known = {str(each).removeprefix("torch."): each for each in DTYPES}
    found = known.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"inference is in {', '.join(map(str, DTYPES))}, not in {dtype}")
    return found


def to_dtype(model: MixedClassifier, dtype: str | torch.dtype) -> MixedClassifier:
    """Let the base nets and the mixing network of ``model`` compute in ``dtype``, in place; for inference alone.

    Their convolutions, linear and norm layers are cast. What decides a result by small differences stays float32:
    pixels, resizing, normalization, the batch norm behind the mixing network, logit maps, alpha, the mix, and a head
    that ``reset_classifier`` made. Images may be float32 or ``dtype``; log-probabilities are float32. Expect two to
    three digits from bfloat16, three to four from float16, whose largest number, 65504, is too small for some nets.

    Args:
        model: any mixed classifier whose base nets are of :mod:`adaptive_smoothing_zoo.backbones`.
        dtype: torch.bfloat16, torch.float16, or torch.float32 to compute in that again (with rounded weights); or its
            name, as "bfloat16".

    Returns:
        The model. ``evaluate`` refuses it in half precision.

    Raises:
        ValueError: another number format, or a base net that is not a ``BaseNet``, whose constants are not known.
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
