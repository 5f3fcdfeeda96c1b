"""Foreign checkpoint files: recognized by their content, read without running code, and renamed to our keys."""

import logging
import pickle
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import bit_resnet, dm_wide_resnet
from adaptive_smoothing_zoo.backbones.libraries import IMAGENET_MEAN, IMAGENET_STD
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.errors import WeightsError, reason
from adaptive_smoothing_zoo.method import mixing_network
from adaptive_smoothing_zoo.zoo.entry import PARTS, BaseNetConfig
from adaptive_smoothing_zoo.zoo.weights import check_fit, read_safetensors, readable

logger = logging.getLogger(__name__)

V = TypeVar("V")

# Prefixes that DataParallel, torch.compile and attributes put before every key of a net.
WRAPPERS = ("module.", "_orig_mod.", "model.")

# Keys under which training scripts keep the weights, in the order of the search.
NESTINGS = ("state_dict", "model_state_dict", "model")


def read_checkpoint(path: Path, device: str | torch.device | None = None) -> dict[str, Any]:
    """The content of a checkpoint file (PyTorch, new or old; safetensors; .npz): keys to tensors, possibly nested.

    Args:
        device: device for the tensors of a safetensors file; those of other files are on the CPU.

    Raises:
        WeightsError: the file is missing, damaged, in another format, a web page, an archive, or a pickle that would
            run code.
    """
    with readable(path):
        if not path.is_file():
            raise WeightsError(f"there is no checkpoint {path}")
        with path.open("rb") as file:
            head = file.read(512)
    if not head:
        raise WeightsError(f"{path} is empty; delete it and get it again")
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(
            f"{path} is a web page, not a checkpoint; servers send one instead of a file that is gone or asked for too "
            "often (Google Drive does). Delete it and try again later, or get the file with a browser"
        )
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if head.startswith(b"\x80\x02"):
        return _torch_load(path, mmap=False)
    if head[8:9] == b"{":
        return dict(read_safetensors(path, device=device))
    with readable(path):
        if tarfile.is_tarfile(path):
            raise WeightsError(f"{path} is a tar archive, not a checkpoint; unpack it and give the file inside")
    raise WeightsError(
        f"{path} is not a checkpoint in a known format (PyTorch, safetensors, .npz); it begins with {head[:16]!r}"
    )


def convert_base_net(
    checkpoint: Mapping[str, Any], config: BaseNetConfig, net: nn.Module, what: str
) -> dict[str, Tensor]:
    """A base net's checkpoint under our keys.

    Args:
        checkpoint: as ``read_checkpoint`` gives it; with foreign keys or with ours, also behind ``WRAPPERS``.
        config: the base net's; its architecture decides which key table applies.
        net: that base net (on any device, also meta); the result fits it exactly.
        what: the checkpoint's name, for messages.

    Raises:
        WeightsError: the checkpoint belongs to another net.
    """
    state, own = _tensors(_innermost(checkpoint), what), net.state_dict().keys()
    if (unwrapped := without_wrappers(state, lambda keys: keys == own)) is not None:
        converted = unwrapped
    elif config.architecture not in CONVERTERS:
        raise WeightsError(
            f"{what} does not have our keys, those of the net, and there is no key table for {config.architecture!r} "
            "to rename them; save the net's own state_dict()"
        )
    else:
        converted = CONVERTERS[config.architecture](state, config.arguments, net)
    check_fit(net, converted, f"{config.architecture} ({what})")
    return converted


def convert_mixing_network(checkpoint: Mapping[str, Any], alpha: nn.Module, what: str) -> dict[str, Tensor]:
    """A mixing network's checkpoint (``model`` and ``bn``, or our keys) under our keys; the result fits ``alpha``.

    Raises:
        WeightsError: the checkpoint is of something else.
    """
    own = alpha.state_dict().keys()
    if (unwrapped := without_wrappers(_innermost(checkpoint), lambda keys: keys == own)) is not None:
        converted = _tensors(unwrapped, what)
    else:
        inner = checkpoint.get("state_dict", checkpoint)
        network, norm = (inner.get(name) if isinstance(inner, Mapping) else None for name in ("model", "bn"))
        if not (isinstance(network, Mapping) and isinstance(norm, Mapping)):
            raise WeightsError(
                f"{what} is not a mixing network's checkpoint: it needs 'model' and 'bn', and has {_listed(checkpoint)}"
            )
        converted = mixing_network.from_foreign(_tensors(network, what), _tensors(norm, what))
    check_fit(alpha, converted, f"the mixing network ({what})")
    return converted


