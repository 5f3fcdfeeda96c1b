"""A training on disk: its newest state, from which it goes on bit for bit, and its log.

Nothing random is in the state, since whatever is drawn depends on the seed and on the round alone.
"""

from __future__ import annotations

import csv
import io
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
    """A state that was read.

    Attributes:
        rounds: how many are done.
        tensors: of the learner, its average and the optimizer.
        workers: how many processes had made it.
    """

    rounds: int
    tensors: dict[str, Tensor]
    workers: int

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of the learner, the average or the optimizer."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


class Keeper:
    """Writes the state of a training to a folder, and the log beside it.

    Args:
        folder: made if it does not exist.
        binding: what the training is: its settings, its data, the frozen nets. JSON values.
        seconds: between two checkpoints; more if writing takes longer than a twentieth of that.
        workers: how many processes train.

    Raises:
        ResultsError: the folder belongs to another training.
    """

    def __init__(
        self, folder: Path, binding: Mapping[str, Any], seconds: float = CHECKPOINT_SECONDS, workers: int = 1
    ) -> None:
        _adopt_former(folder)
        self.folder, self._state, self._pace, self._workers = (
            folder,
            BoundState(folder, binding),
            Pace(seconds),
            workers,
        )
        self._unwritten: tuple[int, dict[str, Tensor]] | None = None  # a finished round that is not on the disk
        self._columns: list[str] = []

    def read(self) -> Kept | None:
        """The newest state, or None if there is none yet.

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
        """Keep others away; write the last finished round, whatever ends the block: an error, Ctrl-C, SIGTERM.

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
        """Take note of a finished round: on the disk if it is the last one or time for a checkpoint, else in memory."""
        if last or self._pace.is_due():
            self._unwritten = rounds, dict(tensors)
            self.write(*self._unwritten)
        else:
            self._unwritten = rounds, {key: value.clone() for key, value in tensors.items()}

    def write(self, rounds: int, tensors: Mapping[str, Tensor]) -> None:
        """Put a state in the place of the last one.

        Raises:
            ResultsError: it cannot be written; the last one is still there.
        """
        with self._pace.done():
            state = {key: value.detach() for key, value in tensors.items()}
            self._state.replace(_CHECKPOINT, state, {"rounds": rounds, "workers": self._workers})
            self._unwritten = None

    def begin_log(self, rounds: int) -> None:
        """Drop what the log says of rounds that will be done again."""
        path = self.folder / LOG_FILE
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() and rounds else []
        kept = [line for i, line in enumerate(lines) if i == 0 or _is_done(line, lines[0], rounds)]
        write_text(path, "".join(kept))
        self._columns = kept[0].strip().split(",") if kept else []

    def log(self, row: Mapping[str, int | float]) -> None:
        """Add a row; the first one decides the columns, and its first column is the round."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not self._columns:
            self._columns = list(row)
            writer.writerow(self._columns)
        writer.writerow([_short(row[column]) for column in self._columns])
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(text.getvalue())


def _adopt_former(folder: Path) -> None:
    """Put a checkpoint of before 0.2, which held its binding itself and no checksum, into today's form."""
    path = folder / CHECKPOINT_FILE
    if (folder / BINDING).exists() or not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
        write_checked(path, load_file(path), about)
        BoundState(folder, about["binding"])
    except _UNREADABLE as error:
        raise ResultsError(f"{path} is damaged ({error}); delete it to begin the training again") from error


def forget(folder: Path) -> None:
    """Delete the state of a finished training, whose results are written; the log stays."""
    for name in (CHECKPOINT_FILE, BINDING, ".lock"):
        (folder / name).unlink(missing_ok=True)


def rounds_kept(folder: Path) -> int:
    """How many rounds a folder's checkpoint holds; 0 where there is none, or none that can be read."""
    try:
        with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:
            return int(json.loads(file.metadata()["about"])["rounds"])
    except _UNREADABLE:
        return 0


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a training's log."""
    with (folder / LOG_FILE).open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def last_row(folder: Path) -> dict[str, float]:
    """The newest row of a training's log; empty if nothing was trained."""
    return (read_log(folder) or [{}])[-1] if (folder / LOG_FILE).exists() else {}


def fingerprint(*values: Tensor | nn.Module) -> str:
    """SHA-256 of tensors, and of the names, shapes and values of modules' tensors."""
    digest = sha256()
    for value in values:
        for name, tensor in value.state_dict().items() if isinstance(value, nn.Module) else [("", value)]:
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _short(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _is_done(line: str, header: str, rounds: int) -> bool:
    """Whether this is a whole row (a killed process may leave half of one) of a round that is done."""
    first = line.split(",", 1)[0]
    whole = line.endswith("\n") and line.count(",") == header.count(",")
    return whole and first.isdecimal() and int(first) <= rounds
