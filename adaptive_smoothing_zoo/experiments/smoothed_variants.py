"""Variants of SmoothMix and SmoothAdv side by side, and PREDICT next to CERTIFY; a small form of [JS21, Fig. 7(b)]."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from adaptive_smoothing_zoo.certification.predicting import predict_examples
from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table
from adaptive_smoothing_zoo.experiments.smoothed_methods import MethodsBench, MethodsTable, SmoothedMethods, numbers_of
from adaptive_smoothing_zoo.experiments.smoothed_mnist import SHORT

SIGMA = "1"  # of [JS21, Fig. 7(b)]
CHANGES: dict[str, tuple[str, tuple[str, ...]]] = {  # by variant: recipe, and changes to it
    "smoothmix_eta1": ("smoothmix_eta1", ()),
    "max_norm_2": ("smoothmix_eta1", ("training.loss.max_norm=2.0",)),
    "max_norm_4": ("smoothmix_eta1", ("training.loss.max_norm=4.0",)),
    "printed": ("smoothmix_eta1", ("training.loss.printed=true", "training.loss.warm_up=0")),
    "smoothadv": ("smoothadv", ()),
    "smoothadv_ddn": ("smoothadv", ("training.loss.search='ddn'",)),
}
VARIANTS = {
    "smoothmix_eta1": "SmoothMix (eta = 1)",
    "max_norm_2": "SmoothMix, search within eps = 2",
    "max_norm_4": "SmoothMix, search within eps = 4",
    "printed": "SmoothMix as printed (eq. 11)",
    "smoothadv": "SmoothAdv, PGD",
    "smoothadv_ddn": "SmoothAdv, DDN",
}
# ACR of the published runs of [JS21, Fig. 7(b)], and of SmoothAdv in [JS21, Table 2]
PAPER = {SIGMA: {"smoothmix_eta1": 1.789, "max_norm_2": 1.723, "max_norm_4": 1.751, "smoothadv": 1.779}}
PAPER_FOR = {SIGMA: "sigma 1"}
VOTES = ("certify_abstained", "predicted", "predict_abstained")


class VariantsBench(MethodsBench):
    """The bench of :class:`SmoothedVariants`."""

    @classmethod
    def asked(cls) -> SmoothedMethods:
        return EXPERIMENT


class SmoothedVariants(SmoothedMethods):
    name = "smoothed-variants"
    question = "Do variants of SmoothMix and of SmoothAdv certify less, and what does PREDICT answer?"
    paper = (
        "[JS21, Fig. 7(b)], MNIST at sigma 1: a hard restriction of SmoothMix's search to an l_2 ball costs "
        "robustness. The authors' code has a divergence, a factor for correct images and a warm-up that eq. 11 does "
        "not have; the paper does not compare the two. [SLR19] searches with PGD and with DDN. [CRK19] has PREDICT "
        "next to CERTIFY."
    )
    values = (*SmoothedMethods.values, *VOTES)
    bench = VariantsBench
    dataset = "mnist"
    methods = VARIANTS
    sigmas = (SIGMA,)
    published = PAPER
    published_for = PAPER_FOR
    about = (
        "A LeNet, mean of 3 seeds, in the short form of `smoothed-mnist`: every 15th training image, 3 epochs, half "
        "the authors' noise samples, attacks of 2 steps with the total length of the authors'. Its warm-up of one "
        "epoch changes nothing, so SmoothMix as printed differs by the cross-entropy and the factor alone."
    )

    def source(self, case: Case) -> tuple[str, Sequence[str]]:
        recipe, changes = CHANGES[case["method"]]
        kind = recipe.partition("_")[0]
        return f"mnist_{recipe}.toml", (f"training.sigma={SIGMA}", *SHORT[SIGMA].get(kind, ()), *changes)

    def measure(self, bench: MethodsBench, case: Case) -> dict[str, float]:
        """The numbers of ``smoothed-methods``, how often CERTIFY abstains, and PREDICT with as many samples."""
        certificates, examples = bench.certificates(case), bench.examples()
        predicted = predict_examples(bench.net(case), examples.images, examples.labels, **bench.settings(case))
        return {
            **numbers_of(certificates, float(case["sigma"])),
            "certify_abstained": float(certificates.abstained.mean()),
            "predicted": float(predicted.correct.mean()),
            "predict_abstained": float(predicted.abstained.mean()),
        }

    def summary(self, table: MethodsTable) -> str:
        """The table of ``smoothed-methods``, then CERTIFY's and PREDICT's answers."""
        heads = ("method", "CERTIFY right", "abstains", "PREDICT right", "abstains")
        names = ("certified_0", "certify_abstained", "predicted", "predict_abstained")
        rows = [
            (label, *(f"{100 * mean(row[name] for row in table.where(method=method)):.2f}" for name in names))
            for method, label in self.methods.items()
        ]
        return (
            f"{super().summary(table)}\n\nAnswers of CERTIFY at radius 0 and of PREDICT, with the same number of "
            f"samples and failure probability, %:\n\n{markdown_table(heads, rows)}"
        )

    def agreement(self, table: MethodsTable) -> str:
        """The order of the rows with a published ACR; PREDICT against CERTIFY."""
        more = sum(row["predicted"] >= row["certified_0"] for row in table.rows)
        return (
            f"{super().agreement(table)}\n\nPREDICT is right on at least as many images as CERTIFY at radius 0 for "
            f"{more} of {len(table.rows)} nets. It certifies no radius."
        )


EXPERIMENT = SmoothedVariants()
