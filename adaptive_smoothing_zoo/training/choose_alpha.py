"""Choosing alpha after training: its range, and the scale and bias of alpha_logit (003, appendix B).

The papers set a desired clean accuracy, or a desired robustness, and move one number until it is met: the lower end of
a range of fixed width, or the bias of alpha_logit. All of it happens on training data that were held out; which data a
test set has is nobody's business here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import ResultsError, TrainingError
from adaptive_smoothing_zoo.machine.allocator import freed_memory_kept
from adaptive_smoothing_zoo.method.alpha import Alpha, ConstantAlpha, with_mixing_network
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.formula import BaseOutputs
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.training.frozen import frozen
from adaptive_smoothing_zoo.training.keeping import fingerprint

CHOICE_FILE = "choice.json"
_ROUNDING = 1e-9  # 36 of 100 are 90 % of 40 of 100, though 0.9 * 0.4 > 0.36 in floating point


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A rule and the candidates it is applied to.

    Candidates lie on lines: on each, one number grows, and with it the weight of h on every input. An adaptive alpha
    has a line for every width, scale, and bias (or lower end of the range); a constant alpha has one.

    Attributes:
        rule: "clean": on each line the last candidate whose clean accuracy reaches the target, and of these the most
            robust. "robust": on each line the first whose robust accuracy does, found by halving, and of these the one
            of highest clean accuracy; both are taken to change in one direction along a line.
        target: an accuracy in [0, 1]; if ``relative`` a share of g's clean accuracy or of h's robust accuracy.
        relative: see ``target``.
        vary: what grows: "alpha_min", the lower end of the range (or a constant alpha itself), or "logit_bias".
        first, last, step: the values it takes.
        widths: alpha_max - alpha_min, cut at alpha_max = 1. The papers use 0.1 and 0.15.
        scales: of alpha_logit. The papers use 2 (Table SM3).
        biases: of alpha_logit, where alpha_min varies.
        alpha_mins: where the bias varies.
        attacks: whose union decides what is robust; names in the catalogue. Weak ones do harm: of
            many candidates the one on which they fail by chance is chosen.
        attack_steps, attack_targets, attack_starts: of each run; how many wrong classes are attacked toward, and from
            how many random starts where no class is. It is a screening.
        attacked_examples: how many of the held-out examples are attacked, spread evenly; all if None.

    Raises:
        ValueError: an unknown rule or quantity, or no candidates.
    """

    rule: Literal["clean", "robust"]
    target: float
    relative: bool = False
    vary: Literal["alpha_min", "logit_bias"] = "alpha_min"
    first: float = 0.5
    last: float = 1.0
    step: float = 0.01
    widths: tuple[float, ...] = (0.15,)
    scales: tuple[float, ...] = (2.0,)
    biases: tuple[float, ...] = (0.4,)
    alpha_mins: tuple[float, ...] = ()
    attacks: tuple[str, ...] = ("apgd-t-pinned", "apgd-ce-lowering", "apgd-t-lowering")
    attack_steps: int = 50
    attack_targets: int = 9
    attack_starts: int = 1
    attacked_examples: int | None = None

    def __post_init__(self) -> None:
        if self.rule not in ("clean", "robust"):
            raise ValueError(f"the rule of a choice is 'clean' or 'robust', got {self.rule!r}")
        if self.vary not in ("alpha_min", "logit_bias"):
            raise ValueError(f"what varies is 'alpha_min' or 'logit_bias', got {self.vary!r}")
        if not (self.first <= self.last and self.step > 0):
            raise ValueError(f"no value lies between {self.first} and {self.last} in steps of {self.step}")
        if self.vary == "alpha_min" and not 0.0 <= self.first <= self.last <= 1.0:
            raise ValueError(f"alpha_min must be in [0, 1], got {self.first} to {self.last}")
        others = self.biases if self.vary == "alpha_min" else self.alpha_mins
        if not (self.widths and self.scales and others):
            name = "biases" if self.vary == "alpha_min" else "alpha_mins"
            raise ValueError(f"a choice needs at least one of widths, of scales, and of {name}")

    @property
    def values(self) -> list[float]:
        """What the varying number is on each line, rising; rounded, so that entries show what was meant."""
        count = int((self.last - self.first) / self.step + 1e-9) + 1
        return [round(self.first + i * self.step, 10) for i in range(count)]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Settings of an adaptive alpha, or a constant one (``alpha_min`` is it, and scale and bias are None)."""

    alpha_min: float
    alpha_max: float
    logit_scale: float | None = None
    logit_bias: float | None = None

    def applied_to(self, model: MixedClassifier) -> MixedClassifier:
        """The same nets, maps and mixing network with this alpha, in eval mode."""
        alpha: Alpha = ConstantAlpha(self.alpha_min)
        if self.logit_scale is not None and self.logit_bias is not None:
            alpha = with_mixing_network(model.alpha).with_numbers(
                alpha_min=self.alpha_min,
                alpha_max=self.alpha_max,
                logit_scale=self.logit_scale,
                logit_bias=self.logit_bias,
            )
        mixed = MixedClassifier(model.std_model, model.rob_model, alpha, std_map=model.std_map, rob_map=model.rob_map)
        return mixed.eval()


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What was chosen, and on what grounds.

    Attributes:
        candidate: the settings.
        clean, robust: its accuracies on the held-out examples; ``robust`` is a screening's, an upper bound.
        target: as an accuracy.
        clean_examples, robust_examples: of how many each is the share.
        tried: every candidate that was attacked, with its clean and robust accuracy. (Under the robust rule an attack
            ends where it is clear that the target is missed, so a robust accuracy below it is no more than a bound.)
    """

    candidate: Candidate
    clean: float
    robust: float
    target: float
    clean_examples: int
    robust_examples: int
    tried: tuple[tuple[Candidate, float, float], ...]


