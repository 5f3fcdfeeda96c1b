"""The Google Drive ids of RobustBench's model zoo, from RobustBench itself."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.plug import autoattack_shim


def drive_ids(model: str, dataset: str, threat_model: str) -> list[str]:
    """The ids of a model's files, in RobustBench's order.

    Raises:
        WeightsError: RobustBench is not installed, or has no such model on Google Drive.
    """
    try:
        with _autoattack():
            from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
            from robustbench.model_zoo.models import model_dicts
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"RobustBench knows where the files of {model} are: pip install 'adaptive-smoothing-zoo[robustbench]' "
            f"({error})"
        ) from error
    try:
        ids = model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat_model)][model]["gdrive_id"]
    except (KeyError, ValueError):
        ids = None
    if not ids:
        raise WeightsError(f"RobustBench has no model {model!r} for {dataset} {threat_model} on Google Drive")
    return list(ids) if isinstance(ids, list) else [ids]


@contextmanager
def _autoattack() -> Iterator[None]:
    """While RobustBench is imported, the module ``autoattack`` that it imports; nothing of it stays behind."""
    shim = autoattack_shim() or {}
    sys.modules |= shim
    try:
        yield
    finally:
        for name in shim:
            sys.modules.pop(name, None)
