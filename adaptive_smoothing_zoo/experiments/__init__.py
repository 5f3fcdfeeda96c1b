"""The experiments behind the papers' claims, each a command: ``asz experiment NAME``."""

from typing import Any

from adaptive_smoothing_zoo.experiments.alpha_sweep import ALPHA_SWEEP
from adaptive_smoothing_zoo.experiments.attack_target import ATTACK_TARGET
from adaptive_smoothing_zoo.experiments.bench import Bench
from adaptive_smoothing_zoo.experiments.experiment import Experiment
from adaptive_smoothing_zoo.experiments.margins import MARGINS
from adaptive_smoothing_zoo.experiments.table import Row, Table, complete, read_table
from adaptive_smoothing_zoo.experiments.trust_options import TRUST_OPTIONS_EXPERIMENT

EXPERIMENTS: dict[str, Experiment[Any, Any]] = {
    each.name: each for each in (TRUST_OPTIONS_EXPERIMENT, ALPHA_SWEEP, ATTACK_TARGET, MARGINS)
}
"""All experiments by name."""

__all__ = ["EXPERIMENTS", "Bench", "Experiment", "Row", "Table", "complete", "read_table"]