OnCandidate = Callable[[Candidate, float, float], object]


@own_surroundings()
@freed_memory_kept()
def choose_alpha(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    choice: Choice,
    *,
    eps: float,
    norm: str = "Linf",
    seed: int = 0,
    batch_size: int = 256,
    device: torch.device | None = None,
    folder: Path | None = None,
    on_candidate: OnCandidate | None = None,
) -> Chosen:
    """Find range, scale and bias of an adaptive alpha, or the value of a constant one. The model is left as it is.

    Args:
        model: on ``device``; its own range, scale and bias (or constant) do not matter.
        images: (N, channels, H, W) in [0, 1], held-out training examples.
        labels: (N,).
        eps, norm: of the attacks.
        seed: of the attacks.
        batch_size: of all passes.
        device: where the model is; the images' if None.
        folder: where accuracies that took an attack are noted, so that an interrupted choice goes on.
        on_candidate: told of every candidate that was attacked, with its clean and robust accuracy.

    Raises:
        TrainingError: no candidate reaches the target.
        ResultsError: the folder belongs to another choice.
    """
    device = device or images.device
    with frozen(model):
        held = _Held(model, images, labels, choice, eps=eps, norm=norm, seed=seed, batch_size=batch_size, device=device)
        notes = _Notes(folder, choice, held)
        tried: dict[Candidate, tuple[float, float]] = {}

        def robust(candidate: Candidate) -> float:
            if candidate not in tried:
                enough = target - _ROUNDING if choice.rule == "robust" and candidate != _constant(1.0) else 0.0
                found = notes.get(candidate, lambda: held.robust_accuracy(candidate, enough))
                tried[candidate] = held.clean_accuracy(candidate), found
                if on_candidate is not None:
                    on_candidate(candidate, *tried[candidate])
            return tried[candidate][1]

        target, picked = choice.target, []
        if choice.rule == "clean":
            target *= held.clean_accuracy(_constant(0.0)) if choice.relative else 1.0
            for line in _lines(model, choice):
                picked += [candidate for candidate in line if held.clean_accuracy(candidate) >= target - _ROUNDING][-1:]
        else:
            target *= robust(_constant(1.0)) if choice.relative else 1.0
            for line in _lines(model, choice):
                # Clean accuracy falls along a line: behind the last candidate that has the best so far, none can win.
                best_clean = max(map(held.clean_accuracy, picked), default=0.0)
                worthy = [place for place, candidate in enumerate(line) if held.clean_accuracy(candidate) >= best_clean]
                picked += _first_reaching(line[: max(worthy, default=-1) + 1], robust, target - _ROUNDING)
        if not picked:
            raise TrainingError(
                f"no candidate reaches a {choice.rule} accuracy of {target:.4f} on the {len(labels)} held-out "
                "examples; lower the target, or let alpha vary further"
            )
        worth = {candidate: (held.clean_accuracy(candidate), robust(candidate)) for candidate in picked}
        best = max(picked, key=lambda candidate: worth[candidate][:: 1 if choice.rule == "robust" else -1])
        return Chosen(
            candidate=best,
            clean=worth[best][0],
            robust=worth[best][1],
            target=target,
            clean_examples=len(labels),
            robust_examples=len(held.attacked),
            tried=tuple((candidate, *accuracies) for candidate, accuracies in tried.items()),
        )


