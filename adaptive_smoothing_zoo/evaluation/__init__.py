"""Measuring robustness."""

from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation, Progress, evaluate, pick_device

__all__ = ["Evaluation", "Progress", "evaluate", "pick_device"]
