"""Weights on disk: safetensors only, loaded strictly."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.files import file_sha256, write_with


def read_safetensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped from disk.

    Raises:
        WeightsError: no such file, another hash than ``sha256``, or not (or no longer) a safetensors file.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise WeightsError(f"{path} has SHA-256 {found}, but {sha256} was expected; it is damaged or another file")
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a complete safetensors file: {error}") from error


def write_safetensors(path: Path, state: dict[str, Tensor]) -> str:
    """Write tensors to a safetensors file and return its SHA-256."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    write_with(path, lambda temporary: save_file(tensors, temporary, metadata={"format": "pt"}))
    return file_sha256(path)


def load_strictly(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Give ``module`` exactly the tensors of ``state``, in the module's own number formats.

    The module may stand on the meta device; its parameters are replaced, not copied into.

    Raises:
        WeightsError: a key is missing or unexpected or a shape differs; the message lists them.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [
        f"{key} has shape {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise WeightsError(f"the weights do not fit {what}; {'; '.join(problems)}")
    with torch.no_grad():
        module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, assign=True)
