"""Pretrained adaptively smoothed classifiers: load them, attack them, build on them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha, Alpha, ConstantAlpha
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork
from adaptive_smoothing_zoo.method.smoothed_classifier import SmoothedClassifier
from adaptive_smoothing_zoo.plug import register
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.registry import list_models
from adaptive_smoothing_zoo.zoo.shipped_nets import load_base_net
from adaptive_smoothing_zoo.zoo.triplet import Triplet

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.certification.certify import certify
    from adaptive_smoothing_zoo.evaluation.evaluate import evaluate
    from adaptive_smoothing_zoo.tuning.best_mix import tune
    from adaptive_smoothing_zoo.zoo.references import resolve

__version__ = "0.2.0"

__all__ = [
    "AdaptiveAlpha",
    "Alpha",
    "ConstantAlpha",
    "MixedClassifier",
    "MixingNetwork",
    "SmoothedClassifier",
    "ThreatModel",
    "Triplet",
    "certify",
    "evaluate",
    "list_models",
    "load_base_net",
    "load_model",
    "register",
    "resolve",
    "tune",
]

_READ_WHEN_ASKED_FOR = {  # imported on first use: they import much that a model does not need
    "certify": "certification.certify",
    "evaluate": "evaluation.evaluate",
    "resolve": "zoo.references",
    "tune": "tuning.best_mix",
}


def __getattr__(name: str) -> Any:
    if name not in _READ_WHEN_ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_READ_WHEN_ASKED_FOR[name]}"), name)


def _upload(model: Triplet, repo: str, **options: Any) -> str:
    from adaptive_smoothing_zoo.publishing.push import push_model

    return push_model(model, repo, **options).url


MixedClassifier.uploader = _upload
