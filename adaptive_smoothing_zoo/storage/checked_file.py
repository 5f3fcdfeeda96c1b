"""Tensors with a JSON description in one file, written atomically, with a checksum over both."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptive_smoothing_zoo.errors import ResultsError, reason
from adaptive_smoothing_zoo.storage.files import write_with
from adaptive_smoothing_zoo.storage.identity import tensor_bytes

T = TypeVar("T")

logger = logging.getLogger(__name__)


def write_checked(path: Path, tensors: dict[str, Tensor], about: Any) -> None:
    """Write tensors and their JSON description.

    Raises:
        ResultsError: the file cannot be written; one that was there is safe.
    """
    kept = _apart({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    text = json.dumps(about)
    metadata = {"about": text, "sha256": checksum(kept, text)}
    try:
        write_with(path, lambda temporary: save_file(kept, temporary, metadata=metadata))
    except SafetensorError as error:
        raise ResultsError(f"cannot write {path}: {error}; free some space and run it again to resume") from error


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors; copies of those that share memory with another, as tied weights do."""
    users = Counter(tensor.untyped_storage().data_ptr() for tensor in tensors.values())
    shared = {name for name, tensor in tensors.items() if users[tensor.untyped_storage().data_ptr()] > 1}
    return {name: tensor.clone() if name in shared else tensor for name, tensor in tensors.items()}


def read_checked(path: Path, understand: Callable[[dict[str, Tensor], Any], T]) -> T:
    """Read a file; return ``understand(tensors, description)``.

    Raises:
        ResultsError: the file cannot be read, its checksum is wrong, or ``understand`` stumbles over what it holds.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # not mapped: the file may go
        if metadata["sha256"] != checksum(tensors, metadata["about"]):
            raise ResultsError(f"{path} is damaged: its checksum is wrong")
        return understand(tensors, json.loads(metadata["about"]))
    except ResultsError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ResultsError(f"{path} is damaged: {reason(error)}") from error


def read_or_put_aside(path: Path, understand: Callable[[dict[str, Tensor], Any], T]) -> T | None:
    """As ``read_checked``, but an unreadable file is renamed to free its name, and None returned."""
    try:
        return read_checked(path, understand)
    except ResultsError as error:
        put_aside(path, error)
        return None


def put_aside(path: Path, error: Exception) -> None:
    """Rename an unusable file to free its name, with a warning."""
    logger.warning("%s; the file is put aside, and its work will be repeated", error)
    path.rename(path.with_suffix(".damaged"))


def checksum(tensors: dict[str, Tensor], about: str) -> str:
    """Of a file's tensors and of what it says about them."""
    digest = sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
