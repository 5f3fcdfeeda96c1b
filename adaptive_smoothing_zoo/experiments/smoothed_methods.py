"""SmoothMix's table in small: ways to train a net that will be smoothed, compared by what can be certified of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import torch

from adaptive_smoothing_zoo.certification import certify
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments.experiment import not_answered
from adaptive_smoothing_zoo.experiments.table import Case, Measured, Row, complete, read_measured
from adaptive_smoothing_zoo.storage.files import write_text, write_with
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.training import runs
from adaptive_smoothing_zoo.training.recipe import SmoothedNetRecipe, read_recipe
from adaptive_smoothing_zoo.training.workers import Workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "smoothed-methods"
METHODS = {
    "gaussian": "Gaussian",
    "stability": "Stability",
    "smoothadv": "SmoothAdv",
    "macer": "MACER",
    "consistency": "Consistency",
    "smoothmix": "SmoothMix",
    "smoothmix_one_step": "SmoothMix + one-step adversary",
}
SIGMAS = ("0.125", "0.25", "0.5")
SEEDS = ("0", "1", "2")
RADII = tuple(0.25 * i for i in range(10))  # in units of sigma
SHOWN = (0.0, 0.5, 1.0, 1.5, 2.0)
# ACR on MNIST at twice the sigma, [JS21, Table 2], SmoothMix with eta = 5.
PAPER = {
    "0.125": dict(zip(METHODS, (0.911, 0.915, 0.932, 0.920, 0.928, 0.932, 0.933), strict=True)),
    "0.25": dict(zip(METHODS, (1.553, 1.570, 1.687, 1.594, 1.657, 1.694, 1.685), strict=True)),
    "0.5": dict(zip(METHODS, (1.620, 1.634, 1.779, 1.598, 1.740, 1.820, 1.823), strict=True)),
}


@dataclass(frozen=True, kw_only=True)
class MethodsTable(Measured):
    """What was measured.

    Attributes:
        samples, failure_probability: of each certificate.
        recipes_sha256: of all recipes.
    """

    samples: int
    failure_probability: float
    recipes_sha256: str


@dataclass(frozen=True, kw_only=True)
class MethodsBench:
    """What it is measured with.

    Attributes:
        recipes: folder of the recipes, ``digits_<method>_<sigma>.toml``.
        trained: folder for the nets and for the logs of their certificates; what is there is not done again.
        n: certify the first n test images; None for all.
        samples, failure_probability: of each certificate.
        device: where to compute.
    """

    recipes: Path
    trained: Path
    n: int | None = None
    samples: int = 1000
    failure_probability: float = 0.001
    device: torch.device

    def recipe(self, case: Case) -> SmoothedNetRecipe:
        path = self.recipes / f"digits_{case['method']}_{case['sigma']}.toml"
        recipe = read_recipe(path, [f"training.seed={case['seed']}"])
        if not isinstance(recipe, SmoothedNetRecipe) or recipe.training.sigma != float(case["sigma"]):
            raise ResultsError(f"{path} is not the recipe of a net that will be smoothed with sigma {case['sigma']}")
        return recipe

    def measure(self, case: Case) -> dict[str, float]:
        """Train and certify one net: ACR, and certified accuracy at each of ``RADII``."""
        folder = self.trained / "_".join(case.values())
        recipe = self.recipe(case)
        net = runs.run_recipe(recipe, folder / "net", runs.Machine(workers=Workers(self.device)))
        examples = load_data("digits").first(self.n)
        certificates = certify(
            net,
            examples.images,
            examples.labels,
            sigma=recipe.training.sigma,
            n=self.samples,
            failure_probability=self.failure_probability,
            device=self.device,
            log=folder / "certificates.tsv",
        )
        accuracies = certificates.certified_accuracy([recipe.training.sigma * radius for radius in RADII])
        certified = {_column(radius): float(value) for radius, value in zip(RADII, accuracies, strict=True)}
        return {"acr": certificates.average_certified_radius(), **certified}


def cases() -> list[Case]:
    """One for each net; all of a seed before the next."""
    return [{"method": m, "sigma": sigma, "seed": seed} for seed in SEEDS for sigma in SIGMAS for m in METHODS]


def run(bench: MethodsBench, out: Path, *, commit: str | None = None) -> Iterator[tuple[Row, MethodsTable]]:
    """Measure what is not measured yet, keeping each row on disk as it comes; then draw and write the page.

    Raises:
        ResultsError: the files there are about something else, or cannot be written.
    """
    examples, train = load_data("digits").first(bench.n), load_data("digits", "train")
    recipes = "\n".join(str(to_json(bench.recipe(case))) for case in cases())
    table = MethodsTable(
        experiment=NAME,
        dataset="digits",
        n=len(examples),
        data=examples.source,
        data_sha256=tensors_sha256(
            {"images": examples.images, "labels": examples.labels, "train": train.images, "train_labels": train.labels}
        ),
        device=device_name(str(bench.device)),
        versions=installed_versions(),
        commit=commit,
        samples=bench.samples,
        failure_probability=bench.failure_probability,
        recipes_sha256=sha256(recipes.encode()).hexdigest(),
    )
    yield from complete(table, cases(), bench.measure, data_file(out))
    publish(out)


def data_file(out: Path) -> Path:
    """Where the data stand; picture and page stand beside them."""
    return out / NAME / "digits.json"


def publish(out: Path) -> Path:
    """Make picture and page from the data on disk; returns the page.

    Raises:
        ResultsError: the data are missing, damaged or not all there.
    """
    path = data_file(out)
    table = read_measured(path, MethodsTable)
    if [row.case for row in table.rows] != cases():
        raise ResultsError(f"{path} does not hold all rows; run asz experiment {NAME} again")
    from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

    figure = Figure(figsize=(11, 4), layout="constrained")
    draw(table, figure)
    picture = path.with_suffix(".png")
    write_with(picture, lambda file: figure.savefig(file, dpi=120, metadata={"Software": None}))
    write_text(path.with_suffix(".md"), page(table, picture.name))
    return path.with_suffix(".md")


def draw(table: MethodsTable, figure: Figure) -> None:
    """Certified accuracy against radius, mean over the seeds, for each sigma."""
    for axes, sigma in zip(figure.subplots(1, len(SIGMAS), sharey=True, squeeze=False)[0], SIGMAS, strict=True):
        for method, label in METHODS.items():
            means = [100 * mean(_values(table, _column(radius), method, sigma)) for radius in RADII]
            axes.plot([float(sigma) * radius for radius in RADII], means, label=label)
        axes.set_title(f"sigma = {sigma}")
        axes.set_xlabel("l_2 radius")
    figure.axes[0].set_ylabel("certified accuracy, %")
    figure.axes[0].legend(fontsize="small")


def summary(table: MethodsTable) -> str:
    """For each sigma: ACR with its spread over the seeds, certified accuracy at some radii, the paper's ACR."""
    if table.lacks(_COLUMNS):
        return "Numbers are missing."
    lines = []
    for sigma in SIGMAS:
        radii = " | ".join(f"{radius * float(sigma):g}" for radius in SHOWN)
        lines += [
            f"sigma = {sigma}; certified accuracy (%) at l_2 radii:",
            "",
            f"| method | ACR (sd) | {radii} | paper's ACR, MNIST, sigma {2 * float(sigma):g} |",
            f"| --- | --- |{' --- |' * len(SHOWN)} --- |",
        ]
        for method, label in METHODS.items():
            acr = _values(table, "acr", method, sigma)
            certified = [100 * mean(_values(table, _column(radius), method, sigma)) for radius in SHOWN]
            shown = " | ".join(f"{value:.1f}" for value in certified)
            paper = PAPER[sigma][method]
            lines.append(f"| {label} | {mean(acr):.4f} ({stdev(acr):.4f}) | {shown} | {paper:.3f} |")
        lines.append("")
    return "\n".join(lines[:-1])


