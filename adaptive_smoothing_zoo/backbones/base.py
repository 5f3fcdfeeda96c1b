"""The interface of base nets for logits and feature maps. It is timm's, so timm's nets have it too."""

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adaptive_smoothing_zoo.surroundings import ordinary_tensors


class Taps:
    """Selects outputs of one pass of a net. It is an argument of the net's call, so that wrappers and hooks run.

    Args:
        indices: of the feature maps, in ascending order.
        output: "logits", "features" (the head's pooled input), or "maps" alone; for these, later stages need not run.

    Attributes:
        maps: the feature maps at ``indices``, after the call.
    """

    def __init__(self, indices: Sequence[int], output: Literal["logits", "features", "maps"] = "logits") -> None:
        self.indices, self.output = tuple(indices), output
        self.maps: list[Tensor] = []

    def collect(self, net: Any, images: Tensor) -> Any:
        """Fill ``maps`` and return the selected output, by the methods that ``net`` shares with timm's nets."""
        indices = _from_the_end(net, self.indices)
        if self.output == "maps":
            options = {"stop_early": True, "intermediates_only": True}
            self.maps = net.forward_intermediates(images, indices, **options) if indices else []
            return self.maps
        if indices:
            final, self.maps = net.forward_intermediates(images, indices)
        else:  # timm's forward_intermediates does not accept an empty list
            final = net.forward_features(images)
        return net.forward_head(final) if self.output == "logits" else net.forward_head(final, pre_logits=True)


def _from_the_end(net: Any, indices: Sequence[int]) -> list[int]:
    """Indices of ``feature_info`` for a net's ``forward_intermediates``; for timm's nets counted from the end.

    Some of timm's nets have a map of the stem before those of ``feature_info``.
    """
    count = len(net.feature_info) if any(kind.__module__.startswith("timm.") for kind in type(net).__mro__) else 0
    return [i - count if i >= 0 else i for i in indices]


class BaseNet(nn.Module):
    """A convolutional net from images in [0, 1] to logits, with its normalization inside.

    The constructor of a subclass sets ``stem``, ``stages`` (one feature map each), ``final`` (the layers between the
    last stage and pooling), ``head`` (linear) and ``feature_info``. ``num_classes`` is the number of logits.

    Args:
        mean, std: normalization constants, one per image channel; buffers, saved with the weights.
    """

    stem: nn.Module
    stages: nn.ModuleList
    final: nn.Module
    head: nn.Module
    mean: Tensor
    std: Tensor
    feature_info: list[dict[str, Any]]  # num_chs, reduction (relative to the input image), module
    identity_ignores = ("feature_info", "grad_checkpointing")  # names and memory use, which do not affect outputs
    grad_checkpointing = False
    takes_taps = True  # whether ``forward`` has the argument

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls):
            cls.takes_taps = "taps" in inspect.signature(cls.forward).parameters

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    @property
    def num_features(self) -> int:
        return int(self.feature_info[-1]["num_chs"])

    @property
    def num_classes(self) -> int:
        """Length of the logits; 0 if ``reset_classifier(0)`` has removed the head."""
        return output_length(self.head, self.num_features)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format. Normalization uses the finer of the images' and ``mean``'s."""
        weight = float_tensor_of(self.stages)
        return self.mean.dtype if weight is None else weight.dtype

    def forward(self, images: Tensor, taps: Taps | None = None) -> Any:
        """(N, channels, H, W) images in [0, 1] -> (N, classes) logits; with ``taps``, the output that they select."""
        if taps is None:
            return self.forward_head(self.forward_features(images))
        return taps.collect(self, images)

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map, (N, num_features, h, w)."""
        return self.forward_intermediates(images, [])[0]  # type: ignore[no-any-return]

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The last feature map and the outputs of the stages at ``indices``, in the order asked for, as timm's nets do.

        Args:
            images: (N, channels, H, W) in [0, 1].
            indices: of ``feature_info``; None for all, a number n for the last n.
            norm: must be False; there is no norm layer to apply to each map.
            stop_early: skip the stages after the last selected one. Needs ``intermediates_only``.
            output_fmt: must be "NCHW".
            intermediates_only: return the maps alone.

        Raises:
            ValueError: images with another number of channels than the net's, or an argument not allowed above.
            IndexError: a map that does not exist.
        """
        check_map_options(norm, stop_early, output_fmt, intermediates_only)
        wanted = map_indices(indices, len(self.stages))
        count = max(wanted, default=-1) + 1 if stop_early else len(self.stages)
        images = self.resize(_as_fine_as(self.mean, images))
        features = self.stem(((images - self.mean) / self.std).to(self.dtype))
        maps = []
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        for _, stage in zip(range(count), self.stages, strict=False):
            features = checkpoint(stage, features, use_reentrant=False) if recompute else stage(features)
            maps.append(features)
        chosen = [maps[i] for i in wanted]
        return chosen if intermediates_only else (self.final(features), chosen)

    def resize(self, images: Tensor) -> Tensor:
        """The images as they are; a subclass may resize them before normalization."""
        return images

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map -> (N, classes) logits, or its (N, num_features) average over positions."""
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def get_classifier(self) -> nn.Module:
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the stages' outputs for the backward pass and recompute the rest.

        Batch norms in train mode then update their statistics twice per batch.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter names by depth, for timm's layer-wise learning rates: by block, or by stage if ``coarse``."""
        blocks = [] if coarse else [(r"^stages\.(\d+)\.(\d+)", None)]
        return {"stem": r"^stem", "blocks": [*blocks, (r"^stages\.(\d+)", None), (r"^final", (99999,))]}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one, see :func:`fresh_head`."""
        head = fresh_head(self.num_features, num_classes, global_pool, float_tensor_of(self))
        self.head = head.train(self.training)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Permanently remove the head and the stages after the last wanted one; the result is a smaller net.

        Args:
            indices: as in ``forward_intermediates``.
            prune_norm: also remove ``final``; done in any case if the last stage is removed.
            prune_head: remove the head.

        Returns:
            The indices of the selected maps in the remaining net.

        Raises:
            ValueError, IndexError: no map is selected, or one does not exist.
        """
        wanted = map_indices(indices, len(self.stages))
        if not wanted:
            raise ValueError("name at least one feature map to keep")
        count = max(wanted) + 1
        if prune_norm or count < len(self.stages):
            self.final = nn.Identity()
        self.stages, self.feature_info = self.stages[:count], self.feature_info[:count]
        if prune_head:
            self.reset_classifier(0)
        return wanted


