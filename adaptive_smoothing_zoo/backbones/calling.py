"""How a mix asks a net: always through the net's own call, so that hooks run, and with images of the net's own."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from adaptive_smoothing_zoo.backbones.asking import in_eval_mode, logits_of
from adaptive_smoothing_zoo.backbones.base import Taps

_LOCK = threading.RLock()  # while a foreign net's forward is exchanged


def run_base_net(net: nn.Module, images: Tensor, taps: Sequence[int] | None) -> tuple[Tensor, list[Tensor]]:
    """A base net's logits (N, C) and the feature maps at ``taps`` (none if it is None), from one pass.

    The images stay as they are, whatever the net does to its input.

    Raises:
        TypeError, ValueError: the net's output has no logits in it, or they are not (N, C), C >= 2.
    """
    wanted = None if taps is None else Taps(taps)
    logits = _logits(call_net(net, images, wanted), images, type(net).__name__)
    return logits, [] if wanted is None else wanted.maps


def call_net(net: Any, images: Tensor, taps: Taps | None = None) -> Any:
    """``net(images)``, or what ``taps`` ask for from within that call.

    A foreign net gets a copy of the images, since it may write into its input. An empty batch, which it may not take,
    is answered by the empty part of what it gives for a black image, in eval mode.
    """
    if getattr(net, "takes_taps", False):  # our own nets do neither
        return net(images) if taps is None else net(images, taps=taps)
    if isinstance(images, Tensor) and images.shape[0] == 0:
        return _of_no_image(net, images, taps)
    return _call_foreign(net, images.clone(), taps)


def _of_no_image(net: nn.Module, images: Tensor, taps: Taps | None) -> Any:
    with in_eval_mode(net):  # or the black image would enter the statistics of batch norms
        output = _call_foreign(net, torch.cat([images, images.new_zeros((1, *images.shape[1:]))]), taps)
    if taps is not None:
        taps.maps = [feature_map[:0] for feature_map in taps.maps]
    output = getattr(output, "logits", output)  # of a class that the line below cannot take apart
    return pytree.tree_map_only(Tensor, lambda part: part[:0], output)


def _call_foreign(net: nn.Module, images: Tensor, taps: Taps | None) -> Any:
    if taps is None:
        return net(images)
    if torch.compiler.is_compiling() and not _hooks(net):
        return taps.collect(net, images)
    return _collect_within_call(net, images, taps)


def _collect_within_call(net: nn.Module, images: Tensor, taps: Taps) -> Any:
    """What ``taps`` ask for, as the output of the net's call, whose ``forward`` is exchanged until it begins.

    A compiler breaks its graph here, at the lock.
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
            f"{name} gives {tuple(logits.shape)} for {images.shape[0]} images; a base net gives logits (N, C), one for "
            "each of C >= 2 classes"
        )
    return logits


def number_of_classes(net: nn.Module) -> int | None:
    """Length of a net's output as far as its structure tells for certain; None if only a pass would."""
    head: Any = net.get_classifier() if callable(getattr(net, "get_classifier", None)) else net  # type: ignore[operator]
    while isinstance(head, nn.Sequential) and len(head):
        head = head[-1]
    known = getattr(head, "out_features", None)
    if isinstance(known, int) and (head is not net or isinstance(net, nn.Linear)):
        return known
    stated = getattr(net, "num_classes", None)  # which stays behind when a head is exchanged
    lengths = {getattr(layer, name, None) for layer in net.modules() for name in ("out_features", "out_channels")}
    return stated if isinstance(stated, int) and stated in lengths else None