def agreement(table: MethodsTable) -> str:
    """Where the order by ACR is not the paper's, pair by pair."""
    if why := table.lacks(_COLUMNS):
        return not_answered(why)
    lines = []
    for sigma in SIGMAS:
        pairs = [pair for pair in combinations(METHODS, 2) if PAPER[sigma][pair[0]] != PAPER[sigma][pair[1]]]
        differing = [text for a, b in pairs if (text := _reversed(table, sigma, a, b))]
        lines.append(f"- sigma = {sigma}: {len(pairs) - len(differing)} of {len(pairs)} pairs in the paper's order.")
        if differing:
            lines[-1] += f" Reversed here: {'; '.join(differing)}."
    return "\n".join(lines)


def page(table: MethodsTable, picture: str) -> str:
    """The Markdown page: what was asked, what the authors found, what was found here, where the order differs."""
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    return "\n".join(
        [
            f"# {NAME}: {table.dataset}, l_2",
            "",
            "*Which training gives the net whose smoothed version has the largest certified radii?*",
            "",
            "**The paper:** [JS21, Table 2], LeNet on MNIST: by ACR, SmoothMix is best at every sigma (at 0.25 by "
            "0.001), with the one-step adversary at 0.25 and 1 and without it at 0.5; then come SmoothAdv, "
            "Consistency, MACER, Stability and Gaussian, but for MACER behind all at sigma 1.",
            "",
            f"**Here:** a small CNN on 8x8 digits, mean of {len(SEEDS)} seeds, the papers' constants with half their "
            "lengths, nothing tuned (recipes `smoothed/digits_*`, with Nesterov momentum).",
            "",
            summary(table),
            "",
            '**Where our order differs** (in brackets the ACR here; "within the spread": closer than two standard '
            "errors over the seeds):",
            "",
            agreement(table),
            "",
            f"![{NAME}]({picture})",
            "",
            f"The first {table.n} examples of {table.data}, CERTIFY with n0 = 100, n = {table.samples} and failure "
            f"probability {table.failure_probability:g} per image, which bounds every radius by "
            f"{_largest(table):.2f} sigma; {table.device}; {versions}. One example is {100 / table.n:.2g} points.",
            "",
        ]
    )


def _reversed(table: MethodsTable, sigma: str, a: str, b: str) -> str:
    """Words for a pair of methods whose order is not the paper's; none if it is."""
    worse, better = sorted((a, b), key=PAPER[sigma].__getitem__)
    low, high = (_values(table, "acr", method, sigma) for method in (worse, better))
    ahead = mean(low) - mean(high)
    if ahead <= 0:
        return ""
    error = ((stdev(low) ** 2 + stdev(high) ** 2) / len(low)) ** 0.5
    spread = ", within the spread" if ahead < 2 * error else ""
    return f"{METHODS[worse]} over {METHODS[better]} ({mean(low):.4f} to {mean(high):.4f}{spread})"


def _values(table: MethodsTable, name: str, method: str, sigma: str) -> list[float]:
    """One number from each seed."""
    return [row[name] for row in table.where(method=method, sigma=sigma)]


def _column(radius: float) -> str:
    """The name of the certified accuracy at a radius in units of sigma."""
    return f"certified_{radius:g}"


_COLUMNS = ("acr", *map(_column, RADII))  # what every row must have for the question to be answered


def _largest(table: MethodsTable) -> float:
    """The radius that is certified where all votes are for one class, in units of sigma."""
    lower = table.failure_probability ** (1.0 / table.samples)
    return float(torch.special.ndtri(torch.tensor(lower, dtype=torch.float64)))
