"""Measuring robustness."""

from adaptive_smoothing_zoo.evaluation.attack_run import Progress
from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation, evaluate, merge
from adaptive_smoothing_zoo.machine.devices import pick_device

__all__ = ["Evaluation", "Progress", "evaluate", "merge", "pick_device"]
