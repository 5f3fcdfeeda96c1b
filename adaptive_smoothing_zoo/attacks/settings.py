"""Settings of an evaluation: attacks, their length, seed and precision."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import inf
from operator import index
from typing import Any, Literal, TypedDict, get_args

from adaptive_smoothing_zoo.errors import shown

NUMBERS = ("iterations", "targets", "restarts", "queries", "eot")
"""The numbers that determine the length of an attack."""


@dataclass(frozen=True)
class Plan:
    """One attack of a protocol. A number that is None is the attack's own.

    Attributes:
        name: in the catalogue of attacks.
        iterations: gradient steps of a run.
        targets: wrong classes that a targeted attack tries, from the likeliest on; at most all.
        restarts: random starts, per target for targeted attacks.
        queries: changes that a random search tries.
        eot: passes averaged in each gradient, for randomized nets ("expectation over transformation").

    Raises:
        ValueError: an invalid name, or a number that is not an integer of at least 1.
    """

    name: str
    iterations: int | None = None
    targets: int | None = None
    restarts: int | None = None
    queries: int | None = None
    eot: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", self.name):
            raise ValueError(f"an attack's name has up to 40 of a-z, 0-9, - and _, got {shown(self.name)}")
        for name, number in self.numbers.items():
            try:
                whole = -1 if isinstance(number, bool) else index(number)
            except TypeError:
                whole = -1
            if whole < 1:
                raise ValueError(f"{name} of {self.name} must be an integer of at least 1, got {shown(number)}")
            object.__setattr__(self, name, whole)

    @property
    def numbers(self) -> dict[str, int]:
        """The numbers that are set."""
        return {name: getattr(self, name) for name in NUMBERS if getattr(self, name) is not None}

    @property
    def averages(self) -> bool:
        """Whether each gradient is the mean of several passes."""
        return (self.eot or 1) > 1

    def __str__(self) -> str:
        said = (f"{name}={number}" for name, number in self.numbers.items() if name != "eot" or self.averages)
        return " ".join([self.name, *said])

    def filled(self, numbers: dict[str, int]) -> Plan:
        """This plan, with these numbers where it has none."""
        return Plan(self.name, **(numbers | self.numbers))


STANDARD_PLANS = (
    Plan("apgd-ce", iterations=100, restarts=1, eot=1),
    Plan("apgd-t", iterations=100, targets=9, restarts=1, eot=1),
    Plan("fab-t", iterations=100, targets=9),
    Plan("square", queries=5000),
)
"""AutoAttack "standard" [CH20], as RobustBench runs it."""

STANDARD_ATTACKS = tuple(plan.name for plan in STANDARD_PLANS)
STANDARD_PROTOCOL = "AutoAttack standard"

VERSIONS = {
    "standard": STANDARD_PLANS,
    "plus": (
        Plan("apgd-ce", iterations=100, restarts=5, eot=1),
        Plan("apgd-dlr", iterations=100, restarts=5, eot=1),
        Plan("fab", iterations=100, restarts=5),
        Plan("square", queries=5000),
        Plan("apgd-t", iterations=100, targets=9, restarts=1, eot=1),
        Plan("fab-t", iterations=100, targets=9),
    ),
    "rand": (
        Plan("apgd-ce", iterations=100, restarts=1, eot=20),
        Plan("apgd-dlr", iterations=100, restarts=1, eot=20),
    ),
}
"""AutoAttack's versions [CH20]: "plus" attacks more, "rand" is for randomized nets."""

