"""Who a model is: one value made from everything that decides its output.

Runs, records, claims and saved files belong to a model. They name it by its ``Identity``: the classes and settings of
all its modules (alpha, its range, scale and bias, taps and logit maps among them) and the bytes of all its tensors,
whatever their number formats. No memory address, no device and no training mode is part of it. Where code that this
package does not know takes part, the model's answers to fixed images belong to it as well.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.asking import asked, in_eval_mode, logits_of
from adaptive_smoothing_zoo.precision import float32_precision
from adaptive_smoothing_zoo.surroundings import own_surroundings

_KNOWN = ("torch", "adaptive_smoothing_zoo")  # packages whose modules say all that decides their output
_PROBES = 4
_TOLERANCE = 1e-3  # of the largest answer: kernels of other devices and versions round differently
_NOT_SETTINGS = frozenset({*vars(nn.Module()), "_is_torch_compile"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Identity:
    """Who a model is.

    Attributes:
        sha256: of classes, settings and tensors.
        answers: one number for each of some fixed images, from the logits there. Empty if all code is known, or if the
            model does not give the same answer twice.

    Two are equal if they are the same model: answers may differ by rounding.
    """

    sha256: str
    answers: tuple[float, ...] = ()

    def agrees(self, other: Identity) -> bool:
        """Whether both are the same model; answers may differ by rounding."""
        if self.sha256 != other.sha256 or len(self.answers) != len(other.answers):
            return False
        scale = max([1.0, *map(abs, (*self.answers, *other.answers))])
        return all(abs(a - b) <= _TOLERANCE * scale for a, b in zip(self.answers, other.answers, strict=True))

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"sha256": self.sha256, "answers": list(self.answers)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Identity:
        """The inverse of ``as_json``."""
        return cls(sha256=values["sha256"], answers=tuple(values["answers"]))

    def __eq__(self, other: object) -> bool:
        return self.agrees(other) if isinstance(other, Identity) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __str__(self) -> str:
        return self.sha256[:12] + (f" (answers {', '.join(f'{a:.4g}' for a in self.answers)})" if self.answers else "")


@own_surroundings()
def identity_of(model: nn.Module, image_shape: Sequence[int] | None = None) -> Identity:
    """Who a model is.

    Args:
        model: any module. It stays as it is, its mode included.
        image_shape: (channels, H, W) of the images it takes, for the answers of a module with foreign code. Without,
            two modules of the same classes, settings and weights, but of different code, are one.

    Raises:
        ValueError: the model stands on the meta device, or fails on an image of that shape.
    """
    if image_shape is None or not has_foreign_code(model):
        return Identity(sha256=_digest(model))
    with torch.random.fork_rng(devices=[]):
        first, before = _answers(model, image_shape), structure_of(model)
        second, after = _answers(model, image_shape), structure_of(model)
    # What a call changes, such as a count of calls, is nothing to know a model by.
    sha256_ = _digest(model, without=_difference(before, after))
    alike = Identity(sha256="", answers=first).agrees(Identity(sha256="", answers=second))
    return Identity(sha256=sha256_, answers=first if alike else ())


def structure_of(module: nn.Module) -> dict[str, Any]:
    """Class and settings of a module and of all modules in it, by name; JSON values, no tensor's values.

    Compiled and parallel wrappers are looked through. Settings are the plain attributes: numbers, texts, tuples, names
    of functions. Of torch's own modules only the public ones count, which other versions of torch have as well.
    """
    return {name: _own_structure(part) for name, part in _parts(module)}


def has_foreign_code(module: nn.Module) -> bool:
    """Whether code takes part that is neither torch's nor this package's: a class, a hook, or an exchanged method."""
    return any(
        type(part).__module__.partition(".")[0] not in _KNOWN
        or bool(part._forward_hooks)
        or bool(part._forward_pre_hooks)
        or "forward" in vars(part)
        for _, part in _parts(module)
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s and the parallel wrappers."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        elif isinstance(module, parallel):
            module = module.module
        else:
            return module


def _parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    module = unwrapped(module)
    yield name, module
    for child, part in sorted(module._modules.items()):
        if part is not None:
            yield from _parts(part, f"{name}.{child}" if name else child)


def _own_structure(part: nn.Module) -> dict[str, Any]:
    kind = type(part)
    name = getattr(kind, "identity_name", kind.__qualname__)
    return {"class": name, "settings": {key: _described(value) for key, value in _settings(part).items()}}


def _settings(part: nn.Module) -> dict[str, Any]:
    """What decides the output of one module beside its weights and its parts: plain attributes, and extra state."""
    kind = type(part)
    public_only = kind.__module__.partition(".")[0] == "torch"
    ignored = (*_NOT_SETTINGS, *getattr(kind, "identity_ignores", ()))
    found = {
        key: value
        for key, value in sorted(vars(part).items())
        if key not in ignored and not (public_only and key.startswith("_"))
    }
    state: dict[str, Any] = {}
    part._save_to_state_dict(state, "", True)
    return found | {key: value for key, value in sorted(state.items()) if not isinstance(value, Tensor)}


def _described(value: Any) -> Any:
    """A plain attribute as a JSON value; of a tensor its format, of what is not plain its class."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape)]
    if isinstance(value, nn.Module):
        return structure_of(value)
    if isinstance(value, Mapping):
        return {"mapping": sorted(([str(key), _described(inner)] for key, inner in value.items()), key=json.dumps)}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((_described(inner) for inner in value), key=json.dumps)}
    if isinstance(value, (list, tuple)):
        return [_described(inner) for inner in value]
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return value.__qualname__
    if isinstance(value, MethodType):
        return f"{type(value.__self__).__qualname__}.{value.__name__}"
    if isinstance(value, partial):
        return [_described(value.func), _described(value.args), _described(value.keywords)]
    if isinstance(value, (torch.dtype, complex, bytes, np.generic)):
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _described({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return type(value).__qualname__


def _digest(model: nn.Module, without: frozenset[tuple[str, str]] = frozenset()) -> str:
    """SHA-256 of structure and tensors, without the settings named as (module, key)."""
    digest = sha256()
    for name, part in _parts(model):
        settings = {key: value for key, value in _settings(part).items() if (name, key) not in without}
        described = {key: _described(value) for key, value in settings.items()}
        digest.update(json.dumps([name, _own_structure(part)["class"], described], sort_keys=True).encode())
        for key, value in (*_weights(part), *settings.items()):
            for tensor in _tensors(value):
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _weights(part: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers (also those that are not saved), and what else a module of its own kind saves."""
    state: dict[str, Any] = {}
    part._save_to_state_dict(state, "", True)
    every = {**part._parameters, **part._buffers, **state}
    return sorted((key, value) for key, value in every.items() if isinstance(value, Tensor))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, in its order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield torch.from_numpy(np.ascontiguousarray(value).view(np.uint8).copy())
    elif isinstance(value, nn.Module):
        for _, part in _parts(value):
            for _, inner in (*_weights(part), *_settings(part).items()):
                yield from _tensors(inner)
    elif isinstance(value, Mapping):
        for _, inner in sorted(value.items(), key=lambda item: str(item[0])):
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, in the order of its elements, whatever its number format.

    Raises:
        ValueError: it stands on the meta device, where there are no values.
    """
    if tensor.is_meta:
        raise ValueError("a model on the device 'meta' has no weights yet; load some")
    values = tensor.detach()
    if values.is_quantized:
        values = values.int_repr()
    if values.layout != torch.strided:
        values = values.to_dense()
    values = values.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return values.view(torch.uint8).numpy().tobytes()


def _difference(before: dict[str, Any], after: dict[str, Any]) -> frozenset[tuple[str, str]]:
    """The settings, as (module, key), that are not the same in both."""
    return frozenset(
        (name, key)
        for name in before.keys() | after.keys()
        for mine, its in [(before.get(name, {}).get("settings", {}), after.get(name, {}).get("settings", {}))]
        for key in mine.keys() | its.keys()
        if mine.get(key) != its.get(key)
    )


def _answers(model: nn.Module, image_shape: Sequence[int]) -> tuple[float, ...]:
    """One number per probe image: the product of the logits there with fixed random numbers."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    images = probe_images(image_shape).to(device)
    with torch.no_grad(), float32_precision(tf32=False), in_eval_mode(model):
        try:
            logits = logits_of(asked(model)(images))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"the model fails on images of shape {tuple(images.shape)} ({type(error).__name__}: {error}); "
                "give it images of the size it was made for"
            ) from error
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(
            f"the model's output must have shape (N, classes), got {tuple(logits.shape)} for {len(images)} images"
        )
    values = logits.detach().double().flatten(1).nan_to_num(nan=0.0, posinf=1e30, neginf=-1e30).cpu().numpy()
    weights = np.random.Generator(np.random.PCG64(1)).random(values.shape[1]) - 0.5
    return tuple(float(number) for number in values @ weights)


def probe_images(image_shape: Sequence[int]) -> Tensor:
    """Fixed images, (4, channels, H, W) float32 in [0, 1]: two of noise, a grey one with noise, and a ramp."""
    noise = np.random.Generator(np.random.PCG64(0)).random((_PROBES, *image_shape))
    images = noise
    images[2] = 0.5 + 0.1 * (noise[2] - 0.5)
    images[3] = np.linspace(0.0, 1.0, noise[3].size).reshape(noise[3].shape)
    return torch.from_numpy(images).float()