@torch.fx.wrap
def _as_fine_as(mean: Tensor, images: Tensor) -> Tensor:
    """The images in the finer number format of the two; ValueError for another number of channels than ``mean``'s."""
    # Without the check, one channel would broadcast to three silently.
    if images.ndim != 4 or images.shape[1] != len(mean):
        raise ValueError(f"images must have shape (N, {len(mean)}, H, W), got {tuple(images.shape)}")
    return images.to(torch.promote_types(images.dtype, mean.dtype))


def float_tensor_of(module: nn.Module) -> Tensor | None:
    """A floating-point parameter of the module, for its device and number format; None if it has none."""
    # Not from parameters(): replicas of nn.DataParallel have plain attributes instead.
    places = (place for layer in module.modules() for place in (layer._parameters, vars(layer)))
    found = (value for place in places for value in place.values())
    return next((value for value in found if isinstance(value, Tensor) and value.is_floating_point()), None)


@ordinary_tensors()
def fresh_head(num_features: int, num_classes: int, global_pool: str | None, like: Tensor | None) -> nn.Module:
    """A new linear layer from pooled features to logits, or the identity for 0 classes.

    Args:
        global_pool: None or "avg".
        like: its device and number format are used.

    Raises:
        ValueError: a negative number of classes, or another pooling.
    """
    if num_classes < 0:
        raise ValueError(f"the number of classes must be >= 0, got {num_classes}")
    if global_pool not in (None, "avg"):
        raise ValueError(
            f"features are averaged over positions; global_pool must be None or 'avg', got {global_pool!r}"
        )
    if num_classes == 0:
        return nn.Identity()
    place = {} if like is None else {"device": like.device, "dtype": like.dtype}
    return nn.Linear(num_features, num_classes, **place)  # type: ignore[arg-type]


def apply_head(head: nn.Module, features: Tensor) -> Tensor:
    """Apply a head to (N, F) features of any dtype; a head with only integer parameters gets them unchanged."""
    weight = float_tensor_of(head)
    features = features if weight is None else features.to(weight.dtype)
    is_conv = isinstance(head, nn.Conv2d)  # 1x1, as in some of timm's nets
    outputs: Tensor = head(features[..., None, None] if is_conv else features)
    return outputs.flatten(1) if is_conv else outputs


@torch.no_grad()
def output_length(head: nn.Module, num_features: int) -> int:
    """Number of outputs of a head per image; 0 if it gives the features themselves."""
    if isinstance(head, nn.Identity):
        return 0
    if isinstance(known := getattr(head, "out_features", None), int):
        return known
    twin, weight = copy.deepcopy(head).eval(), float_tensor_of(head)
    device = None if weight is None else weight.device
    return int(apply_head(twin, torch.zeros(1, num_features, device=device)).shape[1])


def map_indices(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """The selected ones of ``count`` feature maps, each in [0, count): None selects all, a number n the last n.

    Raises:
        IndexError: a map does not exist.
    """
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise IndexError(f"the last {indices} feature maps were asked for; there are {count}")
        return list(range(count - indices, count))
    if indices is None:
        return list(range(count))
    for i in indices:
        if not -count <= i < count:
            raise IndexError(f"there is no feature map {i}; there are {count}")
    return [i % count for i in indices]


def check_map_options(norm: bool, stop_early: bool, output_fmt: str, intermediates_only: bool) -> None:
    """Raise ValueError for options of timm's ``forward_intermediates`` that our nets do not have."""
    if norm:
        raise ValueError("there is no norm layer to apply to each feature map; use norm=False")
    if output_fmt != "NCHW":
        raise ValueError(f"feature maps have shape (N, channels, H, W); output_fmt must be 'NCHW', got {output_fmt!r}")
    if stop_early and not intermediates_only:
        raise ValueError("the features need every stage; use stop_early=True with intermediates_only=True only")


def stage_info(channels: Sequence[int], reductions: Sequence[int]) -> list[dict[str, Any]]:
    """``feature_info`` of a net whose feature maps are the outputs of its stages."""
    return [
        {"num_chs": num_chs, "reduction": reduction, "module": f"stages.{i}"}
        for i, (num_chs, reduction) in enumerate(zip(channels, reductions, strict=True))
    ]


def check_image_tensor(images: Tensor) -> None:
    """Raise TypeError or ValueError unless this is a dense float tensor (N, channels, H, W); values are not read."""
    _check_image_tensor(images)


@torch.fx.wrap  # a traced graph checks its images as well
def _check_image_tensor(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must have shape (N, channels, H, W), got {tuple(images.shape)}")
    if images.layout != torch.strided:
        raise ValueError(f"images must be a dense tensor, got {images.layout}")
    if images.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"images must be floating-point in [0, 1], got {images.dtype}; divide 8-bit images by 255")
