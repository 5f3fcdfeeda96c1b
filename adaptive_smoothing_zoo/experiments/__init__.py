"""The experiments behind the papers' claims, each a command: ``asz experiment NAME``."""

from typing import Any

from adaptive_smoothing_zoo.experiments.alpha_sweep import ALPHA_SWEEP
from adaptive_smoothing_zoo.experiments.attack_target import ATTACK_TARGET
from adaptive_smoothing_zoo.experiments.bench import Bench
from adaptive_smoothing_zoo.experiments.experiment import Experiment
from adaptive_smoothing_zoo.experiments.loss_ablation import LOSS_ABLATION
from adaptive_smoothing_zoo.experiments.margins import MARGINS
from adaptive_smoothing_zoo.experiments.sigmoid_scale import SIGMOID_SCALE
from adaptive_smoothing_zoo.experiments.table import Row, Table, complete, read_measured, read_table
from adaptive_smoothing_zoo.experiments.training_bench import TrainingBench, TrainingTable
from adaptive_smoothing_zoo.experiments.training_settings import SETTINGS_EXPERIMENT
from adaptive_smoothing_zoo.experiments.trust_options import TRUST_OPTIONS_EXPERIMENT

PLAIN = {each.name: each for each in (TRUST_OPTIONS_EXPERIMENT, ALPHA_SWEEP, ATTACK_TARGET, MARGINS)}
"""Experiments on a triplet as it is, by name; each takes a :class:`Bench`."""

TRAINED = {each.name: each for each in (SETTINGS_EXPERIMENT, LOSS_ABLATION, SIGMOID_SCALE)}
"""Experiments that train mixing networks for a triplet's g and h, by name; each takes a :class:`TrainingBench`."""

EXPERIMENTS: dict[str, Experiment[Any, Any]] = {**PLAIN, **TRAINED}
"""All experiments by name."""

__all__ = [
    "EXPERIMENTS",
    "PLAIN",
    "TRAINED",
    "Bench",
    "Experiment",
    "Row",
    "Table",
    "TrainingBench",
    "TrainingTable",
    "complete",
    "read_measured",
    "read_table",
]
