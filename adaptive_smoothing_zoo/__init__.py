"""Pretrained adaptively smoothed classifiers: load them, attack them, build on them."""

from typing import Any

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

__version__ = "0.1.0"

__all__ = [
    "AdaptiveAlpha",
    "Alpha",
    "ConstantAlpha",
    "MixedClassifier",
    "MixingNetwork",
    "SmoothedClassifier",
    "ThreatModel",
    "Triplet",
    "list_models",
    "load_base_net",
    "load_model",
    "register",
]


def _upload(model: Triplet, repo: str, **options: Any) -> str:
    from adaptive_smoothing_zoo.publishing.push import push_model

    return push_model(model, repo, **options).url


MixedClassifier.uploader = _upload
