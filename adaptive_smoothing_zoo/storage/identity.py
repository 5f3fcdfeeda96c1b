"""The identity of a model: one value computed from everything that determines its output.

An ``Identity`` is made of the classes and settings of all modules (alpha's numbers, taps and logit maps among them) and
the bytes of all tensors, in any number format. Memory addresses, devices and training modes do not enter. If foreign
code takes part, the model's outputs on fixed images enter too.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from hashlib import sha256
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import asked, in_eval_mode, logits_of
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.surroundings import own_surroundings

_PROBES = 4
_TOLERANCE = 1e-3  # of an answer, or of 1: kernels of other devices and versions round differently
_MASKED = -1e8  # logits this low, or this far below the largest, stand for "never this class"
_WORDS = ("made_as", "pretrained_cfg", "default_cfg")  # what says where a net is from, and decides nothing
_NOT_SETTINGS = frozenset({*vars(nn.Module()), "_is_torch_compile", "_compiled_call_impl", *_WORDS})


@dataclass(frozen=True, kw_only=True, eq=False)
class Identity:
    """The identity of a model. Equal for the same model; answers may differ by rounding.

    Attributes:
        sha256: of classes, settings and tensors.
        answers: three numbers for each of some fixed images, from the logits there. Empty if all code is known, or if
            the model does not give the same answers twice from the same state of torch's random generators.
    """

    sha256: str
    answers: tuple[float, ...] = ()

    def agrees(self, other: Identity) -> bool:
        """Whether both are the same model; answers may differ by rounding."""
        same = self.sha256 == other.sha256 and len(self.answers) == len(other.answers)
        return same and _close(self.answers, other.answers)

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
    """The identity of a model. The model and its mode are not changed.

    Args:
        model: any module.
        image_shape: (channels, H, W) of its images, for the outputs of foreign code; without it, modules that differ
            only in code have the same identity.

    Raises:
        ValueError: the model is on the meta device, or fails on an image of that shape.
    """
    if image_shape is None or not has_foreign_code(model):
        return Identity(sha256=_digest(model))
    with _kept(model):
        first, before = _answers(model, image_shape), _changeable(model)
        second, after = _answers(model, image_shape), _changeable(model)
        # What a call changes, such as a count of calls, is nothing to know a model by.
        changing = frozenset(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        sha256_ = _digest(model, without=changing)
    return Identity(sha256=sha256_, answers=first if _close(first, second) else ())


def structure_of(module: nn.Module) -> dict[str, Any]:
    """Class and settings of a module and of all modules in it, by name; JSON values, no tensor's values.

    Compiled and parallel wrappers are looked through. Settings are the plain attributes: numbers, texts, tuples, names
    of functions, and what plain objects hold; of torch's own modules the public ones only, which all versions have.
    """
    return _described_module(module, frozenset(), [])


def has_foreign_code(module: nn.Module) -> bool:
    """Whether code takes part that is neither a layer of torch nor this package's: a class, a hook, another method."""
    return any(_is_foreign(part) for _, part in _parts(module))


def _is_foreign(part: nn.Module) -> bool:
    place = type(part).__module__
    known = place.startswith("torch.nn.modules.") or place.partition(".")[0] == "adaptive_smoothing_zoo"
    exchanged = any(
        callable(value) and hasattr(type(part), key) for key, value in vars(part).items() if key not in _NOT_SETTINGS
    )
    return not known or exchanged or bool(part._forward_hooks) or bool(part._forward_pre_hooks)


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


def _tree(module: nn.Module) -> tuple[list[tuple[str, nn.Module]], frozenset[int]]:
    """All modules by name, and their ids, by which a walk through attributes knows them again."""
    parts = list(_parts(module))
    return parts, frozenset(id(part) for _, part in parts)


def _class_of(part: nn.Module) -> str:
    return str(getattr(type(part), "identity_name", type(part).__qualname__))


def _described_settings(part: nn.Module, seen: frozenset[int]) -> dict[str, tuple[Any, list[Tensor]]]:
    """Each setting of a module as a JSON value, and the tensors in it."""
    tensors: dict[str, list[Tensor]] = defaultdict(list)
    return {key: (_described(value, seen, tensors[key]), tensors[key]) for key, value in _settings(part).items()}


