"""Estimated local Lipschitz constants of h's probabilities, next to proven ones [BAS24, after Theorem 4]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification import certify_lipschitz, estimate_local_lipschitz
from adaptive_smoothing_zoo.certification.bounds.theorem4 import lipschitz_radius, softmax_lipschitz
from adaptive_smoothing_zoo.certification.local_lipschitz import LocalLipschitzEstimate
from adaptive_smoothing_zoo.certification.mixes import logits_lipschitz
from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment
from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, not_answered, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = ("0.55", "0.6", "0.7", "0.8", "0.9", "0.95", "1")
LABELS = {"estimated": "Theorem 4, estimated constants", "attacked": "right after PGD", "certified": "certified"}


class LocalConstants(TripletExperiment):
    name = "local-constants"
    question = "What would the mix's robust radius be with local Lipschitz constants that an attack estimates?"
    paper = (
        "[BAS24, after Theorem 4]: constants on a ball around an image may replace global ones; an ascent like PGD "
        "estimates them [YRZSC20], and those of probabilities are far smaller than those of logits. The authors give "
        "no numbers."
    )
    values = ("estimated", "attacked", "constant")

    def cases(self) -> list[Case]:
        return [{"alpha": alpha} for alpha in ALPHAS]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """Shares of images at the radius eps, and constants.

        ``estimated``: h is right and Theorem 4 with the estimated constants gives at least eps, which proves nothing.
        ``attacked``: the mix is right after PGD. ``certified``: by Theorem 4, if h proves a constant in this norm.
        ``constant``: the largest estimate over the classes, mean over images; ``largest``: the largest of all;
        ``proven``: the constant that h proves.
        """
        alpha = float(case["alpha"])
        found = bench.once("constants", lambda: _estimates(bench))
        right = found.probabilities.argmax(axis=1) == bench.labels.numpy()
        radius = lipschitz_radius(found.probabilities, alpha, found.constants)
        mix = bench.mix(alpha)
        values = {
            "estimated": float((right & (radius >= bench.threat.eps)).mean()),
            "attacked": bench.accuracy(mix, bench.attack(mix)),
            "constant": float(found.constants.max(axis=1).mean()),
        }
        h = bench.model.rob_model
        if isinstance(h, LipschitzNet) and not bench.threat.is_linf:
            certificates = certify_lipschitz(mix, bench.images, bench.labels)
            values["certified"] = float(certificates.certified_accuracy([bench.threat.eps])[0])
            values["proven"] = float(softmax_lipschitz(logits_lipschitz(h, bench.model.rob_map)))
            values["largest"] = float(found.constants.max())
        return values

    def draw(self, table: Table, figure: Figure) -> None:
        axes = figure.subplots()
        for name, label in LABELS.items():
            alphas, shares = table.curve("alpha", name)
            axes.plot(alphas, [100 * share for share in shares], ".-", label=label)
        axes.set_xlabel(r"$\alpha$")
        axes.set_ylabel(f"images at radius {table.eps}, %")
        axes.legend()

    def summary(self, table: Table) -> str:
        rows = [(row.case["alpha"], *(_percent(row[name]) for name in LABELS)) for row in table.rows]
        first = table.rows[0]
        proven = f"; proven for all images: {first['proven']:.3g}" if np.isfinite(first["proven"]) else ""
        return (
            f"Largest estimated constant of a class, mean over images: {first['constant']:.3g}{proven}. An estimate is "
            "at most the true constant, so a radius that follows from it may be too large and is no certificate. "
            f"Images (%) at radius {table.eps}:\n\n" + markdown_table(("alpha", *LABELS.values()), rows)
        )

    def agreement(self, table: Table) -> str:
        if not np.isfinite(table.rows[0]["proven"]):
            return not_answered("nothing is proven of this h to compare the estimates with")
        return verdict(
            {
                "no estimated constant exceeds the proven one": all(
                    row["largest"] <= row["proven"] for row in table.rows
                ),
                "no more is certified than the estimates say": all(
                    row["certified"] <= row["estimated"] for row in table.rows
                ),
                "PGD breaks no share that is certified": all(row["certified"] <= row["attacked"] for row in table.rows),
            }
        )


def _estimates(bench: Bench) -> LocalLipschitzEstimate:
    arguments = {"steps": bench.pgd.steps, "restarts": 1, "seed": bench.seed, "batch_size": bench.batch_size}
    return estimate_local_lipschitz(bench.mix(1.0), bench.images.to(bench.device), bench.threat, **arguments)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if np.isfinite(share) else "not known"


EXPERIMENT = LocalConstants()
