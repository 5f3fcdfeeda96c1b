"""How the package asks a model for logits, whoever wrote the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_PACKAGE = __name__.partition(".")[0]


class Asked(nn.Module):
    """Somebody else's model as the package uses it.

    The model gets a copy of the images, so it may write into its input. It is never given an empty batch, which many
    nets refuse. Of what it returns, the logits are taken (see ``logits_of``).

    Args:
        model: images (N, channels, H, W) to logits (N, C), or to something that holds them.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images, N >= 0 -> (N, C) logits."""
        if len(images) == 0:
            return self._nothing(images)
        return logits_of(self.model(images.clone()))

    def _nothing(self, images: Tensor) -> Tensor:
        """The answer to no images, a function of them: that to one black image in eval mode, without its row."""
        with in_eval_mode(self):
            return logits_of(self.model(torch.cat([images, images.new_zeros((1, *images.shape[1:]))])))[:0]


def asked(model: nn.Module) -> nn.Module:
    """The model in a form that every part of the package can use; the package's own modules are in that form.

    Raises:
        TypeError: not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; wrap it in a module whose forward calls it"
        )
    return model if is_own(model) else Asked(model)


def original(net: nn.Module) -> nn.Module:
    """The model that ``asked`` was given."""
    return net.model if isinstance(net, Asked) and isinstance(net.model, nn.Module) else net


def is_own(module: nn.Module) -> bool:
    """Whether a module's class is one of this package."""
    return type(module).__module__.partition(".")[0] == _PACKAGE


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
            f"the model's output must be a tensor of logits, or have them as .logits, ['logits'] or first element; "
            f"got {type(output).__name__}"
        )
    return output


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; each module's mode is put back."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def own_copy(tensor: Tensor) -> Tensor:
    """A tensor's values on the CPU, contiguous, free of graphs and of inference mode; shared where possible."""
    return free_of_inference_mode(tensor.detach().cpu().contiguous())


def free_of_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it was made in inference mode: such a one takes part in no gradient."""
    return tensor.clone() if tensor.is_inference() else tensor