def _settings(part: nn.Module) -> dict[str, Any]:
    """The settings of one module without weights and submodules: plain attributes, extra state, a graph."""
    kind = type(part)
    public_only = kind.__module__.partition(".")[0] == "torch"
    ignored = (*_NOT_SETTINGS, *getattr(kind, "identity_ignores", ()))
    found = {
        key: value
        for key, value in sorted(vars(part).items())
        if key not in ignored
        and not (public_only and key.startswith("_") and not callable(value))
        and not (key.endswith("_cache") and isinstance(value, Mapping))  # filled by calls, as in timm's LeViT
    }
    if kind.__module__.startswith(("torch.fx", "torch.jit")) and isinstance(code := getattr(part, "code", None), str):
        found["code"] = code
    state: dict[str, Any] = {}
    part._save_to_state_dict(state, "", True)
    return found | {key: value for key, value in sorted(state.items()) if not isinstance(value, Tensor)}


def _described(value: Any, seen: frozenset[int], tensors: list[Tensor]) -> Any:
    """A plain attribute as a JSON value; of a tensor its format, of what is not plain its class.

    The tensors in it join ``tensors``, in the order of names; those of modules in ``seen`` stand elsewhere.
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, Tensor):
        tensors.append(value)
        return [str(value.dtype), list(value.shape)]
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return value.__qualname__
    if isinstance(value, MethodType):
        return f"{type(value.__self__).__qualname__}.{value.__name__}"
    if isinstance(value, (torch.dtype, complex, bytes, np.generic)):
        return repr(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        tensors.append(torch.from_numpy(np.ascontiguousarray(value).view(np.uint8).copy()))
        tensors = []
    if id(value) in seen:  # a module of the tree itself, or an object that holds itself
        return f"the {type(value).__qualname__}"
    inside = seen | {id(value)}
    if isinstance(value, nn.Module):
        return _described_module(value, inside, tensors)
    if isinstance(value, Mapping):
        named = sorted(value.items(), key=lambda item: str(item[0]))
        return {"mapping": sorted(([str(k), _described(v, inside, tensors)] for k, v in named), key=json.dumps)}
    if isinstance(value, (set, frozenset)):  # which has no order in which its tensors could stand
        return {"set": sorted((_described(inner, inside, []) for inner in value), key=json.dumps)}
    if isinstance(value, (list, tuple)):
        return [_described(inner, inside, tensors) for inner in value]
    if isinstance(value, partial):
        return [_described(part, inside, []) for part in (value.func, value.args, value.keywords)]
    if fields := _fields(value):
        return _described(fields, inside, tensors)
    return type(value).__qualname__


def _described_module(module: nn.Module, seen: frozenset[int], tensors: list[Tensor]) -> dict[str, Any]:
    """The structure of a module that is a setting of another."""
    parts, ids = _tree(module)
    structure = {}
    for name, part in parts:
        tensors += [value for _, value in _weights(part)]
        settings = _described_settings(part, seen | ids)
        tensors += [tensor for _, inside in settings.values() for tensor in inside]
        described = {key: value for key, (value, _) in settings.items()}
        structure[name] = {"class": _class_of(part), "settings": described}
    return structure


def _fields(value: Any) -> dict[str, Any]:
    """The attributes of an object; empty for objects of the standard library, such as locks and loggers."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    place = type(value).__module__.partition(".")[0]
    if place in sys.stdlib_module_names and not isinstance(value, (SimpleNamespace, Namespace)):
        return {}
    return dict(getattr(value, "__dict__", {}))


