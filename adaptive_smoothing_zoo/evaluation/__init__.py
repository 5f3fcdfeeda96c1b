"""Measuring robustness."""

from adaptive_smoothing_zoo.devices import pick_device
from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation, evaluate, merge
from adaptive_smoothing_zoo.evaluation.run import Progress

__all__ = ["Evaluation", "Progress", "evaluate", "merge", "pick_device"]
