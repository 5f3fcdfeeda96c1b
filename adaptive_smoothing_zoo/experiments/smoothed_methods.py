"""Ways to train a net that will be smoothed, compared by what can be certified of it [JS21, Table 2], in small."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Self

import torch

from adaptive_smoothing_zoo.certification import certify
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments.bench import OnStage, Options
from adaptive_smoothing_zoo.experiments.experiment import Case, Experiment, Measured, markdown_table, provenance
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.training import runs
from adaptive_smoothing_zoo.training.recipe import RECIPES, SmoothedNetRecipe, read_recipe
from adaptive_smoothing_zoo.training.workers import Workers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    @property
    def title(self) -> str:
        return f"{self.dataset}, l_2"

    def how(self) -> str:
        lower = torch.tensor(self.failure_probability ** (1.0 / self.samples), dtype=torch.float64)
        return (
            f"CERTIFY with n0 = 100, n = {self.samples} and failure probability {self.failure_probability:g} per "
            f"image, which bounds every radius by {float(torch.special.ndtri(lower)):.2f} sigma"
        )


@dataclass(frozen=True, kw_only=True)
class MethodsBench:
    """What it is measured with.

    Attributes:
        recipes: folder of ``digits_<method>_<sigma>.toml``.
        trained: folder for the nets and for the logs of their certificates; what is there is not done again.
        n: certify the first n test images; None for all.
    """

    recipes: Path
    trained: Path
    n: int | None = None
    samples: int = 1000
    failure_probability: float = 0.001
    device: torch.device
    key: str = "digits"

    @classmethod
    def of(cls, options: Options, steps: int, on_stage: OnStage) -> Self:
        return cls(
            recipes=options.recipes or RECIPES / "smoothed",
            trained=Path("runs") / EXPERIMENT.name,
            n=options.n or None,
            samples=options.samples,
            device=options.device,
        )

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()

    def examples(self) -> Examples:
        return load_data("digits").first(self.n)

    def table(self, experiment: str) -> MethodsTable:
        train = load_data("digits", "train")
        recipes = "\n".join(str(to_json(self.recipe(case))) for case in EXPERIMENT.cases())
        return MethodsTable(
            experiment=experiment,
            dataset="digits",
            samples=self.samples,
            failure_probability=self.failure_probability,
            recipes_sha256=sha256(recipes.encode()).hexdigest(),
            **provenance(self.examples(), self.device, train=train.images, train_labels=train.labels),
        )

    def recipe(self, case: Case) -> SmoothedNetRecipe:
        path = self.recipes / f"digits_{case['method']}_{case['sigma']}.toml"
        recipe = read_recipe(path, [f"training.seed={case['seed']}"])
        if not isinstance(recipe, SmoothedNetRecipe) or recipe.training.sigma != float(case["sigma"]):
            raise ResultsError(f"{path} is not the recipe of a net that will be smoothed with sigma {case['sigma']}")
        return recipe


def _column(radius: float) -> str:
    """The name of the certified accuracy at a radius in units of sigma."""
    return f"certified_{radius:g}"


class SmoothedMethods(Experiment[MethodsBench, MethodsTable]):
    name = "smoothed-methods"
    question = "Which training gives the net whose smoothed version has the largest certified radii?"
    paper = (
        "[JS21, Table 2], LeNet on MNIST: by ACR, SmoothMix is best at every sigma (at 0.25 by 0.001), with the "
        "one-step adversary at 0.25 and 1 and without it at 0.5; then come SmoothAdv, Consistency, MACER, Stability "
        "and Gaussian, but for MACER behind all at sigma 1."
    )
    values = ("acr", *map(_column, RADII))
    bench = MethodsBench
    table = MethodsTable
    size = (11, 4)

    def cases(self) -> list[Case]:
        """One for each net; all of a seed before the next."""
        return [{"method": m, "sigma": sigma, "seed": seed} for seed in SEEDS for sigma in SIGMAS for m in METHODS]

    def measure(self, bench: MethodsBench, case: Case) -> dict[str, float]:
        """Train and certify one net: ACR, and certified accuracy at each of ``RADII``."""
        folder, recipe, examples = bench.trained / "_".join(case.values()), bench.recipe(case), bench.examples()
        sigma = recipe.training.sigma
        net = runs.run_recipe(recipe, folder / "net", runs.Machine(workers=Workers(bench.device)))
        certificates = certify(
            net,
            examples.images,
            examples.labels,
            sigma=sigma,
            n=bench.samples,
            failure_probability=bench.failure_probability,
            device=bench.device,
            log=folder / "certificates.tsv",
        )
        accuracies = certificates.certified_accuracy([sigma * radius for radius in RADII])
        certified = {_column(radius): float(value) for radius, value in zip(RADII, accuracies, strict=True)}
        return {"acr": certificates.average_certified_radius(), **certified}

    def draw(self, table: MethodsTable, figure: Figure) -> None:
        """Certified accuracy against radius, mean over the seeds, for each sigma."""
        for axes, sigma in zip(figure.subplots(1, len(SIGMAS), sharey=True, squeeze=False)[0], SIGMAS, strict=True):
            for method, label in METHODS.items():
                means = [100 * mean(_values(table, _column(radius), method, sigma)) for radius in RADII]
                axes.plot([float(sigma) * radius for radius in RADII], means, label=label)
            axes.set_title(f"sigma = {sigma}")
            axes.set_xlabel("l_2 radius")
        figure.axes[0].set_ylabel("certified accuracy, %")
        figure.axes[0].legend(fontsize="small")

    def summary(self, table: MethodsTable) -> str:
        """For each sigma: ACR with its spread over the seeds, certified accuracy at some radii, the paper's ACR."""
        parts = [
            f"A small CNN on 8x8 digits, mean of {len(SEEDS)} seeds, the papers' constants with half their lengths, "
            "nothing tuned (recipes `smoothed/digits_*`, with Nesterov momentum)."
        ]
        for sigma in SIGMAS:
            radii = [f"{radius * float(sigma):g}" for radius in SHOWN]
            heads = ("method", "ACR (sd)", *radii, f"paper's ACR, MNIST, sigma {2 * float(sigma):g}")
            parts.append(f"sigma = {sigma}; certified accuracy (%) at l_2 radii:")
            parts.append(markdown_table(heads, [_cells(table, method, sigma) for method in METHODS]))
        return "\n\n".join(parts)

    def agreement(self, table: MethodsTable) -> str:
        """Where the order by ACR is not the paper's, pair by pair."""
        orders = "\n".join(_pairs_in_order(table, sigma) for sigma in SIGMAS)
        return (
            'by pairs of methods (in brackets the ACR here; "within the spread": closer than two standard errors over '
            f"the seeds):\n\n{orders}"
        )


def _cells(table: MethodsTable, method: str, sigma: str) -> list[str]:
    acr = _values(table, "acr", method, sigma)
    certified = [100 * mean(_values(table, _column(radius), method, sigma)) for radius in SHOWN]
    shown = [f"{value:.1f}" for value in certified]
    return [METHODS[method], f"{mean(acr):.4f} ({stdev(acr):.4f})", *shown, f"{PAPER[sigma][method]:.3f}"]


def _pairs_in_order(table: MethodsTable, sigma: str) -> str:
    pairs = [pair for pair in combinations(METHODS, 2) if PAPER[sigma][pair[0]] != PAPER[sigma][pair[1]]]
    differing = [text for a, b in pairs if (text := _reversed(table, sigma, a, b))]
    named = f" Reversed here: {'; '.join(differing)}." if differing else ""
    return f"- sigma = {sigma}: {len(pairs) - len(differing)} of {len(pairs)} pairs in the paper's order.{named}"


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


EXPERIMENT = SmoothedMethods()
