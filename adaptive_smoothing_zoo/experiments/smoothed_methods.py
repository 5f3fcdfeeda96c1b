"""Trainings for smoothing, compared by what can be certified of the smoothed nets; a small form of [JS21, Table 2]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations, product
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from adaptive_smoothing_zoo.certification import Certificates, certify
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
        recipes_sha256: hash of all recipes.
        seed: of the certificates' noise.
    """

    samples: int
    failure_probability: float
    recipes_sha256: str
    seed: int = 0  # as in tables from before it was recorded

    @property
    def title(self) -> str:
        return f"{self.dataset}, l_2"

    def how(self) -> str:
        lower = torch.tensor(self.failure_probability ** (1.0 / self.samples), dtype=torch.float64)
        return (
            f"CERTIFY with n0 = 100, n = {self.samples} and failure probability {self.failure_probability:g} per "
            f"image, so no radius exceeds {float(torch.special.ndtri(lower)):.2f} sigma"
            + (f"; seed {self.seed} of the noise" if self.seed else "")
        )


@dataclass(frozen=True, kw_only=True)
class MethodsBench:
    """What it is measured with.

    Attributes:
        experiment: names the recipes.
        recipes: their folder.
        trained: folder of the nets and of the logs of their certificates; finished work in it is used again.
        n: certify the first n test images; None for all.
        samples, failure_probability: of each certificate.
        seed: of the certificates' noise; the nets' seeds are those of the cases.
        data_dir, train_data_dir: of the test and the training images, as in ``load_data``.
    """

    experiment: SmoothedMethods
    recipes: Path
    trained: Path
    n: int | None = None
    samples: int = 1000
    failure_probability: float = 0.001
    seed: int = 0
    device: torch.device
    data_dir: str | None = None
    train_data_dir: str | None = None

    @classmethod
    def of(cls, options: Options, steps: int, on_stage: OnStage) -> Self:
        return cls(
            experiment=cls.asked(),
            recipes=options.recipes or RECIPES / "smoothed",
            trained=Path("runs") / cls.asked().name,
            n=options.n or None,
            samples=options.samples,
            seed=options.seed,
            device=options.device,
            data_dir=options.data_dir,
            train_data_dir=options.train_data_dir or options.data_dir,
        )

    @classmethod
    def asked(cls) -> SmoothedMethods:
        """The experiment of this bench on the command line."""
        return EXPERIMENT

    @property
    def key(self) -> str:
        return self.experiment.dataset

    def ready(self) -> AbstractContextManager[None]:
        return nullcontext()

    def examples(self) -> Examples:
        return load_data(self.key, data_dir=self.data_dir, n=self.n)

    def table(self, experiment: str) -> MethodsTable:
        train = load_data(self.key, "train", data_dir=self.train_data_dir)
        recipes = "\n".join(str(to_json(self.recipe(case))) for case in self.experiment.cases())
        return MethodsTable(
            experiment=experiment,
            dataset=self.key,
            samples=self.samples,
            failure_probability=self.failure_probability,
            recipes_sha256=sha256(recipes.encode()).hexdigest(),
            seed=self.seed,
            **provenance(self.examples(), self.device, train=train.images, train_labels=train.labels),
        )

    def recipe(self, case: Case) -> SmoothedNetRecipe:
        """The recipe of a case's net; ResultsError if the file is for another sigma or kind of net."""
        name, changes = self.experiment.source(case)
        recipe = read_recipe(self.recipes / name, [*changes, f"training.seed={case['seed']}"])
        if not isinstance(recipe, SmoothedNetRecipe) or recipe.training.sigma != float(case["sigma"]):
            where = self.recipes / name
            raise ResultsError(f"{where} is not the recipe of a net that will be smoothed with sigma {case['sigma']}")
        return recipe

    def net(self, case: Case) -> nn.Module:
        """The net of a case, trained at the first call."""
        machine = runs.Machine(workers=Workers(self.device), data_dir=self.train_data_dir)
        return runs.run_recipe(self.recipe(case), self._folder(case) / "net", machine)

    def certificates(self, case: Case) -> Certificates:
        """Of the net of a case; those in its log are not computed again."""
        examples = self.examples()
        log = self._folder(case) / f"certificates{f'-seed-{self.seed}' if self.seed else ''}.tsv"
        return certify(self.net(case), examples.images, examples.labels, log=log, **self.settings(case))

    def settings(self, case: Case) -> dict[str, Any]:
        """How the net of a case is certified, as for ``certify``."""
        return {
            "sigma": float(case["sigma"]),
            "n": self.samples,
            "failure_probability": self.failure_probability,
            "seed": self.seed,
            "device": self.device,
        }

    def _folder(self, case: Case) -> Path:
        return self.trained / "_".join(case.values())


