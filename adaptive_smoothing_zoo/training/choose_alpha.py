"""Choice of alpha after training: its range, and the scale and bias of alpha_logit [BAKS24, supp. B].

The papers set a target clean or robust accuracy and vary one number until the mix meets it: the lower end of a range of
fixed width, or the bias of alpha_logit. Accuracies are measured on held-out training data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
from torch import Tensor

from adaptive_smoothing_zoo.attacks.catalogue import complete, fitted
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.errors import ResultsError, TrainingError, check_keywords
from adaptive_smoothing_zoo.machine.allocator import freed_memory_kept
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.machine.ready import refusals_named
from adaptive_smoothing_zoo.method.alpha import Alpha, ConstantAlpha, with_mixing_network
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.formula import BaseOutputs
from adaptive_smoothing_zoo.storage.bound_state import BoundState
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel, threat_of
from adaptive_smoothing_zoo.training.frozen import frozen
from adaptive_smoothing_zoo.training.keeping import fingerprint
from adaptive_smoothing_zoo.training.task import check_classes, check_learnable

CHOICE, _FORMER_FILE = "choice", "choice.json"  # the folder of saved accuracies, and its file in earlier versions
_ROUNDING = 1e-9  # 36 of 100 are 90 % of 40 of 100, though 0.9 * 0.4 > 0.36 in floating point


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A rule for choosing alpha, and the candidates that it chooses from.

    Candidates lie on lines. Along a line one number grows, and with it alpha on every input. An adaptive alpha has one
    line for each combination of width, scale, and bias (or lower end of the range); a constant alpha has one line.

    Attributes:
        rule: "clean": on each line, take the last candidate whose clean accuracy reaches the target; of these choose
            the most robust. "robust": on each line, take the first candidate whose robust accuracy reaches the target,
            by bisection; of these choose the one with the highest clean accuracy. Clean accuracy should fall and robust
            accuracy rise along a line.
        target: an accuracy in [0, 1]; if ``relative``, a share of g's clean accuracy or of h's robust accuracy.
        vary: the number that grows: "alpha_min", the lower end of the range (or a constant alpha itself), or
            "logit_bias".
        first, last, step: its values.
        widths: alpha_max - alpha_min, at least 0; alpha_max is at most 1. The papers use 0.1 and 0.15.
        scales: of alpha_logit, > 0. The papers use 2 [BAKS24, supp., Table SM3].
        biases: of alpha_logit, if alpha_min varies.
        alpha_mins: lower ends of the range, if the bias varies.
        attacks: names of attacks; an example is robust if all fail. With weak attacks and many candidates, the choice
            favors candidates on which the attacks fail by chance. Without attacks, robust accuracy is clean accuracy.
        attack_steps, attack_targets, attack_starts: steps of each run, wrong classes of targeted attacks, and random
            starts. These few make a screening, not an evaluation.
        attacked_examples: number of held-out examples to attack, spread evenly; all if None.

    Raises:
        ValueError: an unknown rule, quantity or attack, a number out of range, or no candidates.
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
            raise ValueError(f"the rule of a choice must be 'clean' or 'robust', got {self.rule!r}")
        if self.vary not in ("alpha_min", "logit_bias"):
            raise ValueError(f"vary must be 'alpha_min' or 'logit_bias', got {self.vary!r}")
        if not (self.first <= self.last and self.step > 0):
            raise ValueError(f"no value lies between {self.first} and {self.last} in steps of {self.step}")
        if self.vary == "alpha_min" and not 0.0 <= self.first <= self.last <= 1.0:
            raise ValueError(f"alpha_min must be in [0, 1], got {self.first} to {self.last}")
        name = "biases" if self.vary == "alpha_min" else "alpha_mins"
        if not (self.widths and self.scales and getattr(self, name)):
            raise ValueError(f"a choice needs at least one of widths, of scales, and of {name}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        """Raise ValueError for numbers out of range and unknown attacks, which would fail only after a training."""
        for what, fine in (
            ("target must be in [0, 1]", 0.0 <= self.target <= 1.0),
            ("widths must be at least 0", min(self.widths) >= 0.0),
            ("scales must be positive", min(self.scales) > 0.0),
            ("alpha_mins must be in [0, 1]", all(0.0 <= low <= 1.0 for low in self.alpha_mins)),
            (
                "attacked_examples must be at least 1 or None",
                self.attacked_examples is None or self.attacked_examples > 0,
            ),
        ):
            if not fine:
                raise ValueError(f"{what}, got {getattr(self, what.split()[0])}")
        if self.attacks:
            self.limited(AttackSettings(attacks=self.attacks))  # type: ignore[arg-type]

    def limited(self, settings: AttackSettings) -> AttackSettings:
        """The settings with this choice's numbers of steps, targets and starts."""
        numbers = {"iterations": self.attack_steps, "targets": self.attack_targets, "restarts": self.attack_starts}
        return complete(settings).limited(**numbers)

    @property
    def values(self) -> list[float]:
        """The values of the varied number, ascending; rounded to 10 decimals for readable entries."""
        count = int((self.last - self.first) / self.step + 1e-9) + 1
        return [round(self.first + i * self.step, 10) for i in range(count)]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Numbers of an adaptive alpha, or a constant alpha (``alpha_min``, with scale and bias None)."""

    alpha_min: float
    alpha_max: float
    logit_scale: float | None = None
    logit_bias: float | None = None

    def alpha_like(self, alpha: Alpha) -> Alpha:
        """The candidate's alpha; an adaptive one has the mixing network of ``alpha``."""
        if self.logit_scale is None:
            return ConstantAlpha(self.alpha_min)
        return with_mixing_network(alpha).with_numbers(**asdict(self))

    def applied_to(self, model: MixedClassifier) -> MixedClassifier:
        """A mix of the same nets and logit maps with this alpha, in eval mode; nothing is copied."""
        nets, alpha = (model.std_model, model.rob_model), self.alpha_like(model.alpha)
        return MixedClassifier(*nets, alpha, std_map=model.std_map, rob_map=model.rob_map).eval()


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The chosen candidate and its measurements.

    Attributes:
        clean, robust: its accuracies on the held-out examples, in [0, 1]. ``robust`` is from a screening: true
            robustness may be lower.
        target: the target as an accuracy in [0, 1], also if the rule's is relative.
        clean_examples, robust_examples: numbers of examples behind the two accuracies.
        tried: every attacked candidate, with its clean and robust accuracy. Under the robust rule attacks stop once the
            target is missed, so a robust accuracy below the target is only an upper bound.
    """

    candidate: Candidate
    clean: float
    robust: float
    target: float
    clean_examples: int
    robust_examples: int
    tried: tuple[tuple[Candidate, float, float], ...]


OnCandidate = Callable[[Candidate, float, float], object]


class ChoiceOptions(TypedDict, total=False):
    """Options of ``choose_alpha``. Give ``threat``, or ``eps`` and ``norm`` (default "Linf")."""

    threat: ThreatModel
    eps: float
    norm: str
    seed: int  # of the attacks; default 0
    batch_size: int  # of all passes; default 256
    device: torch.device | None  # where the model is; default: where the images are


@own_surroundings()
@freed_memory_kept()
def choose_alpha(
    model: MixedClassifier,
    images: Tensor,
    labels: Tensor,
    choice: Choice,
    *,
    folder: Path | None = None,
    on_candidate: OnCandidate = lambda candidate, clean, robust: None,
    **options: Unpack[ChoiceOptions],
) -> Chosen:
    """Choose range, scale and bias of an adaptive alpha, or the value of a constant one. The model is not changed.

    Args:
        model: its own range, scale and bias (or constant) are ignored.
        images, labels: held-out training examples, (N, channels, H, W) in [0, 1] and (N,) int64.
        folder: robust accuracies are saved in ``folder/choice``, from which an interrupted choice resumes.
        on_candidate: called for every attacked candidate, with its clean and robust accuracy.
        options: see :class:`ChoiceOptions`.

    Raises:
        TrainingError: no candidate reaches the target.
        ResultsError: the folder belongs to another choice.
        TypeError, ValueError: invalid images or labels, no threat model, or a varied number that a constant alpha
            lacks.
    """
    check_keywords(options, ChoiceOptions)
    check_learnable(images, labels)
    with frozen(model), float32_precision(tf32=False):
        held = _Held(model, images, labels, choice, options)
        held.on_candidate = on_candidate
        with nullcontext() if folder is None else held.noted_in(folder):
            target, picked = (_by_clean if choice.rule == "clean" else _by_robust)(held)
            if not picked:
                raise TrainingError(
                    f"no candidate reaches a {choice.rule} accuracy of {target:.4f} on the {held.judged_on} held-out "
                    "examples; lower the target, or widen the range of candidates"
                )
            worth = {candidate: (held.clean_accuracy(candidate), held.robust(candidate)) for candidate in picked}
        best = max(picked, key=lambda candidate: worth[candidate][:: 1 if choice.rule == "robust" else -1])
        return Chosen(
            candidate=best,
            clean=worth[best][0],
            robust=worth[best][1],
            target=target,
            clean_examples=len(labels),
            robust_examples=len(held.attacked),
            tried=tuple((candidate, *accuracies) for candidate, accuracies in held.tried.items()),
        )


def _by_clean(held: _Held) -> tuple[float, list[Candidate]]:
    """The target, and the last candidate of each line whose clean accuracy reaches it."""
    choice, picked = held.choice, list[Candidate]()
    target = choice.target * (held.clean_accuracy(_constant(0.0)) if choice.relative else 1.0)
    for line in _lines(held.model, choice):
        picked += [candidate for candidate in line if held.clean_accuracy(candidate) >= target - _ROUNDING][-1:]
    return target, picked


def _by_robust(held: _Held) -> tuple[float, list[Candidate]]:
    """The target, and the first candidate of each line whose robust accuracy reaches it, if it can still win."""
    choice, picked = held.choice, list[Candidate]()
    target = choice.target * (held.robust(_constant(1.0)) if choice.relative else 1.0)
    held.enough = target - _ROUNDING
    for line in _lines(held.model, choice):
        # Clean accuracy falls along a line: no candidate after the last one with the best so far can win.
        best_clean = max(map(held.clean_accuracy, picked), default=0.0)
        worthy = [place for place, candidate in enumerate(line) if held.clean_accuracy(candidate) >= best_clean]
        picked += _first_reaching(line[: max(worthy, default=-1) + 1], held.robust, held.enough)
    return target, picked


def _lines(model: MixedClassifier, choice: Choice) -> Iterator[list[Candidate]]:
    """Lines of candidates, each in ascending order of alpha."""
    if not model.alpha.varies:
        if choice.vary != "alpha_min":
            raise ValueError("a constant alpha has no bias that could vary; vary 'alpha_min'")
        yield [_constant(value) for value in choice.values]
        return
    for width, scale in product(choice.widths, choice.scales):
        for other in choice.biases if choice.vary == "alpha_min" else choice.alpha_mins:
            pairs = [(v, other) if choice.vary == "alpha_min" else (other, v) for v in choice.values]
            yield [
                Candidate(alpha_min=low, alpha_max=round(min(1.0, low + width), 10), logit_scale=scale, logit_bias=bias)
                for low, bias in pairs
            ]


def _first_reaching(line: list[Candidate], robust: Callable[[Candidate], float], target: float) -> list[Candidate]:
    """The first candidate with ``robust >= target``, by bisection; none if none is found.

    If ``robust`` does not grow along the line, the candidate found reaches the target but need not be the first.
    """
    low, high = 0, len(line)  # if robust grows, all before low miss the target; line[high], if it exists, reaches it
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
    """Held-out examples, and the accuracies of candidates on them."""

    on_candidate: OnCandidate

    def __init__(
        self, model: MixedClassifier, images: Tensor, labels: Tensor, choice: Choice, options: ChoiceOptions
    ) -> None:
        self.model, self.images, self.labels, self.choice = model, images, labels, choice
        self.threat = threat_of(options.get("threat"), options.get("norm"), options.get("eps"))
        self.seed, self.batch_size = options.get("seed", 0), options.get("batch_size", 256)
        self.device = options.get("device") or images.device
        count = min(choice.attacked_examples or len(labels), len(labels))
        self.attacked = torch.arange(count) * len(labels) // count
        self._log_std, self._log_rob = self._passes(_constant(0.0)), self._passes(_constant(1.0))
        check_classes(labels, self._log_std.shape[1])
        # alpha_logit = 1 * the mixing network's normalized output + 0
        raw = Candidate(alpha_min=0.0, alpha_max=1.0, logit_scale=1.0, logit_bias=0.0)
        self._normalized = self._passes(raw) if model.alpha.varies else None
        self.tried: dict[Candidate, tuple[float, float]] = {}  # clean and robust accuracy
        self.enough = 0.0  # below it, a robust accuracy need not be known exactly
        self._state: BoundState | None = None
        self._known: dict[str, float] = {}  # robust accuracies that were noted

    @property
    def judged_on(self) -> int:
        """How many examples the rule's accuracy is of."""
        return len(self.labels if self.choice.rule == "clean" else self.attacked)

    @torch.no_grad()
    def _passes(self, candidate: Candidate) -> Tensor:
        """Log-probabilities (N, C) with a constant alpha, or alpha_logit (N,) of an adaptive one, on the CPU."""
        mixed = candidate.applied_to(self.model)
        asked = mixed if candidate.logit_scale is None else mixed.alpha_logit_of
        with refusals_named(self.images):
            return torch.cat([asked(batch.to(self.device)).cpu() for batch in self.images.split(self.batch_size)])

    def clean_accuracy(self, candidate: Candidate) -> float:
        """Clean accuracy, from cached outputs of g, h and the mixing network."""
        outputs = BaseOutputs(self._log_std, self._log_rob)
        if self._normalized is not None and candidate.logit_scale is not None and candidate.logit_bias is not None:
            outputs = outputs._replace(alpha_logit=candidate.logit_scale * self._normalized + candidate.logit_bias)
        mixed = outputs.mixed(candidate.alpha_like(self.model.alpha).log_weights(outputs))
        return float((mixed.argmax(dim=1) == self.labels.cpu()).double().mean())

    def robust_accuracy(self, candidate: Candidate, enough: float) -> float:
        """Share of the attacked examples that are robust to every attack, judged by the mix itself.

        Once it falls below ``enough``, the attacks stop; the value returned is then an upper bound.
        """
        mixed, choice = candidate.applied_to(self.model), self.choice
        standing = self.attacked[self._right(mixed, self.images[self.attacked], self.attacked)]
        if not choice.attacks:
            return len(standing) / len(self.attacked)
        settings = AttackSettings(attacks=choice.attacks, seed=self.seed, batch_size=self.batch_size)  # type: ignore[arg-type]
        classes = self._log_std.shape[1]
        search = Search(
            mixed,
            self.threat,
            fitted(choice.limited(settings), classes).on(torch.device(self.device).type),
            num_classes=classes,
            device=self.device,
        )
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

    def robust(self, candidate: Candidate) -> float:
        """The robust accuracy, cached, or measured and saved; below ``self.enough`` possibly only an upper bound."""
        if candidate not in self.tried:
            about = asdict(candidate)
            found = self._known.get(json.dumps(about))
            if found is None:
                found = self.robust_accuracy(candidate, 0.0 if candidate == _constant(1.0) else self.enough)
                if self._state is not None:
                    self._state.append("candidate", {}, {"candidate": about, "robust": found})
            self.tried[candidate] = self.clean_accuracy(candidate), found
            self.on_candidate(candidate, *self.tried[candidate])
        return self.tried[candidate][1]

    @contextmanager
    def noted_in(self, folder: Path) -> Iterator[None]:
        """Within the block, use the results in a folder and save new ones there."""
        if (folder / _FORMER_FILE).exists():
            raise ResultsError(f"{folder / _FORMER_FILE} is of an earlier version; delete it to choose anew")
        self._state = BoundState(folder / CHOICE, self._binding())
        with self._state.locked():
            for candidate, robust in self._state.entries(
                "candidate", lambda _, about: (about["candidate"], about["robust"])
            ):
                self._known[json.dumps(candidate)] = float(robust)
            yield

    def _binding(self) -> dict[str, Any]:
        """Everything that decides robust accuracies."""
        names = ("rule", "target", "relative", "attacks", "attack_steps", "attack_targets", "attack_starts")
        return {
            **{name: getattr(self.choice, name) for name in names},
            "threat": self.threat,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "data": fingerprint(self.images[self.attacked], self.labels[self.attacked]),
            "model": identity_of(self.model, self.images.shape[1:]).sha256,
            "maps": [repr(self.model.std_map), repr(self.model.rob_map)],
        }
