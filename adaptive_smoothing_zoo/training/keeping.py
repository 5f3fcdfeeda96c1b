"""A training on disk: its newest state, from which it goes on bit for bit, and its log.

Nothing random is in the state, since whatever is drawn depends on the seed and on the round alone.
"""

from __future__ import annotations

import csv
import io
import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.files import write_text, write_with

CHECKPOINT_FILE, LOG_FILE = "checkpoint.safetensors", "log.csv"

CHECKPOINT_SECONDS = 10.0  # time between two checkpoints

# How much of the time may go into writing checkpoints.
_SHARE = 0.05


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


class Keeper:
    """Writes the state of a training to a folder, and the log beside it.

    Args:
        folder: made if it does not exist.
        binding: what the training is: its settings, its data, the frozen nets. JSON values.
        seconds: a checkpoint is written when this much time has passed since the last one, or more if writing takes
            long; 0 writes one after every round.
    """

    def __init__(self, folder: Path, binding: Mapping[str, Any], seconds: float = CHECKPOINT_SECONDS) -> None:
        self.folder, self.seconds = folder, seconds
        self.binding = json.loads(json.dumps(dict(binding)))
        self._written_at = time.monotonic()
        self._writing_takes = 0.0
        self._unwritten: tuple[int, dict[str, Tensor]] | None = None  # a finished round that is not on the disk
        self._workers = 1
        self._columns: list[str] = []

    def read(self) -> Kept | None:
        """The newest state, or None if there is none yet.

        Raises:
            ResultsError: it belongs to another training, or is damaged.
        """
        path = self.folder / CHECKPOINT_FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
            tensors = {key: value.clone() for key, value in load_file(path).items()}
            rounds, workers, binding = int(about["rounds"]), int(about["workers"]), about["binding"]
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise ResultsError(f"{path} is damaged ({error}); delete it to begin the training again") from error
        for key in sorted(binding.keys() | self.binding.keys()):
            if (theirs := binding.get(key)) != (ours := self.binding.get(key)):
                raise ResultsError(
                    f"{path} belongs to another training: its {difference(key, theirs, ours)}. Delete it to begin "
                    "again, or train with its settings"
                )
        return Kept(rounds, tensors, workers)

    @contextmanager
    def last_finished(self, workers: int) -> Iterator[None]:
        """Write the last finished round, whatever ends the block: an error, Ctrl-C, SIGTERM."""
        self._workers = workers
        try:
            yield
        finally:
            if self._unwritten is not None:
                with signals_wait():
                    self.write(*self._unwritten, workers)

    def finished(self, rounds: int, tensors: Mapping[str, Tensor], *, last: bool) -> None:
        """Take note of a finished round: on the disk if it is the last one or time for a checkpoint, else in memory."""
        due = last or self.is_due()
        self._unwritten = rounds, dict(tensors) if due else {key: value.clone() for key, value in tensors.items()}
        if due:
            self.write(*self._unwritten, self._workers)

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        patience = max(self.seconds, self._writing_takes / _SHARE) if self.seconds else 0.0
        return time.monotonic() - self._written_at >= patience

    def write(self, rounds: int, tensors: Mapping[str, Tensor], workers: int) -> None:
        """Put a state in the place of the last one.

        Raises:
            ResultsError: it cannot be written; the last one is still there.
        """
        started = time.monotonic()
        path = self.folder / CHECKPOINT_FILE
        about = json.dumps({"rounds": rounds, "workers": workers, "binding": self.binding})
        state = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        try:
            write_with(path, lambda temporary: save_file(state, temporary, metadata={"about": about}))
        except SafetensorError as error:
            raise ResultsError(f"cannot write {path}: {error}; free some space and run it again to resume") from error
        self._unwritten = None
        self._written_at = time.monotonic()
        self._writing_takes = self._written_at - started

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


def rounds_kept(folder: Path) -> int:
    """How many rounds a folder's checkpoint holds; 0 where there is none, or none that can be read."""
    try:
        with safe_open(folder / CHECKPOINT_FILE, framework="pt") as file:
            return int(json.loads(file.metadata()["about"])["rounds"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        return 0


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and alarms wait until a short block is done; whoever uses it ends afterwards anyway."""
    if threading.current_thread() is not threading.main_thread():  # it alone gets them
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGALRM")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no alarm
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a training's log."""
    with (folder / LOG_FILE).open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


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


def difference(key: str, theirs: Any, ours: Any) -> str:
    """The first thing that is not the same, by its dotted name."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name):
                return difference(f"{key}.{name}", theirs.get(name), ours.get(name))
    return f"{key} is {theirs!r}, this one's is {ours!r}"
