"""Two nets for smoothing, trained with Gaussian noise and with SmoothMix, and their confidence around test images."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import islice
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.experiments.bench import OnStage, Options
from adaptive_smoothing_zoo.experiments.experiment import Case, Experiment, Measured, provenance
from adaptive_smoothing_zoo.experiments.smoothed_methods import MethodsBench
from adaptive_smoothing_zoo.experiments.smoothed_mnist import MnistBench
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.training.smoothed import noises
from adaptive_smoothing_zoo.training.smoothed_losses import NoisyBatch, ascent

METHODS = {"gaussian": "Gaussian", "smoothmix": "SmoothMix"}
SIGMAS = {"digits": "0.25", "mnist": "0.5"}  # of the nets; all lengths are multiples of it
KINDS: dict[str, type[MethodsBench]] = {"digits": MethodsBench, "mnist": MnistBench}
ATTACK_NOISES = 4  # m of the search
AT_ONCE = 2048  # noisy images per pass


@dataclass(frozen=True, kw_only=True)
class PairTable(Measured):
    """What was measured.

    Attributes:
        sigma: of the noise.
        votes: noise samples per image, one vote each.
        steps: of the search for adversarial examples.
        recipes_sha256: hash of both nets' recipes.
        seed: of the noise in search and votes.
    """

    sigma: float
    votes: int
    steps: int
    recipes_sha256: str
    seed: int = 0  # as in tables from before it was recorded

    @property
    def title(self) -> str:
        return f"{self.dataset}, sigma {self.sigma:g}"

    def how(self) -> str:
        return (
            f"confidences are shares of {self.votes} hard votes; adversarial examples by {self.steps} gradient steps "
            f"[JS21, eq. (8)] with {ATTACK_NOISES} noise samples, seed {self.seed}; each net was trained once"
        )


@dataclass(frozen=True, kw_only=True)
class PairBench:
    """What it is measured with.

    Attributes:
        methods: has the recipes, the data and the folder of trained nets.
        votes, steps, seed: see :class:`PairTable`.
    """

    methods: MethodsBench
    votes: int = 64
    steps: int
    seed: int = 0
    _nets: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, options: Options, steps: int, on_stage: OnStage) -> Self:
        if options.dataset not in KINDS:
            known = " and ".join(KINDS)
            raise ConfigError(
                f"there are recipes of both nets for {known} alone, not for {options.dataset}; name another --dataset"
            )
        methods = KINDS[options.dataset].of(options, steps, on_stage)
        return cls(methods=methods, steps=options.steps or steps, seed=options.seed)

    @property
    def key(self) -> str:
        return self.methods.key

    @property
    def sigma(self) -> float:
        return float(SIGMAS[self.key])

    def ready(self) -> AbstractContextManager[None]:
        return float32_precision(tf32=False)

    def table(self, experiment: str) -> PairTable:
        recipes = "\n".join(str(to_json(self.methods.recipe(self._case(method)))) for method in METHODS)
        return PairTable(
            experiment=experiment,
            dataset=self.key,
            sigma=self.sigma,
            votes=self.votes,
            steps=self.steps,
            seed=self.seed,
            recipes_sha256=sha256(recipes.encode()).hexdigest(),
            **provenance(self.examples, self.methods.device),
        )

    @cached_property
    def examples(self) -> Examples:
        return self.methods.examples()

    def _case(self, method: str) -> Case:
        return {"method": method, "sigma": SIGMAS[self.key], "seed": "0"}

    def net(self, method: str) -> nn.Module:
        """A net whose votes are counted, in eval mode; trained on the first call unless its folder has it."""
        if method not in self._nets:
            self._nets[method] = self.methods.net(self._case(method))
        return self._nets[method]

    def adversarial(self, method: str, eps: float | None) -> Tensor:
        """The images after the search [JS21, eq. (8)] against a net.

        Args:
            eps: l_2 radius; steps are 2.5 eps / steps long. Without one the search is unrestricted, in steps of sigma.
        """
        step = self.sigma if eps is None else 2.5 * eps / self.steps
        found = []
        for rows in torch.arange(len(self.examples)).split(AT_ONCE // ATTACK_NOISES):
            images = self.examples.images[rows].to(self.methods.device)
            noise = self.sigma * noises(self.seed, rows, ATTACK_NOISES, images)
            labels = self.examples.labels[rows].to(images.device)
            batch = NoisyBatch(
                images=images,
                labels=labels,
                noise=noise,
                mixing=torch.zeros(len(rows)),
                sigma=self.sigma,
                strength=1.0,
                start=images,
            )
            *_, points = islice(ascent(self.net(method), batch, step, eps), self.steps)
            found.append(points.cpu())
        return torch.cat(found)

    @torch.no_grad()
    def confidence(self, method: str, images: Tensor) -> Tensor:
        """The share of hard votes for each class, (N, C) float64; every image gets the same noise."""
        net, device = self.net(method), self.methods.device
        noise = self.sigma * noises(self.seed + 1, torch.zeros(1, dtype=torch.int64), self.votes, images[:1])[0]
        shares = []
        for batch in images.split(max(1, AT_ONCE // self.votes)):
            logits = net((batch.unsqueeze(1) + noise).flatten(0, 1).to(device))
            votes = F.one_hot(logits.argmax(dim=1), logits.shape[1]).double()
            shares.append(votes.unflatten(0, (len(batch), self.votes)).mean(dim=1).cpu())
        return torch.cat(shares)


class PairExperiment(Experiment[PairBench, PairTable]):
    """An experiment on the two nets."""

    bench, table = PairBench, PairTable


def true_and_off(confidence: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """From confidences (N, C): those of the label, and the largest of another class, (N,) each."""
    at_label = labels.unsqueeze(1)
    return confidence.gather(1, at_label).squeeze(1), confidence.scatter(1, at_label, -1.0).amax(dim=1)


def paths(start: Tensor, end: Tensor, ratios: Tensor) -> Tensor:
    """Convex combinations of images (N, ...), for R ratios (R, N, ...): ``start`` at ratio 0, ``end`` at 1."""
    return torch.stack([torch.lerp(start, end, ratio) for ratio in ratios.tolist()])
