"""Base nets: everything that can serve as g or h, one file per family. All files of this folder are imported."""

import importlib
import pkgutil

from adaptive_smoothing_zoo.backbones.architectures import ARCHITECTURES, architecture, build, made_as, remember
from adaptive_smoothing_zoo.backbones.base import BaseNet, stage_info

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ARCHITECTURES", "BaseNet", "architecture", "build", "made_as", "remember", "stage_info"]