ENGINES = ("fast", "reference")
Precision = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """How to attack. The defaults are RobustBench's protocol. Equivalent settings compare equal.

    Attributes:
        attacks: in order, each on the points that are still robust. A name alone is a plan with the attack's own
            numbers.
        engine: "fast", this package's attacks, with random numbers per example; or "reference",
            pyautoattack itself.
        seed: of the random numbers.
        search_precision: of the passes that look for adversarial examples: "float32"; "tf32", with which CUDA rounds
            float32 products to TF32; or "bfloat16" (autocast). None for the device's default, see ``on``.
        judge_precision: of the passes that decide; "float32", without TF32.
        channels_last: keep convolution weights in that memory format during the run. Outputs are the same up to
            rounding; wide nets on CPUs run up to twice as fast.
        batch_size: maximal number of points per batch; None for what the device's memory holds. The reference engine's
            random numbers depend on it, the fast engine's do not.
        individual: each attack runs on every correctly classified point, not only on those that are still robust.
        begun_at: the smaller radius whose adversarial examples the attacks started from; None if there is none.
        aside: attacks left out because their loss needs more classes than the model has (see ``catalogue.fitted``).

    Raises:
        ValueError: invalid or contradictory settings.
    """

    attacks: tuple[Plan, ...] = STANDARD_PLANS
    engine: str = "fast"
    seed: int = 0
    search_precision: Precision | None = None
    judge_precision: Literal["float32"] = "float32"
    channels_last: bool = False
    batch_size: int | None = None
    individual: bool = False
    begun_at: float | None = None
    aside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", _plans(self.attacks))
        if self.engine not in ENGINES:
            raise ValueError(f"unknown engine {shown(self.engine)}; known: {', '.join(ENGINES)}")
        if self.search_precision not in (None, *get_args(Precision)):
            raise ValueError(
                f"the search precision must be float32, tf32 or bfloat16, got {shown(self.search_precision)}"
            )
        if self.engine == "reference" and self.search_precision == "bfloat16":
            raise ValueError("the reference engine searches in float32 or tf32, not in bfloat16; use the engine 'fast'")
        if self.judge_precision != "float32":
            raise ValueError(f"the judge computes in float32, got {shown(self.judge_precision)}")
        object.__setattr__(self, "seed", _integer(self.seed, "the seed"))
        if self.engine == "reference" and not -(2**63) <= self.seed < 2**64:
            raise ValueError(f"the reference engine's seed must be in -2^63 to 2^64 - 1, got {shown(self.seed)}")
        for name in ("channels_last", "individual"):
            object.__setattr__(self, name, bool(getattr(self, name)))
        if self.begun_at is not None and not 0.0 <= self.begun_at < inf:
            raise ValueError(f"the radius that attacks began from is a finite number >= 0, got {self.begun_at}")
        object.__setattr__(self, "aside", tuple(map(str, self.aside)))
        if self.batch_size is not None:
            object.__setattr__(self, "batch_size", _integer(self.batch_size, "the batch size"))
            if self.batch_size < 1:
                raise ValueError(f"the batch size must be at least 1, got {self.batch_size}")

    @classmethod
    def version(cls, name: str, **more: Any) -> AttackSettings:
        """AutoAttack's version "standard", "plus" or "rand" [CH20], with further settings.

        Raises:
            ValueError: another name, or invalid settings.
        """
        if name not in VERSIONS:
            raise ValueError(f"unknown version {shown(name)}; known: {', '.join(VERSIONS)}")
        return cls(attacks=VERSIONS[name], **more)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the attacks."""
        return tuple(plan.name for plan in self.attacks)

    @property
    def tf32(self) -> bool:
        """Whether the search may round to TF32."""
        return self.search_precision == "tf32"

    @property
    def is_standard(self) -> bool:
        """Whether this is the standard protocol. Engine, seed, batch size and memory format are free.

        TF32 is allowed for the search: it is PyTorch's default for convolutions, hence RobustBench's, and float32
        decides what is adversarial. A search in bfloat16 is not standard.
        """
        return not self._differences and self.attacks == STANDARD_PLANS

    @property
    def averages(self) -> bool:
        """Whether any attack averages gradients: the net is then considered randomized, and one pass judges."""
        return any(plan.averages for plan in self.attacks)

    @property
    def protocol(self) -> str:
        """Name of the protocol: "AutoAttack standard", or the differences from it."""
        if self.is_standard:
            return STANDARD_PROTOCOL
        version = next((f"AutoAttack {name}" for name, plans in VERSIONS.items() if plans == self.attacks), None)
        return "; ".join([f"not standard: {version or '; '.join(map(str, self.attacks))}", *self._differences])

    @property
    def _differences(self) -> list[str]:
        """Differences from the standard protocol other than the attacks."""
        aside, eot = ", ".join(self.aside), max(plan.eot or 1 for plan in self.attacks)
        return [
            text
            for text, said in (
                (f"without {aside}, for which the model has too few classes", bool(self.aside)),
                (f"eot {eot}, judged by one pass", self.averages),
                ("each attack on all correctly classified points", self.individual),
                (f"begun from the adversarial examples of radius {self.begun_at}", self.begun_at is not None),
                ("search in bfloat16", self.search_precision == "bfloat16"),
            )
            if said
        ]

    def on(self, device_type: str) -> AttackSettings:
        """The same settings with the search precision of a device.

        The default is TF32 on CUDA, and float32 on CPUs and with the reference engine, which stops at points that the
        search considers misclassified even if the judge disagrees. Only CUDA rounds to TF32.
        """
        own: Precision = "tf32" if self.engine == "fast" else "float32"
        precision = self.search_precision or own
        return replace(self, search_precision="float32" if precision == "tf32" and device_type != "cuda" else precision)

    def plan(self, name: str) -> Plan:
        """The plan of an attack."""
        return next(plan for plan in self.attacks if plan.name == name)

    def limited(self, **numbers: int | None) -> AttackSettings:
        """The same settings with these numbers, for attacks that have them: ``limited(iterations=20, queries=100)``.

        Raises:
            TypeError: a number that no attack has.
            ValueError: an attack whose numbers are not set yet, so that it would ignore these.
        """
        if unknown := sorted(numbers.keys() - set(NUMBERS)):
            raise TypeError(f"no attack has a number {unknown[0]!r}; known: {', '.join(NUMBERS)}")
        given = {name: number for name, number in numbers.items() if number is not None}
        if open_ := [plan.name for plan in self.attacks if given and not plan.numbers]:
            raise ValueError(
                f"{open_[0]} has no numbers to limit yet; set them, as Plan({open_[0]!r}, iterations=20), or call "
                "attacks.catalogue.complete(settings) first"
            )
        plans = (Plan(p.name, **{n: given.get(n, number) for n, number in p.numbers.items()}) for p in self.attacks)
        return replace(self, attacks=tuple(plans))


class SettingsWords(TypedDict, total=False):
    """The settings as single keywords of a call."""

    seed: int
    batch_size: int | None
    engine: str
    tf32: bool
    search_precision: Precision | None
    channels_last: bool


def settings_of(settings: AttackSettings | None, words: SettingsWords, **base: Any) -> AttackSettings:
    """The settings of a call's arguments: ``settings``, or single keywords.

    Args:
        base: defaults for the keywords.

    Raises:
        ValueError: both are given, or they are invalid.
    """
    if unknown := sorted(words.keys() - {"tf32", *(field.name for field in fields(AttackSettings))}):
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
    if settings is not None:
        if not isinstance(settings, AttackSettings):
            raise TypeError(
                f"settings must be AttackSettings, as AttackSettings(attacks=('apgd-ce',)), got {settings!r}"
            )
        if words:
            raise ValueError(f"give {', '.join(words)} inside settings=AttackSettings(...), not in addition to it")
        return settings
    rest: dict[str, Any] = {name: value for name, value in words.items() if name != "tf32"}
    if "tf32" in words:
        if "search_precision" in words:
            raise ValueError("give either search_precision or tf32")
        rest["search_precision"] = "tf32" if words["tf32"] else "float32"
    return AttackSettings(**(base | rest))


def _integer(value: Any, what: str) -> int:
    """Convert to a Python integer, since NumPy's overflow and cannot be serialized; TypeError if not an integer."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {shown(value)}") from None


def _plans(attacks: Iterable[Plan | str]) -> tuple[Plan, ...]:
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        raise ValueError(f"attacks must be a tuple of names or plans, got {shown(attacks)}")
    standard = {plan.name: plan for plan in STANDARD_PLANS}
    plans = tuple(attack if isinstance(attack, Plan) else Plan(attack) for attack in attacks)
    names = [plan.name for plan in plans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each attack runs once, {twice[0]} is named twice")
    if not plans:
        raise ValueError("settings need at least one attack")
    return tuple(plan.filled(standard[plan.name].numbers) if plan.name in standard else plan for plan in plans)


STANDARD = AttackSettings()
