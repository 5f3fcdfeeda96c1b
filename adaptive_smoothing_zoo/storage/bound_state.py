"""Checkpoints of long work: a folder of checked files that belongs to one piece of work.

``binding.json`` identifies the work: everything that determines the results. All other files are tensors with a
checksum, written atomically. Some are appended (``batch-000001.safetensors``), others are replaced
(``running.safetensors``). Starting the same work with the same folder resumes it.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from torch import Tensor

from adaptive_smoothing_zoo.errors import ConfigError, ResultsError, reason, shown
from adaptive_smoothing_zoo.storage.checked_file import put_aside, read_checked, read_or_put_aside, write_checked
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json

T = TypeVar("T")
Understand = Callable[[dict[str, Tensor], Any], T]  # what a file's tensors and its JSON values mean

logger = logging.getLogger(__name__)

BINDING = "binding.json"


class BoundState:
    """A folder that belongs to what ``binding`` describes.

    Args:
        folder: made if it does not exist.
        binding: a dataclass, or a mapping of JSON values and dataclasses; everything that decides the results.
        shared: whether a folder with other files may become the state.

    Raises:
        ResultsError: the folder belongs to something else, or cannot be read or written.
    """

    def __init__(self, folder: Path, binding: Any, *, shared: bool = False) -> None:
        self.folder, self._kind, self._binding = folder, type(binding), to_json(binding)
        parts = binding.items() if isinstance(binding, Mapping) else ()
        self._kinds = {name: type(part) for name, part in parts if is_dataclass(part)}
        if not shared:
            _check_free(folder)
        self._bind()

    def _bind(self) -> None:
        if (self.folder / BINDING).exists():
            check_same(self._with_defaults(read_binding(self.folder)), self._binding, self.folder)
        else:
            write_text(self.folder / BINDING, json.dumps(self._binding, indent=2) + "\n")

    def _with_defaults(self, found: dict[str, Any]) -> dict[str, Any]:
        """A binding of an older version, with defaults for newer fields."""
        with suppress(ConfigError):  # what differs is found either way
            if is_dataclass(self._kind):
                found = to_json(parse(self._kind, found, BINDING))
            for name in self._kinds.keys() & found.keys():
                found = found | {name: to_json(parse(self._kinds[name], found[name], BINDING))}
        return found

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes away from the folder.

        Raises:
            ResultsError: another process works there, or the lock cannot be made; or another one has made the folder
                its own in the meantime.
        """
        with locked(self.folder):
            self._bind()
            yield

    def append(self, kind: str, tensors: Mapping[str, Tensor], about: Any) -> None:
        """Add a file of a kind; it is on the disk when this returns.

        Raises:
            ResultsError: it cannot be written; what was written before is safe.
        """
        numbers = [int(path.name[len(kind) + 1 :].partition(".")[0]) for path in self.folder.glob(f"{kind}-*")]
        write_checked(self.folder / f"{kind}-{max(numbers, default=0) + 1:06}.safetensors", dict(tensors), about)

    def entries(self, kind: str, understand: Understand[T]) -> list[T]:
        """The files of a kind in order. An unreadable file is put aside and its work repeated."""
        known = (read_or_put_aside(path, understand) for path in _files(self.folder, kind))
        return [entry for entry in known if entry is not None]

    def replace(self, name: str, tensors: Mapping[str, Tensor], about: Any) -> None:
        """Write the file of a name, replacing the previous one.

        Raises:
            ResultsError: it cannot be written; the last one is safe.
        """
        write_checked(self._path(name), dict(tensors), about)

    def read(self, name: str, understand: Understand[T]) -> T | None:
        """Read the file of a name; None if it is missing or unreadable (it is then put aside)."""
        path = self._path(name)
        return read_or_put_aside(path, understand) if path.exists() else None

    def drop(self, name: str, error: Exception | None = None) -> None:
        """Delete the file of a name; put it aside instead, and warn, if there is an error."""
        path = self._path(name)
        if error is not None and path.exists():
            put_aside(path, ResultsError(f"{path} does not fit: {error}"))
        path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _check_free(folder: Path) -> None:
    """Raise ResultsError if the folder is a file, or holds files, other than hidden ones, and no state."""
    if folder.is_file():
        raise ResultsError(f"the state {folder} is a file; name a folder, which need not exist")
    others = [path.name for path in folder.iterdir() if path.name[0] != "."] if folder.is_dir() else []
    if others and BINDING not in others:
        raise ResultsError(f"the folder {folder} holds {min(others)} and no state; name an empty or a new folder")


