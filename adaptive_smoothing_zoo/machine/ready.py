"""Prepares a caller's model for millions of passes and gives it back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from adaptive_smoothing_zoo.backbones.asking import asked, in_eval_mode
from adaptive_smoothing_zoo.errors import EvaluationError, ZooError, reason
from adaptive_smoothing_zoo.machine.allocator import freed_memory_kept
from adaptive_smoothing_zoo.machine.devices import is_out_of_memory
from adaptive_smoothing_zoo.machine.precision import float32_precision


@contextmanager
def ready(
    model: nn.Module, device: torch.device, *, tf32: bool = False, channels_last: bool = False
) -> Iterator[nn.Module]:
    """Within the block, the model on the device, in eval mode, frozen, wrapped to return logits.

    Device, modes, requires_grad and buffers are restored afterwards.

    Args:
        model: any module from images to logits.
        tf32: let CUDA round float32 products to TF32; else they are computed in full float32.
        channels_last: keep convolution weights in that memory format within the block; afterwards they are contiguous.

    Raises:
        TypeError: not a module.
        EvaluationError: a weight is not float32, has no shape yet, or was made in inference mode; or the model cannot
            be put into eval mode.
    """
    net = asked(model)
    check_weights(model)
    check_modes(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with lent(net, device), buffers_kept(net), float32_precision(tf32), freed_memory_kept():
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            if channels_last:
                net.to(memory_format=torch.channels_last)
            yield net
        finally:
            if channels_last:
                net.to(memory_format=torch.contiguous_format)
            for parameter in trainable:
                parameter.requires_grad_(True)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Restore buffers that the model's own code writes within the block."""
    kept = [
        (module, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in kept:
                if buffer is not None and value is not None:
                    buffer.copy_(value)
                module._buffers[name] = buffer


@contextmanager
def lent(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block, the model is on the device and in eval mode; its device and all modes are restored."""
    home = device_of(model)
    try:
        with in_eval_mode(model):
            model.to(device)
            yield
    finally:
        if home is not None and home != device:
            model.to(home)


def device_of(model: nn.Module) -> torch.device | None:
    """The device of a model's first parameter or buffer; None if it has none."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)


def check_weights(model: nn.Module) -> None:
    """Refuse weights that an evaluation cannot use; buffers may have any number format.

    Raises:
        EvaluationError: a weight is not float32, has no shape yet, or was made in inference mode.
    """
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise EvaluationError(
                f"{name} has no shape yet, since a lazy layer gets it from its first images; call the model on some "
                "images first"
            )
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise EvaluationError(
                f"evaluation is in float32, but the weight {name} is {parameter.dtype}; load the model in float32 "
                "(model.float() keeps what rounding has done to the weights)"
            )
        if parameter.is_inference():
            raise EvaluationError(
                f"the weight {name} was made in torch.inference_mode(), so it has no gradient; load the model outside "
                "of it"
            )


def check_modes(model: nn.Module) -> None:
    """Refuse a model that cannot be put into eval mode.

    Raises:
        EvaluationError: it has no such mode, like modules made by ``torch.export``.
    """
    try:
        with in_eval_mode(model):
            pass
    except NotImplementedError as error:
        raise EvaluationError(
            f"{type(model).__name__} cannot be put into eval mode ({reason(error)}); give the module that it was "
            "exported from"
        ) from error


@contextmanager
def refusals_named(images: Tensor) -> Iterator[None]:
    """Name the images' shape if a model's code fails within the block.

    Raises:
        EvaluationError: in place of an AssertionError or RuntimeError, unless memory ran out.
    """
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, ZooError) or is_out_of_memory(error):
            raise
        kind, text = type(error).__name__, reason(error)
        said = kind if text == kind else f"{kind}: {text}"
        raise EvaluationError(
            f"the model fails on {images.dtype} images of shape {tuple(images.shape[1:])} ({said}); check the "
            "shape that it takes, and the number formats of its weights and buffers"
        ) from error
