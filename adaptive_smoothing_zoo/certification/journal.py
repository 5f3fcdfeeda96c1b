"""A certification log that survives its process: one durable line per example, bound to the settings of the run."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from adaptive_smoothing_zoo.certification.logs import COLUMNS, Certificates, format_row, header, read_log
from adaptive_smoothing_zoo.errors import ResultsError, reason
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import Identity

_logger = logging.getLogger(__name__)


class Journal:
    """The log at ``path`` and, beside it, ``<path>.json`` with the settings that its lines were made with.

    To be used in a ``with`` statement, which keeps other processes away from both files.

    Args:
        path: of the log; made if it does not exist.
        settings: JSON values; everything that decides the certificates.
        columns: what a line holds.

    Attributes:
        done: the certificates that an earlier run with these settings has left; known inside the ``with`` statement.

    Raises:
        ResultsError: on entry: another process works on the log; or the log is damaged (but for its last line, which a
            killed process may leave half written: it is cut off), was made with other settings, or has none beside it;
            or a file cannot be written.
    """

    done: Certificates

    def __init__(self, path: Path, settings: dict[str, Any], columns: tuple[str, ...] = COLUMNS) -> None:
        self.path, self._settings_path = path, settings_path(path)
        self._settings, self._columns = settings, columns
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ResultsError(f"another process is writing {self.path}; wait for it, or choose another file") from None
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            raise ResultsError(
                f"cannot write and lock {self.path}: {reason(error)}; choose a folder where that is possible"
            ) from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def append(self, certificates: Certificates) -> None:
        """Add lines; they are on the disk when this returns.

        Raises:
            ResultsError: they cannot be written.
        """
        lines = "".join(format_row(certificates, i, self._columns) for i in range(len(certificates)))
        before = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):  # if it stays, the next run cuts it off
                os.truncate(self.path, before)
            raise ResultsError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _open(self) -> None:
        if self._settings_path.exists():
            self._check_settings()
        elif self.path.exists():
            raise ResultsError(
                f"{self.path} exists, but the settings it was made with ({self._settings_path.name}) do not; it cannot "
                "be continued: choose another file"
            )
        else:
            write_text(self._settings_path, json.dumps(self._settings, indent=2) + "\n")
        if not self.path.exists():
            write_text(self.path, header(self._columns))
        self._cut_torn_line()
        self.done = read_log(self.path)

    def _check_settings(self) -> None:
        before = read_settings(self.path)
        names = {**before, **self._settings}
        differing = [name for name in names if not _alike(name, before.get(name), self._settings.get(name))]
        if differing:
            name = differing[0]
            was, now = (_short(repr(settings.get(name))) for settings in (before, self._settings))
            raise ResultsError(
                f"{self.path} was made with other settings: {_short(name)} was {was} and is now {now}; use the same, "
                "or choose another file"
            )

    def _cut_torn_line(self) -> None:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ResultsError(f"cannot read {self.path}: {error.strerror or error}") from error
        complete = content.rfind(b"\n") + 1
        if 0 < complete < len(content):  # without any line it is no log of ours, whose first line comes with the file
            _logger.warning("the last line of %s was half written; its example is done again", self.path)
            os.truncate(self.path, complete)


def settings_path(log: Path) -> Path:
    """Where the settings of a log stand."""
    return log.with_name(f"{log.name}.json")


def read_settings(log: Path) -> dict[str, Any]:
    """The settings that a log was made with.

    Raises:
        ResultsError: there are none, or they are damaged.
    """
    path = settings_path(log)
    try:
        settings = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(f"cannot read the settings of {log}: {reason(error)}") from error
    if not isinstance(settings, dict):
        raise ResultsError(f"{path} does not hold the settings of a certification")
    return settings


def _alike(name: str, before: Any, now: Any) -> bool:
    """Whether a setting is the same; a model's answers may differ by rounding."""
    if name != "model" or before is None or now is None:
        return bool(before == now)
    try:
        return Identity.from_json(before) == Identity.from_json(now)
    except (TypeError, KeyError):
        return False


def _short(text: str) -> str:
    """A text in a message, cut short: the file may hold anything."""
    return text if len(text) <= 100 else f"{text[:100]}..."