def _digest(model: nn.Module, without: frozenset[tuple[str, str]] = frozenset()) -> str:
    """SHA-256 of structure and tensors, without what is named as (module, key)."""
    digest = sha256()
    parts, seen = _tree(model)
    for name, part in parts:
        settings = {k: v for k, v in _described_settings(part, seen).items() if (name, k) not in without}
        described = {key: value for key, (value, _) in settings.items()}
        digest.update(json.dumps([name, _class_of(part), described], sort_keys=True).encode())
        weights = [(key, [value]) for key, value in _weights(part) if (name, key) not in without]
        for key, tensors in (*weights, *((key, inside) for key, (_, inside) in settings.items())):
            for tensor in tensors:
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _changeable(model: nn.Module) -> dict[tuple[str, str], str]:
    """A digest of each setting and each buffer, by module and key."""
    parts, seen = _tree(model)
    found = {}
    for name, part in parts:
        buffers = {key: (None, [value]) for key, value in part._buffers.items() if value is not None}
        for key, (described, tensors) in {**buffers, **_described_settings(part, seen)}.items():
            values = b"".join(map(tensor_bytes, tensors))
            found[name, key] = sha256(json.dumps(described, sort_keys=True).encode() + values).hexdigest()
    return found


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Restore attributes and buffers that the model's own code changes within the block."""
    parts = [part for _, part in _parts(model)]
    attributes = [dict(vars(part)) for part in parts]
    buffers = [(buffer, buffer.clone()) for part in parts for buffer in part._buffers.values() if buffer is not None]
    try:
        yield
    finally:
        for part, before in zip(parts, attributes, strict=True):
            vars(part).clear()
            vars(part).update(before)
        with torch.no_grad():
            for buffer, before_ in buffers:
                buffer.copy_(before_)


def _weights(part: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers (also those that are not saved), and what else a module of its own kind saves."""
    state: dict[str, Any] = {}
    part._save_to_state_dict(state, "", True)
    every = {**part._parameters, **part._buffers, **state}
    return sorted((key, value) for key, value in every.items() if isinstance(value, Tensor))


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, in the order of its elements; ValueError on the meta device, which has none."""
    if tensor.is_meta:
        raise ValueError("a model on the device 'meta' has no weights yet; load some")
    values = tensor.detach()
    if values.is_quantized:
        values = values.int_repr()
    if values.layout != torch.strided:
        values = values.to_dense()
    values = values.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return values.view(torch.uint8).numpy().tobytes()


def _answers(model: nn.Module, image_shape: Sequence[int]) -> tuple[float, ...]:
    """Three numbers per probe image, from the same state of the random generators each time."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    images = probe_images(image_shape).to(device)
    random = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with torch.no_grad(), random, float32_precision(tf32=False), in_eval_mode(model):
        torch.manual_seed(0)
        try:
            logits = logits_of(asked(model)(images))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise ValueError(
                f"the model fails on images of shape {tuple(images.shape)} ({type(error).__name__}: {error}); "
                "give it images of the size it was made for"
            ) from error
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(
            f"the model's output must have shape (N, classes), got {tuple(logits.shape)} for {len(images)} images"
        )
    return tuple(number for row in logits.detach().double().cpu().numpy() for number in _fingerprint(row))


def _fingerprint(logits: np.ndarray) -> tuple[float, float, float]:
    """Of one image's logits (C,): the masked ones, the spread of the others, and their relative positions.

    The last number is a product with fixed random numbers, which neither a shift nor a scale of the logits changes.
    """
    weights = np.random.Generator(np.random.PCG64(1)).random(len(logits)) - 0.5
    values = np.nan_to_num(logits, nan=-np.inf, neginf=-np.inf, posinf=1e300)
    masked = (values <= _MASKED) | (values <= values.max() + _MASKED)
    if masked.all():
        return 1e3, 0.0, 0.0
    centred = values[~masked] - values[~masked].mean()
    spread = float(np.sqrt((centred**2).mean()))
    shape = float(weights[~masked] @ centred) / spread if spread > 0.0 else 0.0
    return float(weights[masked].sum()), math.log(max(spread, 1e-300)), shape


def _close(some: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the answers are the same but for rounding."""
    return all(abs(a - b) <= _TOLERANCE * max(1.0, abs(a), abs(b)) for a, b in zip(some, others, strict=True))


def probe_images(image_shape: Sequence[int]) -> Tensor:
    """Fixed images, (4, channels, H, W) float32 in [0, 1]: two of noise, a grey one with noise, and a ramp."""
    noise = np.random.Generator(np.random.PCG64(0)).random((_PROBES, *image_shape))
    images = noise
    images[2] = 0.5 + 0.1 * (noise[2] - 0.5)
    images[3] = np.linspace(0.0, 1.0, noise[3].size).reshape(noise[3].shape)
    return torch.from_numpy(images).float()