def _lines(model: MixedClassifier, choice: Choice) -> Iterator[list[Candidate]]:
    """Candidates in rising order of h's weight."""
    if not model.alpha.varies:
        if choice.vary != "alpha_min":
            raise ValueError("a constant alpha has no bias that could vary")
        yield [_constant(value) for value in choice.values]
        return
    for width in choice.widths:
        for scale in choice.scales:
            for other in choice.biases if choice.vary == "alpha_min" else choice.alpha_mins:
                pairs = [(v, other) if choice.vary == "alpha_min" else (other, v) for v in choice.values]
                yield [
                    Candidate(
                        alpha_min=alpha_min,
                        alpha_max=round(min(1.0, alpha_min + width), 10),
                        logit_scale=scale,
                        logit_bias=bias,
                    )
                    for alpha_min, bias in pairs
                ]


def _first_reaching(line: list[Candidate], robust: Callable[[Candidate], float], target: float) -> list[Candidate]:
    """The first candidate with ``robust >= target`` if that grows along the line, else one that has it; or none."""
    low, high = 0, len(line)  # nothing below low reaches it; line[high] does, if there is such a candidate
    while low < high:
        middle = (low + high) // 2
        if robust(line[middle]) >= target:
            high = middle
        else:
            low = middle + 1
    return line[high : high + 1]


def _constant(value: float) -> Candidate:
    return Candidate(alpha_min=value, alpha_max=value)


