"""Frozen nets in training: faster equivalent copies for attacks, and restoration afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import run_base_net
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.machine.folding import fold_batch_norms, same_or_original, with_winograd


def faster_copy(net: nn.Module, images: Tensor, taps: Sequence[int] | None) -> nn.Module:
    """A copy of a frozen net in eval mode with weight standardization and batch norms folded into its convolutions.

    On CPUs, 3 x 3 convolutions of many channels use Winograd's algorithm. A change that does not keep the net's logits
    and feature maps at ``taps`` up to rounding is left out, with a warning.

    Args:
        images: example images, (N, channels, H, W), on the net's device.
    """

    def make() -> nn.Module:
        folded = copy.deepcopy(net)
        fold_weight_standardization(folded)
        fold_batch_norms(folded, images)
        return folded

    def outputs(net: nn.Module) -> list[Tensor]:
        logits, maps = run_base_net(net, images, taps)
        return [logits, *maps]

    return with_winograd(same_or_original(net, make, outputs, change="folding"), images, outputs)


def check_learns(module: nn.Module) -> None:
    """Raise ValueError for a module with inference tensors, which have no gradient."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_inference():
            raise ValueError(
                f"{name} was made in torch.inference_mode, so it has no gradient; build the net outside of it"
            )


@contextmanager
def frozen(*nets: nn.Module) -> Iterator[None]:
    """Put nets into eval mode without gradients within the block, then restore them.

    Restores modes, requires_grad and buffers, including buffers that a net's own code writes.

    Raises:
        ValueError: a net was built in inference mode. No net is changed then.
    """
    for net in nets:
        check_learns(net)
    modules = [module for net in nets for module in net.modules()]
    modes = [(module, module.training) for module in modules]
    learning = [(value, value.requires_grad) for net in nets for value in net.parameters()]
    buffers = [(module, name, buffer) for module in modules for name, buffer in module._buffers.items()]
    values = [None if buffer is None else buffer.detach().clone() for _, _, buffer in buffers]
    try:
        for net in nets:
            net.eval()
            net.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, learns in learning:
            parameter.requires_grad_(learns)
        for (module, name, buffer), value in zip(buffers, values, strict=True):
            _put_back(module, name, buffer, value)


@torch.no_grad()
def _put_back(module: nn.Module, name: str, buffer: Tensor | None, value: Tensor | None) -> None:
    """Restore a module's buffer: the same tensor with its former values."""
    if buffer is not None and value is not None and not torch.equal(buffer, value):
        buffer.copy_(value)
    module._buffers[name] = buffer


def frozen_parts(net: nn.Module) -> list[nn.Module]:
    """The largest parts of a net whose parameters are all frozen."""
    learns = [parameter.requires_grad for parameter in net.parameters()]
    if learns and not any(learns):
        return [net]
    return [part for child in net.children() for part in frozen_parts(child)]


def to_train_mode(net: nn.Module) -> None:
    """Put a net into train mode except for its frozen parts, whose batch norms and dropout stay in eval mode."""
    net.train()
    for part in frozen_parts(net):
        part.eval()
