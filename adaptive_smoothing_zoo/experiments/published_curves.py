"""The curves in the authors' ``compare_grad`` notebook, 9 runs on CIFAR-10, read from a file.

The file, ``curves.json``, is not part of this package; ``asz experiment trust-options --published FOLDER`` reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_smoothing_zoo.errors import ResultsError, reason
from adaptive_smoothing_zoo.storage.schema import read_json
from adaptive_smoothing_zoo.threat import L2, LINF, Norm

FILE = "curves.json"
_TARGETS = {"Clean": "clean", "STD": "std", "ADV": "rob", "Comp": "mix"}  # the notebook's names and ours
_NORMS: dict[str, Norm] = {"l_inf": LINF, "l_2": L2}
Curve = tuple[list[float], list[float]]


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """Accuracies (fractions) of one form of [BAKS24 v1, eq. (3)], by the odds of h.

    Attributes:
        title: the authors' name of the form, as "Use SoftMax but no GradNorm".
        nets: the section of the notebook, as "TRADE ConvNeXTT+WRN34 Linf".
        norm: of the attack, with the authors' radius: 8/255 in Linf, 0.5 in L2.
        n: number of test images.
        std_gradient, rob_gradient: whether R_i has the norm of g's gradient as numerator, and of h's as denominator.
        probabilities: whether g and h are probabilities instead of logits.
        g, h: clean and attacked accuracy of each net alone.
        curves: by target ("clean", "std", "rob" or "mix"): log10 of the odds, rising, and the accuracies.
    """

    title: str
    nets: str
    norm: Norm
    n: int
    std_gradient: bool
    rob_gradient: bool
    probabilities: bool
    g: tuple[float, float]
    h: tuple[float, float]
    curves: dict[str, Curve]

    @property
    def is_mix(self) -> bool:
        """Whether it is the mixed classifier: R_i = 1 with probabilities, whose odds are alpha / (1 - alpha)."""
        return self.probabilities and not (self.std_gradient or self.rob_gradient)

    def trade_off(self) -> list[tuple[float, float]]:
        """Clean accuracy, and accuracy after the attack on the mix, at all odds of the latter."""
        odds, attacked = self.curves["mix"]
        clean = np.interp(odds, *self.curves["clean"]).tolist()
        return list(zip(clean, attacked, strict=True))

    def by_alpha(self, target: str) -> Curve:
        """A curve of the mixed classifier against alpha."""
        odds, accuracies = self.curves[target]
        return [1.0 / (1.0 + 10.0**-value) for value in odds], accuracies


def read_published(folder: Path) -> tuple[PublishedRun, ...]:
    """All runs in a folder's ``curves.json``; of two runs with the same form and nets, the later one.

    Raises:
        ResultsError: the file is missing, or holds something else.
    """
    path = folder / FILE
    try:
        runs = [_run(run) for run in read_json(path)]
    except FileNotFoundError:
        raise ResultsError(f"there is no {path}; --published names the folder of the authors' curves") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultsError(f"{path} does not hold the authors' curves: {reason(error)}") from error
    return tuple({(run.nets, run.norm, run.title): run for run in runs}.values())


def _run(run: Mapping[str, Any]) -> PublishedRun:
    settings, base = run["settings"], run["base"]
    flags = dict(re.findall(r'"(\w+)": (True|False)', settings["comp_model_setting"]))
    odds = json.loads(settings["alpha_setting"])
    curves = {
        _TARGETS[name]: (np.linspace(odds["min"], odds["max"], len(values)).tolist(), [v / 100 for v in values])
        for name, values in run["curves"].items()
    }
    return PublishedRun(
        title=settings["title"].strip(),
        nets=run["section"].lstrip("# "),
        norm=_NORMS[settings["pgd_type"]],
        n=int(run["n_test_images"]),
        std_gradient=flags["use_gradnorm_std"] == "True",
        rob_gradient=flags["use_gradnorm_adv"] == "True",
        probabilities=flags["use_sm"] == "True",
        g=(base["STD_Clean"] / 100, base["STD_Attacked"] / 100),
        h=(base["ADV_Clean"] / 100, base["ADV_Attacked"] / 100),
        curves=curves,
    )
