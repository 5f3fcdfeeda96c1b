"""Faster copies of frozen models that compute the same function, for millions of passes."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from adaptive_smoothing_zoo.backbones.asking import original
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.machine.devices import is_out_of_memory
from adaptive_smoothing_zoo.machine.precision import tf32_allowed
from adaptive_smoothing_zoo.machine.winograd import use_winograd

# Allowed rounding, relative to the largest output. TF32 has 10 bits of mantissa, float32 has 23.
TOLERANCE, TOLERANCE_TF32 = 1e-4, 2e-2

# What a foreign net's code may raise when its layers are replaced, or when it is copied.
_OF_FOREIGN_CODE = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError, copy.Error)

_logger = logging.getLogger(__name__)


def prepare(model: nn.Module, images: Tensor) -> nn.Module:
    """A faster frozen copy of a model in eval mode, for attacks; the model is not changed.

    Weight standardization and batch norms that directly follow a convolution are folded into kernels. The copy computes
    in the channels_last format; images and gradients stay contiguous. On CPUs, 3 x 3 convolutions of many channels use
    Winograd's algorithm. If the model cannot be copied, or the copy has no gradient or does not give the model's logits
    on ``images`` up to rounding, the model itself is returned, with a warning.

    The model, not the copy, should decide what is adversarial.

    Args:
        model: images (N, channels, H, W) to logits (N, C), on the images' device.
        images: some images of the kind it will see.
    """

    def fold() -> _ChannelsLast:
        net = copy.deepcopy(model).eval().requires_grad_(False)
        fold_weight_standardization(net)
        fold_batch_norms(net, images)
        made = _ChannelsLast(net.to(memory_format=torch.channels_last))
        if (failure := _gradient_failure(made, images)) is not None and _gradient_failure(model, images) is None:
            raise failure
        return made

    def outputs(net: nn.Module) -> list[Tensor]:
        return [net(images)]

    folded = same_or_original(model, fold, outputs, change="folding")
    if isinstance(folded, _ChannelsLast):
        folded.model = with_winograd(folded.model, images, outputs)
    return folded


def _gradient_failure(net: nn.Module, images: Tensor) -> Exception | None:
    """The error when a net is differentiated with respect to images; None without one."""
    try:
        with torch.enable_grad():
            points = images.detach().requires_grad_()
            torch.autograd.grad(net(points.clone()).sum(), points)
    except _OF_FOREIGN_CODE as error:
        if is_out_of_memory(error):
            raise
        return error
    return None


def with_winograd(net: nn.Module, images: Tensor, outputs: Callable[[nn.Module], Sequence[Tensor]]) -> nn.Module:
    """A copy of a frozen net whose convolutions use Winograd's algorithm; the net itself if none can.

    Args:
        images: some images of the kind it will see, on its device.
        outputs: computes from a net the outputs that must stay the same up to rounding.
    """

    def quicken() -> nn.Module:
        copied = copy.deepcopy(net)
        return copied if use_winograd(copied, images) else net

    return (
        same_or_original(net, quicken, outputs, change="Winograd's algorithm") if images.device.type == "cpu" else net
    )


def same_or_original(
    net: nn.Module, make: Callable[[], nn.Module], outputs: Callable[[nn.Module], Sequence[Tensor]], *, change: str
) -> nn.Module:
    """What ``make`` returns if it gives the net's outputs up to rounding; else the net itself, with a warning.

    Args:
        make: makes a faster net.
        outputs: computes from a net the outputs to compare.
        change: the name of the change, for the warning.
    """
    with torch.no_grad():
        expected = outputs(net)
        try:
            made = make()
            found = outputs(made)
        except _OF_FOREIGN_CODE as error:
            if is_out_of_memory(error):
                raise
            reason = f"fails ({type(error).__name__}: {error})"
        else:
            if len(expected) == len(found) and all(map(_agree, expected, found)):
                return made
            reason = "gives other outputs"
    _logger.warning(
        "attacks on %s run without %s, hence slower: the copy with it %s", type(original(net)).__name__, change, reason
    )
    return net


def fold_batch_norms(net: nn.Module, images: Tensor) -> int:
    """Fold, in place, batch norms in eval mode that directly follow a convolution into it; return their number.

    A pass of ``images`` shows which: both layers run once, and the convolution's output goes into the batch norm only.
    Code that inspects its own layers may still notice, so compare the outputs before and after.
    """
    pairs = _pairs(net, images)
    for module in list(net.modules()):
        for name, norm in list(module.named_children()):
            if norm in pairs:
                _fold(pairs[norm], norm)
                setattr(module, name, nn.Identity())
    return len(pairs)


def _pairs(net: nn.Module, images: Tensor) -> dict[nn.Module, nn.Conv2d]:
    calls: Counter[nn.Module] = Counter()
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # keeps the tensors alive, so that no id is used twice
    uses = _Uses()
    pairs: dict[nn.Module, nn.Conv2d] = {}

    def after_conv(conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        calls[conv] += 1
        outputs[id(output)] = conv, output
        uses.of[id(output)] = 0  # forget the uses of an earlier tensor with this id

    def before_norm(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[norm] += 1
        if id(inputs[0]) in outputs:
            pairs[norm] = outputs[id(inputs[0])][0]

    handles = []
    for module in net.modules():
        if type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(after_conv))
        elif type(module) is nn.BatchNorm2d and module.running_mean is not None and not module.training:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad(), uses:
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    used_once = {conv for key, (conv, _) in outputs.items() if uses.of[key] == 1}
    return {norm: conv for norm, conv in pairs.items() if conv in used_once and calls[norm] == calls[conv] == 1}


class _Uses(TorchFunctionMode):
    """Counts, by a tensor's id, the operations that take it and return a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.of.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return result


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: Any) -> None:
    """Fold norm(conv(x)) = conv(x) * scale + shift into the convolution, in float64."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    kernel = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(kernel.to(conv.weight), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight), requires_grad=False)


def _agree(expected: Tensor, found: Tensor) -> bool:
    return expected.shape == found.shape and bool((expected - found).abs().max() <= rounding(expected))


def rounding(outputs: Tensor) -> Tensor:
    """The largest allowed distance, a scalar, of a prepared copy's outputs (logits or feature maps) from these."""
    return relative_rounding(outputs) * outputs.detach().abs().max().clamp(min=1.0)


def relative_rounding(outputs: Tensor) -> float:
    """The same relative to the largest output, for the present precision of float32 products."""
    return TOLERANCE_TF32 if outputs.is_cuda and tf32_allowed() else TOLERANCE


def inner_model(prepared: nn.Module) -> nn.Module:
    """The model inside the result of ``prepare``; the result itself if ``prepare`` returned the model."""
    inner = getattr(prepared, "model", prepared)
    return inner if isinstance(inner, nn.Module) else prepared


class _ChannelsLast(nn.Module):
    """Passes images to a model in the channels_last format."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]
