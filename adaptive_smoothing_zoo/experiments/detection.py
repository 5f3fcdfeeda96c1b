"""The mixing network as a detector of attacks: ROC curve and AUC of alpha [BAKS24, supp. C.2]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.losses import cross_entropy, lowering_alpha
from adaptive_smoothing_zoo.attacks.randomized import Randomization, randomized_apgd
from adaptive_smoothing_zoo.attacks.views import GrayBox, WithAlphaLoss
from adaptive_smoothing_zoo.experiments.bench import Bench, Table, TripletExperiment, share
from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTACKS = {
    "std": "PGD on g",
    "rob": "PGD on h",
    "A": "A, gray-box PGD",
    "B": "B, white-box PGD",
    "C": "C, APGD",
    "D": "D, PGD that lowers alpha",
}
RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of false alarms
CHANCE, GOOD = 0.5, 0.9
LOWERING, TARGETS = 0.5, 3  # w of the loss in D; wrong classes that C moves toward


class Detection(TripletExperiment):
    name = "detection"
    question = "Does the mixing network distinguish attacked from clean images?"
    paper = (
        "[BAKS24 v1, section 2.4; supp. C.2]: a detector recognizes the attacks that it is trained with, not "
        "necessarily others; the mixing network recognizes AutoAttack's images with a high success rate. [BAKS24 v1, "
        "section 5.2]: of the attacked images on which h is right, the mix is right on 89 % (CIFAR-100, AutoAttack)."
    )
    values = ("auc", "kept")

    def misfit(self, bench: Bench) -> str:
        if bench.model.alpha.varies:
            return ""
        return "its alpha is a constant and detects nothing; name a triplet with a mixing network"

    def cases(self) -> list[Case]:
        return [{"attack": attack} for attack in ATTACKS]

    def measure(self, bench: Bench, case: Case) -> dict[str, float]:
        """AUC and ROC curve of alpha, attacked against clean images; mean alphas; what the mix keeps of h.

        ``kept``: of the attacked images on which h is right, the share on which the mix is right, too.
        """
        points = _attacked(bench, case["attack"])
        clean, attacked = alpha_logits(bench, bench.images), alpha_logits(bench, points)
        means = [float(bench.model.alpha.alpha(logits.to(bench.device)).mean()) for logits in (clean, attacked)]
        h, mix = bench.correct(bench.mix(1.0), points), bench.correct(bench.model, points)
        values = {"auc": auc(clean, attacked), "clean": means[0], "attacked": means[1]}
        values |= {f"rate_{rate:g}": detected(clean, attacked, rate) for rate in RATES}
        if bool(h.any()):
            values["kept"] = share(mix[h])
        return values

    def draw(self, table: Table, figure: Figure) -> None:
        axes = figure.subplots()
        for row in table.rows:
            rates = [row[f"rate_{rate:g}"] for rate in RATES]
            axes.plot(RATES, rates, ".-", label=f"{ATTACKS[row.case['attack']]}: AUC {row['auc']:.3f}")
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.set_xlabel("share of clean images with as large an alpha")
        axes.set_ylabel("share of attacked images that are detected")
        axes.legend(fontsize="small", loc="center right")

    def summary(self, table: Table) -> str:
        """AUC by attack, detections at 5 % false alarms, mean alphas, and what the mix keeps of h."""
        heads = ("attack", "AUC", "detected at 5 % false alarms", "mean alpha: clean, attacked", "kept of h's")
        rows = [
            (
                ATTACKS[row.case["attack"]],
                f"{row['auc']:.3f}",
                f"{row['rate_0.05']:.1%}",
                f"{row['clean']:.3f}, {row['attacked']:.3f}",
                f"{row['kept']:.1%}",
            )
            for row in table.rows
        ]
        return (
            f"{markdown_table(heads, rows)}\n\nAn attacked image is detected if its alpha is larger than on all but "
            "the given share of the clean images. Images on which the attack fails count, too. In C the number of "
            f"steps is random, {table.steps} on average."
        )

    def agreement(self, table: Table) -> str:
        """Are white-box PGD and APGD detected, is an attack on alpha itself, and does the mix keep as much of h?"""
        found = {row.case["attack"]: row for row in table.rows}
        seen = {
            f"white-box PGD and APGD are detected (AUC of at least {GOOD})": (
                min(found[attack]["auc"] for attack in "BC") >= GOOD
            ),
            "PGD that lowers alpha is detected better than by chance": found["D"]["auc"] > CHANCE,
            "of the images on which h is right after APGD, the mix is right on 89 %": found["C"]["kept"] >= 0.89,
        }
        return verdict(seen)


def alpha_logits(bench: Bench, images: Tensor) -> Tensor:
    """alpha_logit of each image, (N,): grows with alpha, and differs even where alpha rounds to the same number."""
    with torch.no_grad():
        parts = [bench.model.alpha_logit_of(batch.to(bench.device)).cpu() for batch in images.split(bench.batch_size)]
    return torch.cat(parts)


def auc(clean: Tensor, attacked: Tensor) -> float:
    """The share of pairs whose attacked image (M,) has a larger number than the clean one (N,); ties count half."""
    ordered = clean.sort().values
    below, up_to = (torch.searchsorted(ordered, attacked, right=right) for right in (False, True))
    return float((below + up_to).double().mean() / (2 * len(clean)))


def detected(clean: Tensor, attacked: Tensor, rate: float) -> float:
    """The share of attacked images above the lowest threshold with at most this share of clean images above it."""
    ordered = clean.sort(descending=True).values
    allowed = int(rate * len(clean) + 1e-9)
    if allowed == len(clean):
        return 1.0
    return share(attacked > ordered[allowed])


def _attacked(bench: Bench, name: str) -> Tensor:
    model = bench.model
    if name == "D":
        return bench.attack(WithAlphaLoss(model), lowering_alpha(cross_entropy, LOWERING))
    if name == "C":
        return _apgd(bench)
    targets = {"std": bench.mix(0.0), "rob": bench.mix(1.0), "A": GrayBox(model), "B": model}
    return bench.attack(targets[name])


def _apgd(bench: Bench) -> Tensor:
    """The images after the APGD that setting C trains on, with the whole radius."""
    drawn = Randomization(radius_factor=(1.0, 1.0), steps=bench.pgd.steps, alpha_weight=None)
    fast = bench.faster(bench.model)
    found = [
        randomized_apgd(
            fast,
            bench.images[rows].to(bench.device),
            bench.labels[rows].to(bench.device),
            eps=bench.threat.eps,
            norm=bench.threat.norm,
            seed=bench.seed,
            targets=TARGETS if bench.model.entry.num_classes >= 4 else 0,
            indices=rows,
            settings=drawn,
            judge=bench.model,
        ).cpu()
        for rows in torch.arange(len(bench.labels)).split(bench.batch_size)
    ]
    return torch.cat(found)


EXPERIMENT = Detection()
