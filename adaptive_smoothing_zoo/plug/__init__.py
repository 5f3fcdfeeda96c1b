"""How RobustBench and timm reach our models.

Neither looks for plug-ins by itself, so a program calls ``adaptive_smoothing_zoo.register()`` once.
"""

import importlib.util
import sys
from types import ModuleType


def register() -> None:
    """Make ``robustbench.load_model`` and ``timm.create_model`` return the triplets of the zoo.

    - Every entry is registered with timm as ``<name>_<dataset>_<threat>`` (lower case). RobustBench asks timm for such
      a name first, so its own ``load_model(name, dataset, threat_model)`` then gives our module for CIFAR entries.
    - Where no module ``autoattack`` is installed, RobustBench, which imports it, gets one made of pyautoattack, which
      is what RobustBench 1.1.1 installs; see :mod:`adaptive_smoothing_zoo.plug.stand_in`. An installed
      ``autoattack`` is left alone.

    Calling it again changes nothing. It does not import RobustBench.
    """
    from adaptive_smoothing_zoo.plug.timm_models import register_timm_models

    register_timm_models()
    if (shim := autoattack_shim()) is not None:
        sys.modules |= shim


def autoattack_shim() -> dict[str, ModuleType] | None:
    """The modules that stand in for ``autoattack``, by name; None if there is one, or nothing to make it of."""
    if "autoattack" in sys.modules or _is_installed("autoattack") or not _is_installed("pyautoattack"):
        return None
    from adaptive_smoothing_zoo.plug import stand_in as autoattack

    return {"autoattack": autoattack, "autoattack.state": autoattack.state}


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
