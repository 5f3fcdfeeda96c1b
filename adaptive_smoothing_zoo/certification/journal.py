"""A certification log that survives its process: one durable line per example, bound to the settings of the run."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.certification.logs import HEADER, Certificates, format_row, parse_log
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.files import write_text

_logger = logging.getLogger(__name__)


class Journal:
    """The log at ``path`` and, beside it, ``<path>.json`` with the settings that its lines were made with.

    Args:
        path: of the log; made if it does not exist.
        settings: JSON values; everything that decides the certificates.

    Attributes:
        done: the certificates that an earlier run with these settings has left.

    Raises:
        ResultsError: the log is damaged (but for its last line, which a killed process may leave half written: it is
            cut off), was made with other settings, or has none beside it; or a file cannot be written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings_path = path, path.with_name(path.name + ".json")
        if self._settings_path.exists():
            self._check_settings(settings)
        elif path.exists():
            raise ResultsError(
                f"{path} exists, but the settings it was made with ({self._settings_path.name}) do not; it cannot be "
                "continued: choose another file"
            )
        else:
            write_text(self._settings_path, json.dumps(settings, indent=2) + "\n")
        if not path.exists():
            write_text(path, HEADER)
        self._cut_torn_line()
        self.done = parse_log(path.read_text(encoding="utf-8"), str(path))

    def append(self, certificates: Certificates) -> None:
        """Add lines; they are on the disk when this returns.

        Raises:
            ResultsError: they cannot be written.
        """
        lines = "".join(format_row(certificates, i) for i in range(len(certificates)))
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResultsError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _check_settings(self, settings: dict[str, Any]) -> None:
        try:
            before = json.loads(self._settings_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ResultsError(f"cannot read {self._settings_path}: {error}") from error
        if not isinstance(before, dict):
            raise ResultsError(f"{self._settings_path} does not hold the settings of a certification")
        differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if differing:
            name = differing[0]
            raise ResultsError(
                f"{self.path} was made with other settings: {name} was {before.get(name)!r} and is now "
                f"{settings.get(name)!r}; use the same, or choose another file"
            )

    def _cut_torn_line(self) -> None:
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            _logger.warning("the last line of %s was half written; its example is done again", self.path)
            os.truncate(self.path, complete)
