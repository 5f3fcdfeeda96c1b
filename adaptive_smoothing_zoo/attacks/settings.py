"""How an evaluation attacks: which attacks, how long, with which seed, and in which precision."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from math import inf
from operator import index
from typing import Any, Literal, TypedDict, get_args

from adaptive_smoothing_zoo.errors import shown

NUMBERS = ("iterations", "targets", "restarts", "queries", "eot")
"""What the length of an attack is made of."""


@dataclass(frozen=True)
class Plan:
    """One attack of a protocol. A number that is None is the attack's own.

    Attributes:
        name: in the catalogue of attacks.
        iterations: gradient steps of a run.
        targets: wrong classes that a targeted attack tries, from the likeliest on; all, if there are fewer.
        restarts: random starts, of each target if there are such.
        queries: changes that a random search tries.
        eot: passes that each gradient is the mean of, for randomized nets ("expectation over transformation").

    Raises:
        ValueError: the name cannot be one, or a number is no integer of at least 1.
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
        """Those that are given."""
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
    """How to attack. The defaults are RobustBench's protocol, and two settings of one meaning are equal.

    Attributes:
        attacks: in order, each on the points that those before it left. A name alone stands for a plan with the
            attack's own numbers.
        engine: "fast", this package's attacks, with random numbers that belong to each example; or "reference",
            pyautoattack itself.
        seed: of the random numbers.
        search_precision: of the passes that look for adversarial examples: "float32"; "tf32", with which CUDA rounds
            float32 products to TF32; or "bfloat16" (autocast). None for the device's own, see ``on``.
        judge_precision: of the passes that decide; "float32", without TF32.
        channels_last: keep convolution weights in that memory format during the run. The same function up to rounding,
            and up to twice as fast for wide nets on CPUs.
        batch_size: most points per batch; None for what the device's memory holds. The reference engine's random
            numbers depend on it, the fast engine's do not.
        individual: each attack meets every correctly classified point, not only those that are still robust.
        begun_at: the smaller radius whose adversarial examples the attacks began from; None if from nothing.
        aside: attacks that were meant, but whose loss needs more classes than the model has (see ``catalogue.fitted``).

    Raises:
        ValueError: settings that cannot be meant.
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
            raise ValueError(f"the reference's seed must lie in -2^63 to 2^64 - 1, got {shown(self.seed)}")
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
        """AutoAttack's version of a name, "standard", "plus" or "rand" [CH20], with further settings.

        Raises:
            ValueError: another name, or settings that cannot be meant.
        """
        if name not in VERSIONS:
            raise ValueError(f"unknown version {shown(name)}; known: {', '.join(VERSIONS)}")
        return cls(attacks=VERSIONS[name], **more)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the attacks."""
        return tuple(plan.name for plan in self.attacks)

    @property
    def tf32(self) -> bool:
        """Whether the search may round to TF32."""
        return self.search_precision == "tf32"

    @property
    def is_standard(self) -> bool:
        """Whether verdicts are those of the standard protocol. Engine, seed, batch size and memory format are free.

        So is TF32 for the search, in which PyTorch lets convolutions compute by default and RobustBench's users
        therefore attack, since float32 decides what is adversarial. A search in bfloat16 is not standard.
        """
        return not self._differences and self.attacks == STANDARD_PLANS

    @property
    def averages(self) -> bool:
        """Whether some gradient is the mean of several passes: the net is taken to be randomized, one pass judges."""
        return any(plan.averages for plan in self.attacks)

    @property
    def protocol(self) -> str:
        """What to call it: "AutoAttack standard", or what differs from that."""
        if self.is_standard:
            return STANDARD_PROTOCOL
        version = next((f"AutoAttack {name}" for name, plans in VERSIONS.items() if plans == self.attacks), None)
        return "; ".join([f"not standard: {version or '; '.join(map(str, self.attacks))}", *self._differences])

    @property
    def _differences(self) -> list[str]:
        """What differs from the standard protocol, but for the attacks themselves."""
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
        """The same with the precision in which a device searches.

        If none is named, that is TF32 on CUDA, and float32 on CPUs and with the reference engine, which does not go on
        where the search believes that a point is broken and the judge does not. Only CUDA rounds to TF32.
        """
        own: Precision = "tf32" if self.engine == "fast" else "float32"
        precision = self.search_precision or own
        return replace(self, search_precision="float32" if precision == "tf32" and device_type != "cuda" else precision)

    def plan(self, name: str) -> Plan:
        """The plan of an attack."""
        return next(plan for plan in self.attacks if plan.name == name)

    def limited(self, **numbers: int | None) -> AttackSettings:
        """The same with these numbers, of those that each attack has: ``limited(iterations=20, queries=100)``."""
        given = {name: number for name, number in numbers.items() if number is not None}
        plans = (Plan(p.name, **{n: given.get(n, number) for n, number in p.numbers.items()}) for p in self.attacks)
        return replace(self, attacks=tuple(plans))


class SettingsWords(TypedDict, total=False):
    """The settings as single words of a call."""

    seed: int
    batch_size: int | None
    engine: str
    tf32: bool
    search_precision: Precision | None
    channels_last: bool


def settings_of(settings: AttackSettings | None, words: SettingsWords, **base: Any) -> AttackSettings:
    """The settings that a call names: whole, or by single words.

    Args:
        base: settings that hold in the second case where no word says otherwise.

    Raises:
        ValueError: both are given, or they make no settings.
    """
    if settings is not None:
        if words:
            raise ValueError(f"give {', '.join(words)} within settings=AttackSettings(...), not next to it")
        return settings
    rest: dict[str, Any] = {name: value for name, value in words.items() if name != "tf32"}
    if "tf32" in words:
        if "search_precision" in words:
            raise ValueError("give search_precision, or tf32, which says the same of two of them")
        rest["search_precision"] = "tf32" if words["tf32"] else "float32"
    if unknown := sorted(set(rest) - {field.name for field in fields(AttackSettings)}):
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
    return AttackSettings(**(base | rest))


def _integer(value: Any, what: str) -> int:
    """A Python integer, since NumPy's cannot be written and overflow; TypeError for what is none."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{what} must be an integer, got {shown(value)}") from None


def _plans(attacks: Iterable[Plan | str]) -> tuple[Plan, ...]:
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        raise ValueError(f"attacks are a tuple of names or plans, got {shown(attacks)}")
    standard = {plan.name: plan for plan in STANDARD_PLANS}
    plans = tuple(attack if isinstance(attack, Plan) else Plan(attack) for attack in attacks)
    names = [plan.name for plan in plans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each attack runs once, {twice[0]} is named twice")
    if not plans:
        raise ValueError("settings need at least one attack")
    return tuple(plan.filled(standard[plan.name].numbers) if plan.name in standard else plan for plan in plans)


STANDARD = AttackSettings()