def _column(radius: float) -> str:
    """The name of the certified accuracy at a radius in units of sigma."""
    return f"certified_{radius:g}"


class SmoothedMethods(Experiment[MethodsBench, MethodsTable]):
    """On the digits; a subclass has other data.

    Attributes:
        dataset: of the nets.
        methods: labels of the methods by their name in the recipes.
        sigmas, seeds: of the nets.
        published: the paper's ACR, where it has one, by sigma and method; ``published_for`` describes its data, by
            sigma.
        about: the nets and their training, in one sentence.
    """

    name = "smoothed-methods"
    question = "Which training gives the net whose smoothed version has the largest certified radii?"
    paper = (
        "[JS21, Table 2], LeNet on MNIST: by ACR, SmoothMix is best at every sigma (at 0.25 by 0.001), with the "
        "one-step adversary at 0.25 and 1 and without it at 0.5; then come SmoothAdv, Consistency, MACER, Stability "
        "and Gaussian, except that MACER is last at sigma 1."
    )
    values = ("acr", *map(_column, RADII))
    bench = MethodsBench
    table = MethodsTable
    size = (11, 4)
    dataset = "digits"
    methods = METHODS
    sigmas: tuple[str, ...] = SIGMAS
    seeds: tuple[str, ...] = SEEDS
    published = PAPER
    published_for: Mapping[str, str] = {sigma: f"MNIST, sigma {2 * float(sigma):g}" for sigma in SIGMAS}
    about = (
        "A small CNN on 8x8 digits, mean of 3 seeds, with the papers' constants but half their lengths; nothing was "
        "tuned (recipes `smoothed/digits_*`, with Nesterov momentum)."
    )

    def source(self, case: Case) -> tuple[str, Sequence[str]]:
        """The file name of a case's recipe, and the changes to it."""
        return f"digits_{case['method']}_{case['sigma']}.toml", ()

    def cases(self) -> list[Case]:
        """One for each net; all nets of a seed come before those of the next."""
        nets = product(self.seeds, self.sigmas, self.methods)
        return [{"method": method, "sigma": sigma, "seed": seed} for seed, sigma, method in nets]

    def measure(self, bench: MethodsBench, case: Case) -> dict[str, float]:
        """Train and certify one net: ACR, and certified accuracy at each of ``RADII``."""
        return numbers_of(bench.certificates(case), float(case["sigma"]))

    def draw(self, table: MethodsTable, figure: Figure) -> None:
        """Draw certified accuracy against radius, mean over the seeds, a panel for each sigma."""
        all_axes = figure.subplots(1, len(self.sigmas), sharey=True, squeeze=False)[0]
        for axes, sigma in zip(all_axes, self.sigmas, strict=True):
            for method, label in self.methods.items():
                means = [100 * mean(_values(table, _column(radius), method, sigma)) for radius in RADII]
                axes.plot([float(sigma) * radius for radius in RADII], means, label=label)
            axes.set_title(f"sigma = {sigma}")
            axes.set_xlabel("l_2 radius")
        figure.axes[0].set_ylabel("certified accuracy, %")
        figure.axes[0].legend(fontsize="small")

    def summary(self, table: MethodsTable) -> str:
        """For each sigma: ACR with its deviation over the seeds, certified accuracy at some radii, the paper's ACR."""
        parts = [self.about]
        for sigma in self.sigmas:
            radii = [f"{radius * float(sigma):g}" for radius in SHOWN]
            heads = ("method", "ACR (sd)" if len(self.seeds) > 1 else "ACR", *radii)
            parts.append(f"sigma = {sigma}; certified accuracy (%) at l_2 radii:")
            rows = [self._cells(table, method, sigma) for method in self.methods]
            parts.append(markdown_table((*heads, f"paper's ACR, {self.published_for[sigma]}"), rows))
            if alike := [label for method, label in self.methods.items() if _same_everywhere(table, method, sigma)]:
                parts.append(
                    f"The same share at every radius, so presumably one class for every image: {', '.join(alike)}."
                )
        return "\n\n".join(parts)

    def agreement(self, table: MethodsTable) -> str:
        """The pairs of methods whose order by ACR is not the paper's."""
        orders = "\n".join(self._pairs_in_order(table, sigma) for sigma in self.sigmas)
        spread = ""
        if len(self.seeds) > 1:
            spread = '; "within the spread": closer than two standard errors over the seeds'
        return f"by pairs of methods (in brackets the ACR here{spread}):\n\n{orders}"

    def _cells(self, table: MethodsTable, method: str, sigma: str) -> list[str]:
        acr = _values(table, "acr", method, sigma)
        certified = [100 * mean(_values(table, _column(radius), method, sigma)) for radius in SHOWN]
        deviation = f" ({stdev(acr):.4f})" if len(acr) > 1 else ""
        shown = [f"{value:.1f}" for value in certified]
        published = f"{self.published[sigma][method]:.3f}" if method in self.published[sigma] else ""
        return [self.methods[method], f"{mean(acr):.4f}{deviation}", *shown, published]

    def _pairs_in_order(self, table: MethodsTable, sigma: str) -> str:
        published = self.published[sigma]
        methods = [method for method in self.methods if method in published]
        pairs = [(a, b) for a, b in combinations(methods, 2) if published[a] != published[b]]
        tied = [pair for pair in pairs if self._ahead(table, sigma, *pair) == 0]
        differing = [text for pair in pairs if (text := self._reversed(table, sigma, *pair))]
        named = f" Equal here: {'; '.join(self._named(*pair) for pair in tied)}." if tied else ""
        named += f" Reversed here: {'; '.join(differing)}." if differing else ""
        ordered = len(pairs) - len(tied) - len(differing)
        return f"- sigma = {sigma}: {ordered} of {len(pairs)} pairs in the paper's order.{named}"

    def _named(self, a: str, b: str) -> str:
        return f"{self.methods[a]} and {self.methods[b]}"

    def _ahead(self, table: MethodsTable, sigma: str, a: str, b: str) -> float:
        """The ACR of the method that is worse in the paper minus that of the other one."""
        worse, better = sorted((a, b), key=self.published[sigma].__getitem__)
        return mean(_values(table, "acr", worse, sigma)) - mean(_values(table, "acr", better, sigma))

    def _reversed(self, table: MethodsTable, sigma: str, a: str, b: str) -> str:
        """Words for a pair of methods whose order is not the paper's; empty if it is."""
        worse, better = sorted((a, b), key=self.published[sigma].__getitem__)
        low, high = (_values(table, "acr", method, sigma) for method in (worse, better))
        if self._ahead(table, sigma, a, b) <= 0:
            return ""
        spread = ", within the spread" if _within_the_spread(low, high) else ""
        return f"{self.methods[worse]} over {self.methods[better]} ({mean(low):.4f} to {mean(high):.4f}{spread})"