class _Held:
    """Held-out examples, and accuracies of candidates on them."""

    def __init__(
        self,
        model: MixedClassifier,
        images: Tensor,
        labels: Tensor,
        choice: Choice,
        *,
        eps: float,
        norm: str,
        seed: int,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.model, self.images, self.labels, self.choice = model, images, labels, choice
        self.eps, self.norm, self.seed, self.batch_size, self.device = eps, norm, seed, batch_size, device
        count = min(choice.attacked_examples or len(labels), len(labels))
        self.attacked = torch.arange(count) * len(labels) // count
        self._log_std, self._log_rob, self._normalized = self._outputs()

    @torch.no_grad()
    def _outputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probabilities of g and h (N, C), and the mixing network's normalized output (N,), on the CPU."""
        std, rob = _constant(0.0).applied_to(self.model), _constant(1.0).applied_to(self.model)
        # alpha_logit = 1 * output + 0
        raw = Candidate(alpha_min=0.0, alpha_max=1.0, logit_scale=1.0, logit_bias=0.0)
        adaptive = raw.applied_to(self.model) if self.model.alpha.varies else None
        columns: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for batch in self.images.split(self.batch_size):
            points = batch.to(self.device)
            columns[0].append(std(points).cpu())
            columns[1].append(rob(points).cpu())
            if adaptive is not None:
                columns[2].append(adaptive.alpha_logit_of(points).cpu())
        normalized = None if adaptive is None else torch.cat(columns[2])
        return torch.cat(columns[0]), torch.cat(columns[1]), normalized

    def clean_accuracy(self, candidate: Candidate) -> float:
        """From what g, h and the mixing network said once."""
        outputs = BaseOutputs(self._log_std, self._log_rob)
        if self._normalized is not None and candidate.logit_scale is not None and candidate.logit_bias is not None:
            outputs = outputs._replace(alpha_logit=candidate.logit_scale * self._normalized + candidate.logit_bias)
        mixed = outputs.mixed(candidate.applied_to(self.model).alpha.log_weights(outputs))
        return float((mixed.argmax(dim=1) == self.labels.cpu()).double().mean())

    def robust_accuracy(self, candidate: Candidate, enough: float) -> float:
        """Share of the attacked examples that every attack left right, the mix itself as judge.

        Where it falls below ``enough``, what it has fallen to so far.
        """
        mixed = candidate.applied_to(self.model)
        limits = {"iterations": self.choice.attack_steps, "restarts": self.choice.attack_starts}
        settings = AttackSettings(
            attacks=self.choice.attacks,  # type: ignore[arg-type]
            seed=self.seed,
            batch_size=self.batch_size,
        )
        search = Search(
            mixed,
            ThreatModel(self.norm, self.eps),
            complete(settings).limited(targets=self.choice.attack_targets, **limits),
            num_classes=self._log_std.shape[1],
            device=self.device,
        )
        standing = self.attacked[self._right(mixed, self.images[self.attacked], self.attacked)]
        left = len(standing)
        for verdict in search.run(self.images[standing], self.labels[standing], standing):
            left -= int(verdict.broken.sum())
            if left / len(self.attacked) < enough:
                break
        return left / len(self.attacked)

    @torch.no_grad()
    def _right(self, mixed: MixedClassifier, images: Tensor, places: Tensor) -> Tensor:
        labels = self.labels[places].cpu()
        predicted = [mixed(batch.to(self.device)).argmax(dim=1).cpu() for batch in images.split(self.batch_size)]
        return torch.cat(predicted) == labels


class _Notes:
    """Robust accuracies by candidate, in a file if there is a folder."""

    def __init__(self, folder: Path | None, choice: Choice, held: _Held) -> None:
        self._path = None if folder is None else folder / CHOICE_FILE
        self._known: dict[str, float] = {}
        if self._path is None:
            return
        names = ("rule", "target", "relative", "attacks", "attack_steps", "attack_targets", "attack_starts")
        self._binding = json.loads(
            json.dumps(
                {
                    **{name: getattr(choice, name) for name in names},
                    "eps": held.eps,
                    "norm": held.norm,
                    "seed": held.seed,
                    "batch_size": held.batch_size,
                    "data": fingerprint(held.images[held.attacked], held.labels[held.attacked]),
                    "model": fingerprint(held.model),
                    "maps": [repr(held.model.std_map), repr(held.model.rob_map)],
                }
            )
        )
        if self._path.exists():
            try:
                kept = json.loads(self._path.read_text(encoding="utf-8"))
                binding, self._known = kept["binding"], {key: float(value) for key, value in kept["robust"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ResultsError(f"{self._path} is damaged ({error}); delete it to choose again") from error
            if binding != self._binding:
                raise ResultsError(
                    f"{self._path} belongs to another model, other held-out examples, another rule or other attacks; "
                    "delete it to choose again"
                )

    def get(self, candidate: Candidate, measure: Callable[[], float]) -> float:
        key = json.dumps(asdict(candidate))
        if key not in self._known:
            self._known[key] = measure()
            if self._path is not None:
                text = json.dumps({"binding": self._binding, "robust": self._known}, indent=2)
                write_text(self._path, text + "\n")
        return self._known[key]
