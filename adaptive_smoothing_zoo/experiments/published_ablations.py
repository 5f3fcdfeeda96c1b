"""The ablation curves [JS21, Fig. 6 and 7] from the logs that the authors published, or summaries of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.published_logs import (
    RADII,
    SUMMARIES,
    LogsBench,
    LogsExperiment,
    LogsTable,
    column,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ABLATION = "jh-jeong+smoothmix/data/certify/ablation"
LOGS = {  # by figure: label and log
    "eta": {eta: f"{_ABLATION}/eta/smix_1.0_8_m0/tau_{eta}.0/num_4/*/noise_1.0" for eta in ("1", "2", "4", "8", "16")},
    "alpha, T": {
        f"{step}, {steps}": f"{_ABLATION}/alphat/smix_{step}.0_{steps}_m0/tau_1.0/num_4/*/noise_1.0"
        for step, steps in ((1, 8), (2, 4), (4, 2), (8, 1))
    },
    "eps": {
        **{
            str(eps): f"{_ABLATION}/restriction/smix_1.0_8_m0_max{eps}.0/tau_1.0/num_4/*/noise_1.0"
            for eps in (2, 4, 6, 8)
        },
        "inf": f"{_ABLATION}/restriction/smix_1.0_8_m0/tau_1.0/num_4/*/noise_1.0",
    },
    "m": {m: f"{_ABLATION}/m/smix_1.0_8_m0/tau_1.0/num_{m}/*/noise_1.0" for m in ("1", "2", "4", "8")},
}
FIGURES = {"eta": "Fig. 6", "alpha, T": "Fig. 7(a)", "eps": "Fig. 7(b)", "m": "Fig. 7(c)"}


class PublishedAblations(LogsExperiment):
    name = "published-ablations"
    question = "How do weight, steps, a hard restriction and the number of noise samples affect SmoothMix?"
    paper = (
        "[JS21, Fig. 6 and 7], MNIST at sigma 1: a larger eta trades accuracy for robustness; with alpha T fixed at 8, "
        "alpha and T hardly matter; a hard restriction of the adversarial examples costs robustness; more noise "
        "samples (m) help a little."
    )
    values = ("acr", SUMMARIES)
    size = (12, 3.6)

    def cases(self) -> list[Case]:
        return [{"varied": varied, "value": value} for varied, logs in LOGS.items() for value in logs]

    def measure(self, bench: LogsBench, case: Case) -> dict[str, float]:
        """ACR and certified accuracy of the published run; no numbers without its log or a summary of it."""
        found = bench.logs.matching(LOGS[case["varied"]][case["value"]])
        if not found:
            return {}
        return bench.logs.summary(found[0]) | {SUMMARIES: float(not bench.logs.has(found[0]))}

    def draw(self, table: LogsTable, figure: Figure) -> None:
        for axes, (varied, values) in zip(figure.subplots(1, len(LOGS), sharey=True), LOGS.items(), strict=True):
            for value in values:
                row = table.row(varied=varied, value=value)
                radii = [radius for radius in RADII if column(radius) in row.values]
                axes.plot(radii, [100 * row[column(radius)] for radius in radii], ".-", label=f"{varied} = {value}")
            axes.set_title(FIGURES[varied], fontsize="small")
            axes.set_xlabel("l_2 radius")
            axes.legend(fontsize="x-small")
        figure.axes[0].set_ylabel("certified accuracy, %")

    def summary(self, table: LogsTable) -> str:
        radii = [radius for radius in RADII if all(column(radius) in row.values for row in table.rows)]
        rows = [
            (
                FIGURES[row.case["varied"]],
                f"{row.case['varied']} = {row.case['value']}",
                f"{row['acr']:.3f}",
                *(f"{100 * row[column(radius)]:.1f}" for radius in radii),
            )
            for row in table.rows
        ]
        heads = ("figure", "run", "ACR", *(f"{radius:g}" for radius in radii))
        return "A LeNet on MNIST, sigma 1; certified accuracy (%) at l_2 radii:\n\n" + markdown_table(heads, rows)

    def agreement(self, table: LogsTable) -> str:
        def acr(varied: str, value: str) -> float:
            return table.row(varied=varied, value=value)["acr"]

        alpha_t, eps = ([acr(varied, value) for value in LOGS[varied]] for varied in ("alpha, T", "eps"))
        clean = [table.row(varied="eta", value=value)[column(0.0)] for value in LOGS["eta"]]
        text = verdict(
            {
                "clean accuracy falls with eta": all(a > b for a, b in pairwise(clean)),
                "ACR is larger for every eta above 1": all(
                    acr("eta", eta) > acr("eta", "1") for eta in LOGS["eta"] if eta != "1"
                ),
                "alpha and T at alpha T = 8 change ACR by less than 0.01": max(alpha_t) - min(alpha_t) < 0.01,
                "ACR grows with the restriction's radius, and is largest without": all(a < b for a, b in pairwise(eps)),
                "more noise samples than one help": acr("m", "1") < min(acr("m", m) for m in ("2", "4", "8")),
            }
        )
        best = max(LOGS["eta"], key=lambda eta: acr("eta", eta))
        return f"{text} Of eta {', '.join(LOGS['eta'])}, ACR is largest at {best}."


EXPERIMENT = PublishedAblations()
