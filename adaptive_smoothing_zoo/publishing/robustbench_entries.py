"""RobustBench's entries, from its folder ``model_info``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.model_info import ModelInfo, read_model_info
from adaptive_smoothing_zoo.storage.files import file_sha256

logger = logging.getLogger(__name__)

Group = tuple[str, str, float]  # data set, threat model, eps


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files of one data set and threat model, which carry no version.

    Attributes:
        sha256: of what ``sha256sum *.json | LC_ALL=C sort -k2`` prints in their folder.
    """

    n: int
    sha256: str

    @classmethod
    def of(cls, folder: Path) -> Source:
        paths = _files(folder)
        lines = "".join(f"{file_sha256(path)}  {path.name}\n" for path in paths)
        return cls(n=len(paths), sha256=sha256(lines.encode()).hexdigest())


def read_robustbench(model_info: Path, wanted: Collection[Group]) -> Iterator[ModelInfo]:
    """The entries of the wanted data sets, threat models and radii. Files that are none are skipped with a warning.

    Raises:
        ResultsError: there is no entry for any of these data sets and threat models.
    """
    found = 0
    for dataset, threat_model in sorted({group[:2] for group in wanted}):
        for path in _files(model_info / dataset / threat_model):
            try:
                info = read_model_info(path)
            except ResultsError as error:
                logger.warning("skipped: %s", error)
                continue
            found += 1
            if info.group in wanted:
                yield info
            else:
                logger.warning("skipped: %s is at another radius, eps %s", path, info.eps)
    if not found:
        kinds = " or ".join(sorted({f"{dataset}/{threat_model}" for dataset, threat_model, _ in wanted}))
        raise ResultsError(
            f"{model_info} has no entries for {kinds}; name RobustBench's folder model_info, which holds "
            "<dataset>/<threat model>/<name>.json"
        )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"), key=lambda path: path.name)
