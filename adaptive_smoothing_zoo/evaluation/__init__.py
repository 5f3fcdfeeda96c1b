"""Measuring robustness."""

from adaptive_smoothing_zoo.evaluation.attack_run import Progress
from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation, evaluate, merge
from adaptive_smoothing_zoo.evaluation.radii import evaluate_radii
from adaptive_smoothing_zoo.machine.devices import pick_device

__all__ = ["Evaluation", "Progress", "evaluate", "evaluate_radii", "merge", "pick_device"]
