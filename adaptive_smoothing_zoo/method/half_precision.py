"""Inference with base nets and mixing network in half precision."""

import torch

from adaptive_smoothing_zoo.backbones import BaseNet
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def known_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """One of DTYPES, or its name, as "bfloat16". Raises ValueError for any other."""
    known = {str(each).removeprefix("torch."): each for each in DTYPES}
    found = known.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ValueError(f"the dtype of inference must be one of {', '.join(map(str, DTYPES))}, got {dtype}")
    return found


def to_dtype(model: MixedClassifier, dtype: str | torch.dtype) -> MixedClassifier:
    """Cast the base nets and the mixing network of ``model`` to ``dtype``, in place; for inference only.

    Their convolutions, linear and norm layers are cast. Parts sensitive to small differences stay float32: pixels,
    resizing, normalization, the batch norm behind the mixing network, logit maps, alpha, the mix, and a head that
    ``reset_classifier`` made. Images may be float32 or ``dtype``; log-probabilities are float32. Expect two to three
    correct digits from bfloat16, three to four from float16. Some nets exceed float16's largest number, 65504.

    Args:
        model: any mixed classifier whose base nets are of :mod:`adaptive_smoothing_zoo.backbones`.
        dtype: torch.bfloat16, torch.float16, or torch.float32 to return to it (with rounded weights); or its name, as
            "bfloat16".

    Returns:
        The model. ``evaluate`` refuses it in half precision.

    Raises:
        ValueError: another dtype, or a base net that is not a ``BaseNet``: its sensitive constants are unknown.
    """
    dtype = known_dtype(dtype)
    for name in model.trunks:
        if not isinstance(getattr(model, name), BaseNet):
            raise ValueError(
                f"half precision is not supported for {name} ({type(getattr(model, name)).__name__}), only for "
                "the nets of adaptive_smoothing_zoo.backbones; use autocast"
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
