"""The state of an evaluation on disk: a folder to which every finished chunk is added, so that nothing is lost.

``binding.json`` says what the state belongs to. Each chunk is a file of its own, written whole or not at all, with a
checksum. ``running-<attack>.safetensors`` is where an attack stands that is under way; it is replaced again and again.
Whoever starts the same evaluation with the same folder goes on where the last one stopped.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, shown
from adaptive_smoothing_zoo.evaluation.ledger import TENSORS, Chunk
from adaptive_smoothing_zoo.storage.checked_file import put_aside, read_checked, read_or_put_aside, write_checked
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What a state belongs to. Whatever decides a verdict is in here.

    Attributes:
        model: who the model is.
        examples: how many there are.
        data_sha256: of images and labels.
        batch_size: where verdicts depend on it (the reference engine), else None.
        shard: "i/k".
    """

    protocol: str
    model: Identity
    examples: int
    data_sha256: str
    norm: str
    eps: float
    seed: int
    engine: str
    batch_size: int | None
    tf32: bool
    channels_last: bool
    device: str
    shard: str

    def __post_init__(self) -> None:
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", self.shard)
        if match is None or int(match[1]) >= int(match[2]):
            raise ValueError(f"a shard is i/k with 0 <= i < k, got {shown(self.shard)}")


class RunState:
    """A folder of chunks.

    Args:
        folder: made if it does not exist.
        binding: of the evaluation that wants to go on.

    Raises:
        ResultsError: the folder belongs to something else, or cannot be read or written.
    """

    def __init__(self, folder: Path, binding: Binding) -> None:
        bind(folder, binding)
        self.folder = folder

    def chunks(self) -> list[Chunk]:
        """What is known. A file that cannot be read is put aside, and its points are attacked again."""
        return [chunk for path in _chunk_files(self.folder) if (chunk := read_or_put_aside(path, _chunk)) is not None]

    def add(self, chunk: Chunk) -> None:
        """Write one chunk.

        Raises:
            ResultsError: it cannot be written; what was written before is safe.
        """
        names = [int(path.name[6:12]) for path in self.folder.glob("chunk-*")]
        path = self.folder / f"chunk-{max(names, default=0) + 1:06}.safetensors"
        tensors = {name: getattr(chunk, name) for name in TENSORS}
        write_checked(path, tensors, {field.name: to_json(getattr(chunk, field.name)) for field in _plain_fields()})

    def write_snapshot(self, attack: str, tensors: dict[str, Tensor], seconds: float) -> None:
        """Replace what is known of where an attack stands.

        Args:
            attack: that is under way. Points with which it is done must have been added before.
            tensors: as its engine gives them.
            seconds: wall time since the last chunk.

        Raises:
            ResultsError: it cannot be written; what was written before is safe.
        """
        write_checked(self._snapshot_path(attack), tensors, {"seconds": seconds})

    def read_snapshot(self, attack: str) -> tuple[dict[str, Tensor], float] | None:
        """Where an attack stands, and the seconds since the last chunk; None if nothing is known."""
        path = self._snapshot_path(attack)
        return read_or_put_aside(path, _snapshot) if path.exists() else None

    def drop_snapshot(self, attack: str, error: Exception | None = None) -> None:
        """Forget where an attack stands, since it is over; or put that aside, because of an error."""
        path = self._snapshot_path(attack)
        if error is not None:
            put_aside(path, ResultsError(f"{path} does not fit: {error}"))
        path.unlink(missing_ok=True)

    def _snapshot_path(self, attack: str) -> Path:
        return self.folder / f"running-{attack}.safetensors"


def bind(folder: Path, binding: DataclassInstance) -> None:
    """Let a folder, made if it does not exist, belong to what ``binding`` describes.

    Raises:
        ResultsError: it belongs to something else, or cannot be read or written.
    """
    path = folder / "binding.json"
    if path.exists():
        check_same(_binding_of(type(binding), folder), binding, folder)
    else:
        write_text(path, json.dumps(to_json(binding), indent=2) + "\n")


@contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Keep other processes away from a folder, or from what a name in it stands for, while this one works there.

    Raises:
        ResultsError: another process works there, or the lock cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name)
        lock.acquire(timeout=0)
    except Timeout:
        raise ResultsError(
            f"another evaluation is at work in {folder}; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise ResultsError(f"cannot write {folder / name}: {error.strerror or error}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def read_binding(folder: Path) -> Binding:
    """What the state in a folder belongs to.

    Raises:
        ResultsError: the folder holds no state, or a damaged one.
    """
    return _binding_of(Binding, folder)


def _binding_of(kind: type[T], folder: Path) -> T:
    path = folder / "binding.json"
    try:
        return parse(kind, read_json(path), str(path))
    except FileNotFoundError:
        raise ResultsError(f"{folder} holds no state of an evaluation: there is no binding.json") from None
    except ConfigError as error:
        raise ResultsError(f"{path} is damaged ({error}); delete the folder {folder} to begin again") from error


def remove_state(folder: Path) -> None:
    """Delete a state, when the results are written."""
    shutil.rmtree(folder)


def read_chunks(folder: Path) -> list[Chunk]:
    """The chunks of a state that nobody works on.

    Raises:
        ResultsError: one cannot be read.
    """
    return [read_checked(path, _chunk) for path in _chunk_files(folder)]


def _chunk_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("chunk-*.safetensors"))


def check_same(found: T, wanted: T, where: Path) -> None:
    """Raise ResultsError unless a state belongs to what wants to go on with it; two bindings of one kind are given."""
    for field in fields(wanted):
        theirs, ours = getattr(found, field.name), getattr(wanted, field.name)
        if theirs != ours:
            raise ResultsError(
                f"the state in {where} was made with {_said(field.name, theirs)}, this run has "
                f"{_said(field.name, ours)}; finish that one with its own settings, or delete {where} to begin again"
            )


def _said(name: str, value: Any) -> str:
    """A setting, as people say it."""
    if name == "examples":
        return f"{value} examples"
    if isinstance(value, Identity):
        return f"{name} {value}"
    if name.endswith("_sha256"):
        what = {"data_sha256": "images and labels"}.get(name, name.removesuffix("_sha256"))
        return f"{what} of SHA-256 {shown(value)}"
    return f"{name} {shown(value)}"


def _chunk(tensors: dict[str, Any], values: Any) -> Chunk:
    values["warnings"], values["remarks"] = tuple(values["warnings"]), tuple(values["remarks"])
    return Chunk(**tensors, **values)


def _snapshot(tensors: dict[str, Tensor], values: Any) -> tuple[dict[str, Tensor], float]:
    seconds = values["seconds"]
    if type(seconds) not in (int, float) or not 0.0 <= seconds < float("inf"):
        raise ValueError(f"{shown(seconds)} seconds")
    return tensors, seconds


def _plain_fields() -> list[Field[Any]]:
    return [field for field in fields(Chunk) if field.name not in TENSORS]


def empty_images(images: Tensor) -> Tensor:
    """No images, of the shape of these."""
    return torch.empty((0, *images.shape[1:]))