def read_binding(folder: Path) -> dict[str, Any]:
    """What a folder belongs to, as JSON values.

    Raises:
        ResultsError: it holds no state, or a damaged one.
    """
    path = folder / BINDING
    try:
        binding = read_json(path)
    except FileNotFoundError:
        raise ResultsError(f"{folder} holds no state: there is no {BINDING}") from None
    except ConfigError as error:
        raise ResultsError(f"{path} is damaged ({error}); delete the folder {folder} to start again") from error
    if not isinstance(binding, dict):
        raise ResultsError(f"{path} is damaged; delete the folder {folder} to start again")
    return binding


def read_entries(folder: Path, kind: str, understand: Understand[T]) -> list[T]:
    """The files of a kind in a folder that nobody works on.

    Raises:
        ResultsError: one cannot be read.
    """
    return [read_checked(path, understand) for path in _files(folder, kind)]


def remove_state(folder: Path) -> None:
    """Delete a folder, when the results are written."""
    shutil.rmtree(folder)


@contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Lock a folder, or one name in it, against other processes.

    Raises:
        ResultsError: another process works there, or the lock cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name)
        lock.acquire(timeout=0)
    except Timeout:
        raise ResultsError(f"another process works in {folder}; wait for it, or choose another folder") from None
    except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
        raise ResultsError(f"cannot write and lock {folder / name}: {reason(error)}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Raise ResultsError unless two bindings are the same, as JSON values; a model's answers may differ by rounding."""
    differing = _difference(found, wanted, "")
    if differing is not None:
        name, theirs, ours = differing
        raise ResultsError(
            f"the state in {where} was made with {_said(name, theirs)}, this run has {_said(name, ours)}; finish that "
            f"one with its own settings, or delete {where} to start again"
        )


def _difference(found: Any, wanted: Any, name: str) -> tuple[str, Any, Any] | None:
    """The first value that is not the same, by its dotted name, in both; None if there is none."""
    if (theirs := _identity(found)) is not None and (ours := _identity(wanted)) is not None:
        return None if theirs == ours else (name, theirs, ours)
    if not isinstance(found, Mapping) or not isinstance(wanted, Mapping):
        return None if found == wanted else (name, found, wanted)
    for key in {**wanted, **found}:
        inner = _difference(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
        if inner is not None:
            return inner
    return None


def _identity(value: Any) -> Identity | None:
    """The identity of a model that a JSON value stands for."""
    if isinstance(value, Mapping) and value.keys() == {"sha256", "answers"}:
        answers = value["answers"]
        with suppress(TypeError, OverflowError):  # of answers that are no finite numbers
            if isinstance(value["sha256"], str) and isinstance(answers, list) and all(map(math.isfinite, answers)):
                return Identity.from_json(dict(value))
    return None


def _said(name: str, value: Any) -> str:
    """A setting, as people say it."""
    if value is None:
        return f"no {name}"
    if name == "examples":
        return f"{shown(value)} examples"
    if isinstance(value, Identity):
        return f"{name} {value}"
    if name.endswith("_sha256"):
        what = {"data_sha256": "images and labels"}.get(name, name.removesuffix("_sha256"))
        return f"{what} of SHA-256 {shown(value)}"
    text = shown(value)
    return f"{name} {text if len(text) <= 160 else f'{text[:100]} ... {text[-50:]}'}"


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-*.safetensors"))
