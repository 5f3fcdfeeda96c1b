"""A certification log that survives interruptions: one durable line per example, bound to the run's settings."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.certification.logs import COLUMNS, Certificates, format_row, header, read_log
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.storage.bound_state import check_same, locked
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.schema import read_json

_logger = logging.getLogger(__name__)


@contextmanager
def open_journal(path: Path, settings: dict[str, Any], columns: tuple[str, ...] = COLUMNS) -> Iterator[Journal]:
    """The log at ``path`` and, next to it, ``<path>.json`` with the settings that its lines were made with.

    Locks both against other processes.

    Args:
        path: of the log; made if it does not exist.
        settings: JSON values; everything that determines the certificates.
        columns: the columns of a line.

    Raises:
        ResultsError: another process works on the log; or the log is damaged (but for its last line, which a killed
            process may leave half written: it is cut off), was made with other settings, or has none next to it; or a
            file cannot be written.
    """
    with locked(path.parent, f".{path.name}.lock"):
        if not path.exists():
            write_text(settings_path(path), json.dumps(settings, indent=2) + "\n")
            write_text(path, header(columns))
        elif not settings_path(path).exists():
            raise ResultsError(
                f"{path} exists, but the settings it was made with ({settings_path(path).name}) do not; it cannot be "
                "continued: choose another file"
            )
        check_same(read_settings(path), settings, path)
        _cut_torn_line(path)
        yield Journal(path, columns)


class Journal:
    """A log to which lines are added.

    Attributes:
        done: the certificates that an earlier run has left.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns, self.done = path, columns, read_log(path)

    def append(self, certificates: Certificates) -> None:
        """Add lines; they are on the disk when this returns.

        Raises:
            ResultsError: they cannot be written.
        """
        lines = "".join(format_row(certificates, i, self.columns) for i in range(len(certificates)))
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


def settings_path(log: Path) -> Path:
    """Where the settings of a log stand."""
    return log.with_name(f"{log.name}.json")


def read_settings(log: Path) -> dict[str, Any]:
    """The settings that a log was made with.

    Raises:
        ResultsError: there are none, or they are damaged.
    """
    try:
        settings = read_json(settings_path(log))
    except (ConfigError, OSError) as error:
        raise ResultsError(f"cannot read the settings of {log}: {error}") from error
    if not isinstance(settings, dict):
        raise ResultsError(f"{settings_path(log)} does not hold the settings of a certification")
    return settings


def _cut_torn_line(path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror or error}") from error
    complete = content.rfind(b"\n") + 1
    if 0 < complete < len(content):  # without any line it is no log of ours, whose first line comes with the file
        _logger.warning("the last line of %s was half written; its example is done again", path)
        os.truncate(path, complete)
