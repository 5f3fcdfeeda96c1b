"""All rows of [JS21, Table 2], a LeNet on MNIST, in a short form for two cores."""

from __future__ import annotations

from collections.abc import Sequence

from adaptive_smoothing_zoo.experiments.experiment import Case
from adaptive_smoothing_zoo.experiments.smoothed_methods import METHODS, MethodsBench, SmoothedMethods

ROWS = {
    **{method: label for method, label in METHODS.items() if not method.startswith("smoothmix")},
    "smoothmix_eta1": "SmoothMix (eta = 1)",
    "smoothmix_eta1_one_step": "SmoothMix (eta = 1) + one-step adversary",
    "smoothmix": "SmoothMix (eta = 5)",
    "smoothmix_one_step": "SmoothMix (eta = 5) + one-step adversary",
}
_ACR = {
    "0.25": (0.911, 0.915, 0.932, 0.920, 0.928, 0.931, 0.933, 0.932, 0.933),
    "0.5": (1.553, 1.570, 1.687, 1.594, 1.657, 1.678, 1.694, 1.694, 1.685),
    "1": (1.620, 1.634, 1.779, 1.598, 1.740, 1.788, 1.816, 1.820, 1.823),
}
PAPER = {sigma: dict(zip(ROWS, acr, strict=True)) for sigma, acr in _ACR.items()}
PAPER_FOR = {sigma: f"sigma {sigma}" for sigma in PAPER}
SHORT = {  # by sigma: changes to the recipes, which are for 0.25, by kind of loss
    "0.25": {},
    "0.5": {"smoothmix": ("training.loss.step_size=2.0",), "consistency": ("training.loss.weight=5.0",)},
    "1": {
        "smoothmix": ("training.loss.step_size=4.0",),
        "consistency": ("training.loss.weight=5.0",),
        "macer": ("training.loss.weight=6.0",),
    },
}


class MnistBench(MethodsBench):
    """The bench of :class:`SmoothedMnist`."""

    @classmethod
    def asked(cls) -> SmoothedMethods:
        return EXPERIMENT


class SmoothedMnist(SmoothedMethods):
    name = "smoothed-mnist"
    paper = (
        "[JS21, Table 2]: at every sigma a form of SmoothMix has the largest ACR (0.933, 1.694, 1.823). After these "
        "forms and SmoothAdv come Consistency, MACER, Stability and Gaussian, except that MACER is last at sigma 1. "
        "There a LeNet trains for 90 epochs on all images, and n = 100,000."
    )
    bench = MnistBench
    dataset = "mnist"
    methods = ROWS
    sigmas = tuple(PAPER)
    seeds = ("0",)
    published = PAPER
    published_for = PAPER_FOR
    about = (
        "A LeNet, one seed, in a short form for two cores (recipes `smoothed/mnist_*`): every 15th training image, 3 "
        "epochs, half the authors' noise samples, attacks of 2 steps with the total length of the authors'; about six "
        "minutes of one core for each sigma."
    )

    def source(self, case: Case) -> tuple[str, Sequence[str]]:
        kind = case["method"].partition("_")[0]
        return f"mnist_{case['method']}.toml", (f"training.sigma={case['sigma']}", *SHORT[case["sigma"]].get(kind, ()))


EXPERIMENT = SmoothedMnist()
