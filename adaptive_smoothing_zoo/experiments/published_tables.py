"""[JS21, Tables 2 and 3] from logs that authors published, or summaries of them: ACR, certified accuracy at radii."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING

from adaptive_smoothing_zoo.experiments.experiment import Case, Row, markdown_table, verdict
from adaptive_smoothing_zoo.experiments.published_logs import (
    COHEN_LOGS,
    RADII,
    SUMMARIES,
    LogsBench,
    LogsExperiment,
    LogsTable,
    column,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MNIST = "jh-jeong+smoothmix/data/certify/mnist"
_MIX = f"{_MNIST}/smoothmix/smix_1.0"
_REGULAR = "jh-jeong+smoothing-consistency/data/certify/cifar10"
_CIFAR = "jh-jeong+smoothmix/data/certify/cifar10"
_ADV = (
    "Hadisalman+smoothing-adversarial/data/certify/best_models/cifar10/ours/cifar10/PGD_10steps_multiNoiseSamples/"
    "4-multitrain/eps_255/cifar10/resnet110/noise_0.25/test/sigma_0.25"
)
ONE_STEP = "+ one-step adversary"
# Table, sigma, row, pattern of the logs, and the row as printed: ACR, then certified accuracy (%) at RADII.
PRINTED = """
2 | 0.25 | Gaussian | {mnist}/cohen/noise_0.25_* | 0.911 99.2 98.5 96.7 93.3
2 | 0.25 | Stability | {mnist}/stab/lbd_2/noise_0.25_* | 0.915 99.3 98.6 97.1 93.8
2 | 0.25 | SmoothAdv | {mnist}/salman/pgd_255.0_10_10/num_4/noise_0.25_* | 0.932 99.4 99.0 98.2 96.8
2 | 0.25 | MACER | {mnist}/macer_deferred30/*/*/*/*/noise_0.25_* | 0.920 99.3 98.7 97.5 94.8
2 | 0.25 | Consistency | {mnist}/consistency/cohen/num_2/lbd_10.0/*/noise_0.25* | 0.928 99.5 98.9 98.0 96.0
2 | 0.25 | SmoothMix, eta = 1 | {mix}_3_m0/tau_1.0/num_4/0/noise_0.25 | 0.931 99.5 98.9 98.2 96.4
2 | 0.25 | {one}, eta = 1 | {mix}_3_m1/tau_1.0/num_4/0/noise_0.25 | 0.933 99.4 99.0 98.2 96.9
2 | 0.25 | SmoothMix, eta = 5 | {mix}_2_m0/tau_5.0/num_4/0/noise_0.25 | 0.932 99.4 99.0 98.2 96.7
2 | 0.25 | {one}, eta = 5 | {mix}_2_m1/tau_5.0/num_4/0/noise_0.25 | 0.933 99.3 99.0 98.2 97.0
2 | 0.5 | Gaussian | {mnist}/cohen/noise_0.50_* | 1.553 99.2 98.3 96.8 94.3 89.7 81.9 67.3
2 | 0.5 | Stability | {mnist}/stab/lbd_2/noise_0.5_* | 1.570 99.2 98.5 97.1 94.8 90.7 83.2 69.2
2 | 0.5 | SmoothAdv | {mnist}/salman/pgd_255.0_10_10/num_4/noise_0.50_* | 1.687 99.0 98.3 97.3 95.8 93.2 88.5 81.1
2 | 0.5 | MACER | {mnist}/macer_deferred30/*/*/*/*/noise_0.50_* | 1.594 98.5 97.5 96.2 93.7 90.0 83.7 72.2
2 | 0.5 | Consistency | {mnist}/consistency/cohen/num_2/lbd_5.0/*/noise_0.50* | 1.657 99.2 98.6 97.6 95.9 93.0 87.8 78.5
2 | 0.5 | SmoothMix, eta = 1 | {mix}_4_m0/tau_1.0/num_4/0/noise_0.5 | 1.678 99.0 98.4 97.4 95.7 93.0 88.1 80.0
2 | 0.5 | {one}, eta = 1 | {mix}_4_m1/tau_1.0/num_4/0/noise_0.5 | 1.694 98.8 98.1 97.1 95.3 92.7 88.3 81.7
2 | 0.5 | SmoothMix, eta = 5 | {mix}_4_m0/tau_5.0/num_4/0/noise_0.5 | 1.694 98.7 98.0 97.0 95.3 92.7 88.5 81.8
2 | 0.5 | {one}, eta = 5 | {mix}_4_m1/tau_5.0/num_4/0/noise_0.5 | 1.685 98.2 97.5 96.3 94.5 91.3 87.4 81.0
2 | 1 | Gaussian | {mnist}/cohen/noise_1.00_* | 1.620 96.3 94.4 91.4 86.8 79.8 70.9 59.4
2 | 1 | Stability | {mnist}/stab/lbd_2/noise_1.0_* | 1.634 96.5 94.6 91.6 87.2 80.7 71.7 60.5
2 | 1 | SmoothAdv | {mnist}/salman/pgd_255.0_10_10/num_4/noise_1.00_* | 1.779 95.8 93.9 90.6 86.5 80.8 73.7 64.6
2 | 1 | MACER | {mnist}/macer_deferred30/*/*/*/*/noise_1.00_* | 1.598 91.6 88.1 83.5 77.7 71.1 63.7 55.7
2 | 1 | Consistency | {mnist}/consistency/cohen/num_2/lbd_5.0/*/noise_1.00* | 1.740 95.0 93.0 89.7 85.4 79.7 72.7 63.6
2 | 1 | SmoothMix, eta = 1 | {mix}_8_m0/tau_1.0/num_4/0/noise_1.0 | 1.788 95.5 93.5 90.5 86.2 80.6 73.4 64.3
2 | 1 | {one}, eta = 1 | {mix}_8_m1/tau_1.0/num_4/0/noise_1.0 | 1.816 94.7 92.4 89.2 84.6 79.4 72.5 64.0
2 | 1 | SmoothMix, eta = 5 | {mix}_8_m0/tau_5.0/num_4/0/noise_1.0 | 1.820 93.7 91.6 88.1 83.5 77.9 70.9 62.7
2 | 1 | {one}, eta = 5 | {mix}_8_m1/tau_5.0/num_4/0/noise_1.0 | 1.823 93.3 90.9 87.5 83.0 77.5 70.6 62.7
3 | 0.25 | Gaussian | {cohen_25} | 0.424 76.6 61.2 42.2 25.1
3 | 0.25 | SmoothAdv | {adv} | 0.544 73.4 65.6 57.0 47.5
3 | 0.25 | Consistency | {regular}/lbd_20.0/*/cifar_resnet110/noise_0.25 | 0.552 75.8 67.6 58.1 46.7
3 | 0.25 | SmoothMix | {cifar}/smoothmix/noise_0.25 | 0.553 77.1 67.9 57.9 46.7
3 | 0.25 | {one} | {cifar}/smoothmix/noise_0.25_adv | 0.548 74.2 66.1 57.4 47.7
3 | 0.5 | Gaussian | {cohen_50} | 0.525 65.7 54.9 42.8 32.5 22.0 14.1 8.3 3.9
3 | 0.5 | Consistency | {regular}/lbd_10.0/*/cifar_resnet110/noise_0.50 | 0.720 64.3 57.5 50.6 43.2 36.2 29.5 22.8 16.1
3 | 0.5 | SmoothMix | {cifar}/smoothmix/noise_0.5 | 0.715 65.0 56.7 49.2 41.2 34.5 29.6 23.5 18.1
3 | 0.5 | {one} | {cifar}/smoothmix/noise_0.5_adv | 0.737 61.8 55.9 49.5 43.3 37.2 31.7 25.7 19.8
"""
HALF = 0.5 + 1e-6  # of the last printed digit: a number this close rounds to the printed one


def printed_rows() -> dict[tuple[str, str, str], tuple[str, list[float]]]:
    """The pattern of the logs and the printed numbers (ACR, then %), by table, sigma and row."""
    places = {
        "mnist": _MNIST,
        "mix": _MIX,
        "cifar": _CIFAR,
        "regular": f"{_REGULAR}/consistency/cohen/num_2",
        "adv": _ADV,
        "one": ONE_STEP,
        "cohen_25": COHEN_LOGS["0.25"],
        "cohen_50": COHEN_LOGS["0.50"],
    }
    rows = {}
    for line in PRINTED.format(**places).strip().splitlines():
        table, sigma, name, pattern, numbers = (part.strip() for part in line.split("|"))
        rows[table, sigma, name] = (pattern, [float(number) for number in numbers.split()])
    return rows


ROWS = printed_rows()


class PublishedTables(LogsExperiment):
    name = "published-tables"
    question = "Do the runs that the authors published give the numbers of [JS21, Tables 2 and 3]?"
    paper = (
        "[JS21, Tables 2 and 3]: ACR and certified accuracy on all test images of MNIST and CIFAR-10, by training "
        "method; at every sigma a form of SmoothMix has the largest ACR."
    )
    values = ("acr", "runs", SUMMARIES, "off")
    size = (11, 4)

    def cases(self) -> list[Case]:
        return [{"table": table, "sigma": sigma, "row": row} for table, sigma, row in ROWS]

    def measure(self, bench: LogsBench, case: Case) -> dict[str, float]:
        """Means over the published runs, and how far the closest run is from the printed row; empty without runs.

        ``off`` is the largest difference, in units of the last printed digit (0.001 of ACR, 0.1 points); at most 1/2 if
        the run rounds to the row.
        """
        pattern, printed = ROWS[case["table"], case["sigma"], case["row"]]
        paths = bench.logs.matching(pattern)
        runs = [bench.logs.summary(path) for path in paths]
        if not runs:
            return {}
        names = [name for name in runs[0] if all(name in run for run in runs)]
        means = {name: mean(run[name] for run in runs) for name in names}
        summaries = sum(not bench.logs.has(path) for path in paths)
        off = min(_off(run, printed) for run in runs)
        return {**means, "runs": float(len(runs)), SUMMARIES: float(summaries), "off": off}

    def draw(self, table: LogsTable, figure: Figure) -> None:
        """Draw certified accuracy against radius, a panel for each table and sigma [JS21, Fig. 4 and 5]."""
        panels = list(dict.fromkeys((t, sigma) for t, sigma, _ in ROWS))
        for axes, (number, sigma) in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
            for row in table.where(table=number, sigma=sigma):
                radii = [radius for radius in RADII if column(radius) in row.values]
                axes.plot(radii, [100 * row[column(radius)] for radius in radii], label=row.case["row"], linewidth=1)
            axes.set_title(f"{'MNIST' if number == '2' else 'CIFAR-10'}, sigma {sigma}", fontsize="small")
            axes.set_xlabel("l_2 radius")
        figure.axes[0].set_ylabel("certified accuracy, %")
        figure.axes[2].legend(fontsize="x-small")

    def summary(self, table: LogsTable) -> str:
        """Every row: as printed, as published, and how far the closest run is from the printed one."""
        rows = []
        for row in table.rows:
            _, printed = ROWS[row.case["table"], row.case["sigma"], row.case["row"]]
            shown = [f"{row['acr']:.3f}", *(f"{100 * row[column(radius)]:.1f}" for radius in RADII[: len(printed) - 1])]
            rows.append(
                (
                    *row.case.values(),
                    " ".join([f"{printed[0]:.3f}", *(f"{number:.1f}" for number in printed[1:])]),
                    " ".join(shown),
                    f"{row['runs']:g}",
                    "summary" if row[SUMMARIES] else "log",
                    "yes" if row["off"] <= HALF else f"no, {row['off']:.1f}",
                )
            )
        heads = (
            "table",
            "sigma",
            "row",
            "printed",
            "published, mean of the runs",
            "runs",
            "source",
            "one run gives the row",
        )
        return (
            "ACR, then certified accuracy (%) at l_2 radii 0, 0.25, .... After 'no': how far the closest run is off, "
            "in units of the last printed digit. No logs are published of a ResNet-110 with Stability or MACER, nor "
            "of SmoothAdv's run at sigma 0.5; MNIST is compared up to radius 1.5.\n\n" + markdown_table(heads, rows)
        )

    def agreement(self, table: LogsTable) -> str:
        given = [row for row in table.rows if row["off"] <= HALF]
        ours = [row for row in table.rows if _is_smoothmix(row)]
        missed = [row for row in ours if row not in given]
        leads = acr_leads(table)
        text = verdict(
            {
                f"all {len(ours)} rows of SmoothMix come out of one published run, digit by digit": not missed,
                "at every sigma a form of SmoothMix has the largest ACR": all(lead > 0 for lead in leads.values()),
            }
        )
        names = ", ".join(f"{row.case['row']} (Table {row.case['table']}, sigma {row.case['sigma']})" for row in missed)
        (number, sigma), lead = min(leads.items(), key=lambda item: item[1])
        return (
            f"{text} {len(given)} of {len(table.rows)} rows come out of one published run, and of SmoothMix's rows "
            f"{len(ours) - len(missed)} of {len(ours)}{', all but ' + names if missed else ''}. For other rows no "
            "published run is the printed one. SmoothMix's lead in ACR over the other methods in the table above is "
            f"smallest in Table {number} at sigma {sigma}: {lead:.4f}. At sigma 0.25 the logs behind the rows with "
            "eta = 1 have T = 3 steps, as in the authors' commands; the text has T = 2."
        )


def _is_smoothmix(row: Row) -> bool:
    return "SmoothMix" in row.case["row"] or ONE_STEP in row.case["row"]


def acr_leads(table: LogsTable) -> dict[tuple[str, str], float]:
    """The largest ACR of a form of SmoothMix minus the largest of another method, by table and sigma."""
    leads = {}
    for number, sigma in dict.fromkeys((number, sigma) for number, sigma, _ in ROWS):
        rows = list(table.where(table=number, sigma=sigma))
        ours, others = ([row["acr"] for row in rows if _is_smoothmix(row) == is_ours] for is_ours in (True, False))
        leads[number, sigma] = max(ours) - max(others)
    return leads


def _off(run: dict[str, float], printed: list[float]) -> float:
    """The largest difference between a run and a printed row, in units of the last printed digit."""
    differences = [1000 * abs(run["acr"] - printed[0])]
    for radius, number in zip(RADII, printed[1:], strict=False):
        if column(radius) not in run:  # the index ends at a smaller radius
            continue
        differences.append(10 * abs(100 * run[column(radius)] - number))
    return max(differences)


EXPERIMENT = PublishedTables()
