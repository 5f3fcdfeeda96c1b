"""The certified curves of [CRK19] on CIFAR-10 from published logs, also with noise that nets were not trained with."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.published_logs import (
    COHEN_LOGS,
    RADII,
    LogsBench,
    LogsExperiment,
    LogsTable,
    column,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OWN = "locuslab+smoothing/data/certify/cifar10/resnet110"
OTHER = {trained: f"{_OWN}/noise_{trained}/test/sigma_0.50" for trained in COHEN_LOGS}  # every 20th image
BEST = (61, 43, 32, 22, 17, 13)  # %, of the best of the four at 0.25, 0.5, ..., as printed in [SLR19]


class PublishedCohen(LogsExperiment):
    name = "published-cohen"
    question = "What can be certified of nets smoothed with different Gaussian noise?"
    paper = (
        "[CRK19]: a larger sigma certifies larger radii and costs accuracy, so every sigma is best at some radius; a "
        "net is best certified with the noise that it was trained with. [SLR19]: the best certified accuracies of "
        f"these nets at radii 0.25 to 1.5 are {', '.join(map(str, BEST))} %."
    )
    values = ("acr", *map(column, RADII))
    size = (9, 4)

    def cases(self) -> list[Case]:
        own = [{"trained": sigma, "sigma": sigma} for sigma in COHEN_LOGS]
        return own + [{"trained": trained, "sigma": "0.50, every 20th image"} for trained in OTHER]

    def measure(self, bench: LogsBench, case: Case) -> dict[str, float]:
        logs = COHEN_LOGS if case["sigma"] == case["trained"] else OTHER
        return bench.logs.summary(logs[case["trained"]])

    def draw(self, table: LogsTable, figure: Figure) -> None:
        """Draw one panel for nets with their own noise, and one for noise of 0.5."""
        for axes, rows in zip(figure.subplots(1, 2, sharey=True), _halves(table), strict=True):
            for row in rows:
                accuracies = [100 * row[column(radius)] for radius in RADII]
                axes.plot(RADII, accuracies, ".-", label=f"trained with {row.case['trained']}")
            axes.set_xlabel("l_2 radius")
            axes.legend(fontsize="small")
        figure.axes[0].set_title("certified with the same sigma", fontsize="small")
        figure.axes[1].set_title("certified with sigma 0.5", fontsize="small")
        figure.axes[0].set_ylabel("certified accuracy, %")

    def summary(self, table: LogsTable) -> str:
        shown = RADII[:8]
        rows = [
            (
                row.case["trained"],
                row.case["sigma"],
                f"{row['acr']:.3f}",
                *(f"{100 * row[column(radius)]:.1f}" for radius in shown),
            )
            for row in table.rows
        ]
        own, _ = _halves(table)
        best = [100 * max(row[column(radius)] for row in own) for radius in shown]
        rows.append(("best of the first four", "", "", *(f"{value:.1f}" for value in best)))
        heads = ("trained with sigma", "certified with sigma", "ACR", *(f"{radius:g}" for radius in shown))
        return "ResNet-110 on CIFAR-10; certified accuracy (%) at l_2 radii:\n\n" + markdown_table(heads, rows)

    def agreement(self, table: LogsTable) -> str:
        own, other = _halves(table)
        best = [100 * max(row[column(radius)] for row in own) for radius in RADII[1:7]]
        winners = {max(own, key=lambda row: row[column(radius)]).case["trained"] for radius in RADII[:8]}
        return verdict(
            {
                "accuracy falls with sigma": _falling([row[column(0.0)] for row in own]),
                "every sigma is best at some radius": len(winners) == len(own),
                "the best accuracies round to the printed ones": [round(value) for value in best] == list(BEST),
                "at sigma 0.5 the net that was trained with it has the largest ACR": max(
                    other, key=lambda row: row["acr"]
                ).case["trained"]
                == "0.50",
            }
        )


def _halves(table: LogsTable) -> tuple[list[Row], list[Row]]:
    """The rows of nets with the noise that they were trained with, and those with sigma 0.5."""
    own = [row for row in table.rows if row.case["sigma"] == row.case["trained"]]
    return own, [row for row in table.rows if row not in own]


def _falling(values: list[float]) -> bool:
    return all(before > after for before, after in pairwise(values))


EXPERIMENT = PublishedCohen()