def read_triplet_state(path: Path, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """The state dict of a whole triplet from a file with our keys, also nested or behind ``WRAPPERS``.

    Args:
        path: safetensors or a PyTorch file, as ``torch.save(triplet.state_dict(), path)`` writes it.
        device: as in ``read_checkpoint``.

    Raises:
        WeightsError: as ``read_checkpoint``; or the file is not the state dict of a whole triplet.
    """
    found = _innermost(read_checkpoint(path, device))
    state = without_wrappers(found, lambda keys: {str(key).split(".")[0] for key in keys} <= set(PARTS))
    if not state:
        raise WeightsError(
            f"{path} is not the state dict of a whole triplet, whose keys begin with {', '.join(PARTS)}: it has "
            f"{_listed(found)}. To load separate checkpoints of g, h and the mixing network, convert them by asz "
            "convert and give the folder as model_dir"
        )
    return _tensors(state, str(path))


def without_wrappers(state: Mapping[str, V], fits: Callable[[Set[str]], bool]) -> dict[str, V] | None:
    """The values under keys that fit: the keys as they are, or without wrappers' prefixes; None if none fit."""
    stripped = dict(state)
    while not fits(stripped.keys()):
        prefix = next((p for p in WRAPPERS if stripped and all(str(key).startswith(p) for key in stripped)), None)
        if prefix is None:
            return None
        stripped = {key.removeprefix(prefix): value for key, value in stripped.items()}
    return stripped


def _from_bit(state: Mapping[str, Tensor], arguments: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    if any("/" in key for key in state):  # as the names of TensorFlow's variables, in the authors' .npz files
        return bit_resnet.from_npz({key: value.detach().numpy() for key, value in state.items()})
    return bit_resnet.from_foreign(state)


def _from_dm(state: Mapping[str, Tensor], arguments: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    return dm_wide_resnet.from_foreign(state, mean=arguments["mean"], std=arguments["std"])


def _from_ra(state: Mapping[str, Tensor], arguments: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    constants = {name: arguments[name] for name in ("mean", "std") if name in arguments}
    return dm_wide_resnet.ra_from_foreign(state, **constants)


def _from_timm(state: Mapping[str, Tensor], arguments: Mapping[str, Any], net: nn.Module) -> dict[str, Tensor]:
    """By timm's own table, from keys of its older versions or of the net's authors; preprocessing is the entry's."""
    inner = net.net if isinstance(net, Preprocessed) else net
    if "downsample_layers.0.0.weight" in state:  # RobustBench's ConvNeXt V2 has these and does not use them
        state = {key: value for key, value in state.items() if key not in ("mean", "std")}
    state = without_wrappers(state, lambda keys: not all(key.startswith(WRAPPERS) for key in keys)) or state
    converted = _renamed_by_timm(state, inner)
    if inner is net:
        return converted
    constants = {name: arguments.get(name, usual) for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))}
    own = {name: torch.tensor(value, dtype=torch.float32).view(-1, 1, 1) for name, value in constants.items()}
    return own | {f"net.{key}": value for key, value in converted.items()}


def _renamed_by_timm(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The tensors under timm's keys; unchanged if timm's table does not know the keys or would compute new tensors."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(state)
    try:
        renamed: dict[str, Tensor] = convert(dict(state), net)
    except Exception:  # the table is for other keys
        return dict(state)
    known = {value.data_ptr() for value in state.values()}
    return renamed if all(value.data_ptr() in known for value in renamed.values()) else dict(state)


CONVERTERS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any], nn.Module], dict[str, Tensor]]] = {
    "bit_resnet": _from_bit,
    "dm_wide_resnet": _from_dm,
    "ra_wide_resnet": _from_ra,
    "timm": _from_timm,
}


def _innermost(checkpoint: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for key in NESTINGS:
        if isinstance(inner := checkpoint.get(key), Mapping):
            return _innermost(inner)
    return checkpoint


def _tensors(checkpoint: Mapping[Any, Any], what: str) -> dict[str, Tensor]:
    """The checkpoint as tensors, if it contains only named tensors or arrays."""
    if not checkpoint or not all(
        isinstance(key, str) and isinstance(value, (Tensor, np.ndarray)) for key, value in checkpoint.items()
    ):
        raise WeightsError(
            f"{what} holds no weights: it has {_listed(checkpoint)}, not tensors alone or below "
            f"one of {', '.join(NESTINGS)}"
        )
    return {key: _tensor(value, f"{key!r} in {what}") for key, value in checkpoint.items()}


def _tensor(value: Tensor | np.ndarray, what: str) -> Tensor:
    if isinstance(value, np.ndarray):
        try:
            value = torch.from_numpy(value)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"{what} holds no numbers that PyTorch knows: {reason(error)}") from None
    if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        raise WeightsError(
            f"{what} is not a plain tensor of real numbers: {value.dtype}, {value.layout}, {value.device}"
        )
    return value


def _listed(checkpoint: Mapping[str, Any]) -> str:
    keys = list(checkpoint)
    return ", ".join(map(str, keys[:5])) + (", ..." if len(keys) > 5 else "") if keys else "nothing"


def _read_zip(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # the end of the file, where the names are, is missing or damaged
        raise WeightsError(f"{path} is truncated or damaged at its end; delete it and get it again") from None
    if any(name.endswith("data.pkl") for name in names):
        return _torch_load(path, mmap=True)
    if names and all(name.endswith(".npy") for name in names):
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # a damaged header makes NumPy's parser raise almost anything
            raise WeightsError(f"{path} is a damaged .npz file: {reason(error)}") from error
        if wrong := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
            raise WeightsError(f"{path} is a damaged .npz file: {wrong[0]} is not an array")
        return found
    raise WeightsError(f"{path} is a zip archive, not a checkpoint; unpack it and give the file inside")


def _torch_load(path: Path, *, mmap: bool) -> dict[str, Any]:
    """Tensors and plain containers only: nothing in the file can run."""
    # Many checkpoints contain NumPy scalars (an accuracy, an epoch), which run no code either.
    scalar = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [
        *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        np.dtype,
        *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8")),
    ]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        asked_for = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it asks for {asked_for[1]}" if asked_for else "it is no pickle of these"
        raise WeightsError(
            f"{path} was refused: reading it would run code, or it is damaged. Only tensors, numbers and plain "
            f"containers are read (as torch.save(net.state_dict(), ...) writes them); {why}"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise WeightsError(f"{path} is a damaged or truncated PyTorch file: {reason(error)}; get it again") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    return dict(content)
