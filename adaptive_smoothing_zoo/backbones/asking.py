"""Uniform calls of any net: through its own ``__call__``, so that hooks run, with a copy of the images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.base import Taps
from adaptive_smoothing_zoo.errors import EvaluationError

_PACKAGE = __name__.partition(".")[0]
_LOCK = threading.RLock()  # held while a foreign net's forward is replaced


class Asked(nn.Module):
    """A foreign model, from images (N, channels, H, W) to logits or an output that contains them, for the package.

    The model gets a copy of the images, so it may write into its input, and never an empty batch, which many reject.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images, N >= 0 -> (N, C) logits; EvaluationError for another number of rows."""
        logits = logits_of(_ask(self.model, images, None))
        if logits.ndim == 0 or len(logits) != len(images):
            raise EvaluationError(
                f"the model's output must have shape (N, classes), got {tuple(logits.shape)} for {len(images)} images"
            )
        return logits


def asked(model: nn.Module) -> nn.Module:
    """Wrap a model for use in this package; the package's own modules are returned unchanged.

    Raises:
        TypeError: not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; wrap it in a module whose forward calls it"
        )
    model = uncompiled(model)
    return model if is_own(model) else Asked(model)


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s, which would compile anew for each size of a batch; others as they are."""
    inner = getattr(model, "_orig_mod", None)
    plain = isinstance(inner, nn.Module) and not _hooks(model)
    return inner if plain and type(model).__name__ == "OptimizedModule" else model  # type: ignore[return-value]


def original(net: nn.Module) -> nn.Module:
    """The model inside the wrapper of ``asked``."""
    return net.model if isinstance(net, Asked) and isinstance(net.model, nn.Module) else net


def is_own(module: nn.Module) -> bool:
    """Whether a module's class belongs to this package."""
    return type(module).__module__.partition(".")[0] == _PACKAGE


def runs_as_written(module: nn.Module) -> bool:
    """Whether a call of a module runs its class's methods and nothing else: no hook, and none is replaced."""
    replaced = any(callable(getattr(type(module), name, None)) for name in vars(module))
    return not (module._forward_hooks or module._forward_pre_hooks or replaced)


def run_base_net(net: nn.Module, images: Tensor, taps: Sequence[int] | None) -> tuple[Tensor, list[Tensor]]:
    """A base net's logits (N, C) and its feature maps at ``taps`` (an empty list for None), from one pass.

    The images are not changed, even if the net writes into its input.

    Raises:
        TypeError, ValueError: the net's output contains no logits, or they are not (N, C) with C >= 2.
    """
    wanted = None if taps is None else Taps(taps)
    logits = _logits(call_net(net, images, wanted), images, type(net).__name__)
    return logits, [] if wanted is None else wanted.maps


def call_net(net: Any, images: Tensor, taps: Taps | None = None) -> Any:
    """``net(images)``, or the outputs that ``taps`` selects, from one call.

    A foreign net gets a copy of the images, and never an empty batch.
    """
    if getattr(net, "takes_taps", False):  # our own nets do not write into their input and accept an empty batch
        return net(images) if taps is None else net(images, taps=taps)
    return _ask(net, images, taps)


def _ask(net: Any, images: Tensor, taps: Taps | None) -> Any:
    if not isinstance(images, Tensor) or images.shape[0] > 0:
        return _call_foreign(net, images.clone(), taps)
    # For an empty batch, an empty slice of the output for a black image, in eval mode to keep batch norm statistics.
    with in_eval_mode(net):
        output = _call_foreign(net, torch.cat([images, images.new_zeros((1, *images.shape[1:]))]), taps)
    if taps is not None:
        taps.maps = [feature_map[:0] for feature_map in taps.maps]
    return logits_of(output)[:0]


def _call_foreign(net: Any, images: Tensor, taps: Taps | None) -> Any:
    if taps is None:
        return net(images)
    if torch.compiler.is_compiling() and not _hooks(net):
        return taps.collect(net, images)
    return _collect_within_call(net, images, taps)


def _collect_within_call(net: nn.Module, images: Tensor, taps: Taps) -> Any:
    """The outputs that ``taps`` select, from one call of the net; its ``forward`` is replaced until it is called.

    ``torch.compile`` breaks its graph at the lock.
    """
    own = vars(net).get("forward")

    def restore() -> None:
        vars(net).pop("forward", None) if own is None else vars(net).update(forward=own)

    def forward(images: Tensor) -> Any:
        restore()
        return taps.collect(net, images)

    with _LOCK:
        vars(net)["forward"] = forward
        try:
            return net(images)
        finally:
            restore()


def _hooks(net: nn.Module) -> Iterable[Any]:
    return (*net._forward_pre_hooks, *net._forward_hooks, *net._backward_pre_hooks, *net._backward_hooks)


@torch.fx.wrap
def _logits(output: Any, images: Tensor, name: str) -> Tensor:
    logits = logits_of(output)
    if logits.ndim != 2 or logits.shape[0] != images.shape[0] or logits.shape[1] < 2:
        raise ValueError(
            f"{name} gives {tuple(logits.shape)} for {images.shape[0]} images; a base net gives logits (N, C), C >= 2"
        )
    return logits


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, ``output.logits``, ``output["logits"]``, or the first of a tuple.

    Raises:
        TypeError: none of these.
    """
    if not isinstance(output, Tensor):
        if hasattr(output, "logits"):
            output = output.logits
        elif isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        elif isinstance(output, (tuple, list)) and output:
            output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(
            "the model's output must be a tensor of logits, or contain them as .logits, ['logits'] or first element; "
            f"got {type(output).__name__}"
        )
    return output


def head_of(net: Any) -> Any:
    """The head of a net by timm's ``get_classifier``; None for a net that has none, such as a mix of plain modules."""
    try:
        return net.get_classifier()
    except (AttributeError, ValueError):
        return None


def number_of_classes(net: nn.Module) -> int | None:
    """Number of logits of a net if its structure determines it; None if only a pass would tell."""
    found = head_of(net)
    head = net if found is None else found
    while isinstance(head, nn.Sequential) and len(head):
        head = head[-1]
    known = getattr(head, "out_features", None)
    if isinstance(known, int) and (head is not net or isinstance(net, nn.Linear)):
        return known
    stated = getattr(net, "num_classes", None)  # may be out of date if the head was replaced
    lengths = {getattr(layer, name, None) for layer in net.modules() for name in ("out_features", "out_channels")}
    return stated if isinstance(stated, int) and stated in lengths else None


@contextmanager
def in_eval_mode(model: Any) -> Iterator[None]:
    """Put the model into eval mode and restore each module's mode; a callable that is not a module is unchanged."""
    training = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    try:
        if training:
            model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def own_copy(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, contiguous and detached, not made in inference mode; memory is shared where possible."""
    return free_of_inference_mode(tensor.detach().cpu().contiguous())


def free_of_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it was made in inference mode and so has no gradient."""
    return tensor.clone() if tensor.is_inference() else tensor
