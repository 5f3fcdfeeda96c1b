"""A training on disk: its newest checkpoint, from which it resumes bit for bit, and its log.

A checkpoint needs no random state, since random numbers depend only on the seed and the round.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.bound_state import BINDING, BoundState
from adaptive_smoothing_zoo.storage.checked_file import read_checked, write_checked
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.pace import Pace, signals_held

_CHECKPOINT = "checkpoint"
CHECKPOINT_FILE, LOG_FILE = f"{_CHECKPOINT}.safetensors", "log.csv"
CHECKPOINT_SECONDS = 10.0  # time between two checkpoints

_UNREADABLE = (SafetensorError, OSError, KeyError, ValueError, TypeError)


@dataclass(frozen=True)
class Kept:
    """A checkpoint that was read."""

    rounds: int  # finished rounds
    tensors: dict[str, Tensor]  # of the learner, its average and the optimizer
    workers: int  # number of processes that trained

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of ``name``: "learner", "average" or "optimizer"."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


class Keeper:
    """Writes checkpoints of a training to a folder, and the log next to them.

    Args:
        binding: identity of the training: settings and hashes of data and nets, as JSON values or dataclasses.
        seconds: time between two checkpoints; more if writing takes longer than 1/20 of it.
        workers: number of processes that train.

    Raises:
        ResultsError: the folder belongs to another training.
    """

    def __init__(
        self, folder: Path, binding: Mapping[str, Any], seconds: float = CHECKPOINT_SECONDS, workers: int = 1
    ) -> None:
        _adopt_former(folder)
        self.folder, self._workers = folder, workers
        self._state, self._pace = BoundState(folder, binding, shared=True), Pace(seconds)
        self._unwritten: tuple[int, dict[str, Tensor]] | None = None  # a finished round that is not saved yet
        self._columns: list[str] = []

    def read(self) -> Kept | None:
        """The newest checkpoint, or None if there is none yet.

        Raises:
            ResultsError: it is damaged.
        """
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            return None
        try:
            return read_checked(path, lambda tensors, about: Kept(int(about["rounds"]), tensors, int(about["workers"])))
        except ResultsError as error:
            raise ResultsError(f"{error}; delete it to begin the training again") from error

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Lock the folder; write the last finished round however the block ends: error, Ctrl-C or SIGTERM.

        Raises:
            ResultsError: another process works in the folder.
        """
        with self._state.locked():
            try:
                yield
            finally:
                if self._unwritten is not None:
                    with signals_held():
                        self.write(*self._unwritten)

    def finished(self, rounds: int, tensors: Mapping[str, Tensor], *, last: bool) -> None:
        """Save a finished round: on disk if it is the last or a checkpoint is due, else in memory."""
        if last or self._pace.is_due():
            self._unwritten = rounds, dict(tensors)
            self.write(*self._unwritten)
        else:
            self._unwritten = rounds, {key: value.clone() for key, value in tensors.items()}

    def write(self, rounds: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the checkpoint; the old one remains if writing fails."""
        with self._pace.done():
            state = {key: value.detach() for key, value in tensors.items()}
            self._state.replace(_CHECKPOINT, state, {"rounds": rounds, "workers": self._workers})
            self._unwritten = None

    def begin_log(self, rounds: int) -> None:
        """Remove rows of the log for rounds that will run again."""
        path = self.folder / LOG_FILE
        rows = _rows(path.read_text(encoding="utf-8")) if path.exists() and rounds else []
        self._columns = rows[0] if rows else []
        # A killed process may leave half a row of an unfinished round.
        done = [row for row in rows[1:] if len(row) == len(rows[0]) and int(row[0]) <= rounds]
        write_text(path, "".join(map(_line, [*rows[:1], *done])))

    def log(self, row: Mapping[str, int | float]) -> None:
        """Add a row; the first row decides the columns, of which the first is "round"."""
        text = ""
        if not self._columns:
            self._columns = list(row)
            text = _line(self._columns)
        text += _line([f"{row[column]:.6g}" if column != "round" else f"{row[column]}" for column in self._columns])
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(text)


def _adopt_former(folder: Path) -> None:
    """Convert a checkpoint from before 0.2, with its binding inside and no checksum, to the current format."""
    path = folder / CHECKPOINT_FILE
    if (folder / BINDING).exists() or not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
        write_checked(path, load_file(path), about)
        BoundState(folder, about["binding"], shared=True)
    except _UNREADABLE as error:
        raise ResultsError(f"{path} is damaged ({error}); delete it to begin the training again") from error


def forget(folder: Path) -> None:
    """Delete the checkpoint of a finished training after its results are written; keep the log."""
    for name in (CHECKPOINT_FILE, BINDING, ".lock"):
        (folder / name).unlink(missing_ok=True)


def rounds_kept(folder: Path) -> int:
    """Number of rounds in a folder's checkpoint; 0 if there is none or it is unreadable."""
    try:
        with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:
            return int(json.loads(file.metadata()["about"])["rounds"])
    except _UNREADABLE:
        return 0


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a training's log, by column."""
    columns, *rows = _rows((folder / LOG_FILE).read_text(encoding="utf-8")) or [[]]
    return [dict(zip(columns, map(float, row), strict=True)) for row in rows]


def last_row(folder: Path) -> dict[str, float]:
    """The last row of a training's log; empty if nothing was trained."""
    return (read_log(folder) or [{}])[-1] if (folder / LOG_FILE).exists() else {}


def fingerprint(*values: Tensor | nn.Module) -> str:
    """SHA-256 of tensors, and of the names, shapes and values of modules' tensors."""
    digest = sha256()
    for value in values:
        named = tensors_in(value) if isinstance(value, nn.Module) else {"": value}
        for name, tensor in named.items():
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensors_in(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a module saves, by name; without other extra state."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _rows(text: str) -> list[list[str]]:
    return [line.split(",") for line in text.splitlines()]


def _line(values: list[str]) -> str:
    return ",".join(values) + "\n"
