"""The experiments behind the papers' claims, one file each: ``asz experiment NAME``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.experiments.experiment import Experiment

EXPERIMENTS = {
    "trust-options": "trust_options",
    "alpha-sweep": "alpha_sweep",
    "attack-target": "attack_target",
    "margins": "margins",
    "settings": "training_settings",
    "loss-ablation": "loss_ablation",
    "sigmoid-scale": "sigmoid_scale",
    "alpha-width": "alpha_width",
    "pseudo-labels": "pseudo_labels",
    "oracle-alpha": "oracle_alpha",
    "detection": "detection",
    "train-accuracy": "train_accuracy",
    "trade-off": "trade_off",
    "smoothed-methods": "smoothed_methods",
    "smoothed-mnist": "smoothed_mnist",
    "smoothed-variants": "smoothed_variants",
    "off-class-confidence": "off_class_confidence",
    "confidence-path": "confidence_path",
    "mixing-ratios": "mixing_ratios",
    "local-constants": "local_constants",
    "certified-pareto": "certified_pareto",
    "published-tables": "published_tables",
    "published-ablations": "published_ablations",
    "published-cohen": "published_cohen",
    "published-mix": "published_mix",
    "published-pareto": "published_pareto",
}
"""All experiments: the name on the command line, and the module of this package that holds it as ``EXPERIMENT``."""


def find_experiment(name: str) -> "Experiment[Any, Any]":
    """The experiment of a name in ``EXPERIMENTS``; KeyError for any other name."""
    module = import_module(f"{__name__}.{EXPERIMENTS[name]}")
    return module.EXPERIMENT  # type: ignore[no-any-return]
