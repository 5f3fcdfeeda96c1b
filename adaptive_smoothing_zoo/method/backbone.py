"""timm's backbone interface for a model of two nets.

Its features are the pooled features of g and of h, concatenated, g first; its feature maps are those of g and of h in
the order of their reduction, g's first where both have one. Both base nets must speak the interface of
:mod:`adaptive_smoothing_zoo.backbones` (which is timm's). Nothing here knows how the nets are mixed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import call_net, number_of_classes
from adaptive_smoothing_zoo.backbones.base import (
    Taps,
    apply_head,
    check_image_tensor,
    check_map_options,
    float_tensor_of,
    fresh_head,
    map_indices,
    output_length,
)
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.backbones.scale import at_least_float32

TRUNKS = {"both": ("std_model", "rob_model"), "std_model": ("std_model",), "rob_model": ("rob_model",)}
"""Values of ``features`` in ``reset_classifier``, and the nets that each one runs."""

_INTERFACE = ("feature_info", "forward_features", "forward_intermediates", "forward_head", "num_features")


class BackboneInterface(nn.Module):
    """timm's method names; ``forward(x) == forward_head(forward_features(x))``.

    A subclass says how the nets are mixed: ``_mix_taps``, ``_mix_columns``, ``_mix_of`` and ``_drop_mix``.
    """

    std_model: Any  # any nn.Module; the methods here need one with the interface of ``BaseNet``
    rob_model: Any
    head: nn.Module | None  # the head that ``reset_classifier`` put in place of the mix; None before
    trunks: tuple[str, ...]  # the nets that features come from

    def _mix_taps(self) -> Mapping[str, Sequence[int] | None]:
        """The feature maps that the mix reads, by net; None for none."""
        raise NotImplementedError

    def _mix_columns(self, std_maps: Sequence[Tensor], rob_maps: Sequence[Tensor]) -> list[Tensor]:
        """The values that the mix computes from those maps, each (N, k)."""
        raise NotImplementedError

    def _mix_of(self, std_logits: Tensor, rob_logits: Tensor, columns: Tensor) -> Tensor:
        """The mix, (N, C), of both nets' logits (N, C) and of those columns, (N, k)."""
        raise NotImplementedError

    def _drop_mix(self) -> None:
        """Remove the parts that only the mix uses."""
        raise NotImplementedError

    @property
    def is_mix(self) -> bool:
        """Whether the output is a mix, which ``reset_classifier`` has not replaced."""
        return self.head is None

    @property
    def num_features(self) -> int:
        """Length of the pooled feature vector: that of g plus that of h, or that of the net chosen."""
        return sum(_pooled_length(net) for net in self._nets().values())

    @property
    def num_classes(self) -> int:
        """Length of the output of ``forward_head``; 0 if it is the features themselves."""
        if self.head is None:
            return number_of_classes(self.rob_model) or int(self.rob_model.num_classes)
        return output_length(self.head, self.num_features)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, reduction and module of each feature map, in non-decreasing order of reduction."""
        found = []
        for name, i in self._places():
            net = getattr(self, name)
            info = net.feature_info[i]
            module = f"{name}.{_name_inside(net, info['module'])}"
            found.append({"num_chs": info["num_chs"], "reduction": info["reduction"], "module": module})
        return found

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The output of ``forward_features``, and the feature maps at ``indices`` in the given order.

        Arguments and errors are those of :meth:`BaseNet.forward_intermediates`. ``intermediates_only`` returns only the
        maps and runs only the layers they need.
        """
        self.check_images(images)
        check_map_options(norm, stop_early, output_fmt, intermediates_only)
        nets = self._nets("feature_info", "forward_features", "forward_head")
        places = self._places()
        wanted = [places[i] for i in map_indices(indices, len(places))]
        read = {name: [] if intermediates_only else self._tapped(name) for name in self.trunks}
        pooled: list[Tensor] = []
        maps: dict[tuple[str, int], Tensor] = {}
        for name, net in nets.items():
            needed = {i for owner, i in wanted if owner == name}.union(read[name])
            taps = Taps(sorted(needed), "maps" if intermediates_only else "features")
            if needed or not intermediates_only:
                output = call_net(net, images, taps)
                pooled.append(output if intermediates_only else _of_length(output, _pooled_length(net), name))
            maps.update({(name, i): each for i, each in zip(taps.indices, taps.maps, strict=True)})
        chosen = [maps[place] for place in wanted]
        if intermediates_only:
            return chosen
        features = [at_least_float32(part) for part in pooled]
        if self.is_mix:
            features += self._mix_columns(*([maps[name, i] for i in indices] for name, indices in read.items()))
        return torch.cat(features, dim=1), chosen

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, num_features) pooled features; a mixing network adds a column, the alpha_logit of each image. They are
        float32 even if the nets compute in half precision. ValueError if a net pools to another number of features than
        it declares, as timm's do with global_pool "catavgmax" or "".
        """
        features, _ = self.forward_intermediates(images, [])
        return features  # type: ignore[no-any-return]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features of ``forward_features`` -> (N, C) log-probabilities, or (N, num_features) if ``pre_logits``.

        After ``reset_classifier``: the logits of the new head.
        """
        if pre_logits:
            return features[:, : self.num_features]
        if self.head is not None:
            return apply_head(self.head, features)
        lengths = [_pooled_length(self.std_model), _pooled_length(self.rob_model)]
        std_features, rob_features, columns = features.split([*lengths, features.shape[1] - sum(lengths)], dim=1)
        std_head, rob_head = self._heads()
        return self._mix_of(apply_head(std_head, std_features), apply_head(rob_head, rob_features), columns)

    def get_classifier(self) -> nn.Module:
        """The linear heads of g and of h in a ``ModuleList``; after ``reset_classifier`` the new head."""
        if self.head is not None:
            return self.head
        return nn.ModuleList(self._heads())

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, *, features: str = "both") -> None:
        """Make this a classifier for another task: a new, trainable linear head on the pooled features.

        This removes the mix permanently: the heads of the nets in use, both logit maps and alpha. ``forward`` then
        gives the new head's logits, or the pooled features if ``num_classes`` is 0. The base nets stay as they are,
        frozen or not. The head is float32 even on nets in half precision.

        Args:
            num_classes: classes of the new task; 0 for no head.
            global_pool: None or "avg".
            features: "both" for the features of g, then of h; "std_model" or "rob_model" for those of one net. The
                other net then does not run but stays in the module; set it to None to free it.

        Raises:
            ValueError: an argument out of its range, or a net without the interface of a backbone.

        A robust h does not make the new head robust: attack the new model before claiming robustness.
        """
        if features not in TRUNKS:
            raise ValueError(f"features must be one of {', '.join(TRUNKS)}, got {features!r}")
        nets = self._nets(*_INTERFACE, "reset_classifier", names=TRUNKS[features])
        like = float_tensor_of(nn.ModuleList(nets.values()))
        like = None if like is None else at_least_float32(like)
        head = fresh_head(sum(_pooled_length(net) for net in nets.values()), num_classes, global_pool, like)
        for net in nets.values():
            net.reset_classifier(0)
        if self.is_mix:
            self._drop_mix()
        self.head, self.trunks = head.train(self.training), TRUNKS[features]

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove for good the parts that the feature maps at ``indices`` do not need; timm's ``FeatureGetterNet`` calls
        this.

        These are the mix, the stages of each net after its last kept map, and a net with no kept map. Every
        remaining parameter has a gradient. ``prune_norm`` is passed to the base nets; ``prune_head`` must be True.

        Returns:
            The indices of the kept maps among the remaining ones.

        Raises:
            ValueError, IndexError: no index, an index out of range, or an error of ``reset_classifier``.
        """
        places = self._places()
        wanted = [places[i] for i in map_indices(indices, len(places))]
        names = [name for name in self.trunks if any(owner == name for owner, _ in wanted)]
        if not names or not prune_head:
            raise ValueError("name at least one feature map to keep, and prune_head=True")
        self.reset_classifier(0, features=names[0] if len(names) == 1 else "both")
        for name in TRUNKS["both"]:
            if name in names:
                kept = sorted({i for owner, i in wanted if owner == name})
                getattr(self, name).prune_intermediate_layers(kept, prune_norm=prune_norm)
            else:
                setattr(self, name, None)
        return [self._places().index(place) for place in wanted]

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, except that nets without trainable parameters stay in eval mode.

        Otherwise their batch norms would update their statistics on the training data of the other parts.
        """
        super().train(mode)
        for name in (*TRUNKS["both"], "alpha"):
            net = getattr(self, name, None)
            if net is not None and not any(parameter.requires_grad for parameter in net.parameters()):
                net.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Store only the stages' outputs for the backward pass; ValueError if a base net does not support it."""
        for net in self._nets("set_grad_checkpointing").values():
            net.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[float, ...]]:
        """Map a parameter's name to its depth, for timm's layer-wise learning rates; g and h count in parallel.

        Parameters outside both nets (the mixing network, a new head) form the last layer. ValueError if a base net does
        not support it.
        """
        from timm.models._manipulate import group_parameters

        layers: dict[str, int] = {}
        for name, net in self._nets("group_matcher").items():
            depths = group_parameters(net, net.group_matcher(coarse), reverse=True)
            layers |= {f"{name}.{key}": depth for key, depth in depths.items()}
        return lambda name: (layers.get(name, math.inf),)

    def no_weight_decay(self) -> set[str]:
        """Parameters exempt from weight decay in timm's optimizers, as the base nets list them."""
        return {
            f"{name}.{key}"
            for name, net in self._nets().items()
            if hasattr(net, "no_weight_decay")
            for key in net.no_weight_decay()
        }

    def check_images(self, images: Tensor) -> None:
        """Raise TypeError or ValueError unless this is a float tensor (N, channels, H, W); values are not checked."""
        check_image_tensor(images)

    def check_mixes(self, what: str) -> None:
        """Raise ValueError if ``reset_classifier`` has replaced the mix; ``what`` names the operation that needs it."""
        if not self.is_mix:
            raise ValueError(f"{what}: reset_classifier has replaced the mix of two nets; load the model again")

    def _nets(self, *needed: str, names: Sequence[str] | None = None) -> dict[str, Any]:
        """The nets in use, or those named; ValueError if one lacks a needed method."""
        nets = {name: getattr(self, name) for name in (self.trunks if names is None else names)}
        for name, net in nets.items():
            if missing := [method for method in needed if not hasattr(net, method)]:
                raise ValueError(f"{name} ({type(net).__name__}) has no {missing[0]}; use nets with timm's interface")
        return nets

    def _heads(self) -> list[nn.Module]:
        """The heads of g and of h; ValueError for a net with several, such as timm's distilled nets and VOLO."""
        heads = [(name, net, net.get_classifier()) for name, net in self._nets("get_classifier").items()]
        for name, net, head in heads:
            one = isinstance(head, nn.Module) and not isinstance(head, nn.ModuleList)
            if not one or getattr(net, "aux_head", None) is not None:
                raise ValueError(
                    f"{name} ({type(net).__name__}) has several heads, so pooled features do not give its logits; call "
                    "the model itself, or reset_classifier for a new head"
                )
        return [head for _, _, head in heads]

    def _places(self) -> list[tuple[str, int]]:
        """The net of each feature map and the index in that net, in the order of ``feature_info``."""
        found = [
            (info["reduction"], (name, i))
            for name, net in self._nets().items()
            for i, info in enumerate(net.feature_info)
        ]
        return [place for _, place in sorted(found, key=lambda item: item[0])]  # stable: g before h

    def _tapped(self, name: str) -> list[int]:
        """Indices, from 0, of the maps of a net that the mix reads."""
        taps = self._mix_taps()[name] if self.is_mix else None
        return [] if taps is None else map_indices(taps, len(getattr(self, name).feature_info))


def _name_inside(net: nn.Module, module: str) -> str:
    """The name of a module of ``feature_info``, which a ``Preprocessed`` takes over from the net inside it."""
    return f"net.{_name_inside(net.net, module)}" if isinstance(net, Preprocessed) else module


@torch.fx.wrap  # a traced graph checks them as well
def _of_length(features: Tensor, length: int, name: str) -> Tensor:
    """The pooled features of a net; ValueError if they are not (N, length)."""
    if features.ndim != 2 or features.shape[1] != length:
        raise ValueError(
            f"the pooled features of {name} have shape {tuple(features.shape)}, and its num_features promise (N, "
            f"{length}); give it a pooling that keeps the number of channels, such as timm's global_pool='avg'"
        )
    return features


def _pooled_length(net: Any) -> int:
    """Length of ``forward_head(..., pre_logits=True)``; some of timm's nets widen their features before the head."""
    return int(getattr(net, "head_hidden_size", net.num_features))