def numbers_of(certificates: Certificates, sigma: float) -> dict[str, float]:
    """ACR, and certified accuracy at each of ``RADII``, in units of sigma."""
    accuracies = certificates.certified_accuracy([sigma * radius for radius in RADII])
    certified = {_column(radius): float(value) for radius, value in zip(RADII, accuracies, strict=True)}
    return {"acr": certificates.average_certified_radius(), **certified}


def _same_everywhere(table: MethodsTable, method: str, sigma: str) -> bool:
    """Whether some net of a method certifies the same share at all radii, as a constant net does."""
    by_radius = [_values(table, _column(radius), method, sigma) for radius in RADII]
    return any(len(set(shares)) == 1 for shares in zip(*by_radius, strict=True))


def _within_the_spread(low: list[float], high: list[float]) -> bool:
    """Whether two means over seeds are closer than two standard errors; one seed has no spread."""
    if len(low) < 2:
        return False
    error: float = ((stdev(low) ** 2 + stdev(high) ** 2) / len(low)) ** 0.5
    return mean(low) - mean(high) < 2 * error


def _values(table: MethodsTable, name: str, method: str, sigma: str) -> list[float]:
    """One number from each seed."""
    return [row[name] for row in table.where(method=method, sigma=sigma)]


EXPERIMENT = SmoothedMethods()
