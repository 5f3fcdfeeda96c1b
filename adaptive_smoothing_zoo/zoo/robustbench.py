"""What we need of RobustBench: the addresses of its files, and the module ``autoattack`` without which it fails."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from adaptive_smoothing_zoo.errors import WeightsError

INSTALL = "pip install 'adaptive-smoothing-zoo[robustbench]'"


def drive_ids(model: str, dataset: str, threat_model: str) -> list[str]:
    """The Google Drive ids of a model's files, in RobustBench's order.

    Raises:
        WeightsError: RobustBench is not installed, or has no such model on Google Drive.
    """
    try:
        with _autoattack():
            from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
            from robustbench.model_zoo.models import model_dicts
    except ModuleNotFoundError as error:
        raise WeightsError(f"RobustBench knows where the files of {model} are: {INSTALL} ({error})") from error
    try:
        ids = model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat_model)][model]["gdrive_id"]
    except (KeyError, ValueError):
        ids = None
    if not ids:
        raise WeightsError(f"RobustBench has no model {model!r} for {dataset} {threat_model} on Google Drive")
    return list(ids) if isinstance(ids, list) else [ids]


def autoattack_shim() -> dict[str, ModuleType]:
    """The modules that stand in for ``autoattack``, by name; none if there is one, or nothing to make it of."""
    if "autoattack" in sys.modules or _is_installed("autoattack") or not _is_installed("pyautoattack"):
        return {}
    from adaptive_smoothing_zoo.zoo import stand_in

    return {"autoattack": stand_in, "autoattack.state": stand_in.state}


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextmanager
def _autoattack() -> Iterator[None]:
    """The module ``autoattack`` while RobustBench is imported; nothing of it stays behind."""
    shim = autoattack_shim()
    sys.modules |= shim
    try:
        yield
    finally:
        for name in shim:
            sys.modules.pop(name, None)
