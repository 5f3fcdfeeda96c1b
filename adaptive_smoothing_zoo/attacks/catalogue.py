"""All attacks by name. A new one is a file that registers it, and a line in ``ATTACK_FILES``."""

from dataclasses import replace
from importlib import import_module

from adaptive_smoothing_zoo.attacks.contract import Entry
from adaptive_smoothing_zoo.attacks.settings import NUMBERS, AttackSettings, Plan

__all__ = ["ATTACK_FILES", "Entry", "complete", "entry_of", "fitted"]

ATTACK_FILES = (  # a line for each file of this folder that registers attacks
    "autoattack.apgd",
    "autoattack.fab",
    "autoattack.square",
    "adaptive",
)
for _file in ATTACK_FILES:
    import_module(f"adaptive_smoothing_zoo.attacks.{_file}")


def entry_of(name: str) -> Entry:
    """The catalogue's entry.

    Raises:
        ValueError: there is none.
    """
    if name not in Entry.known:
        raise ValueError(f"there is no attack {name!r}; known: {', '.join(sorted(Entry.known))}")
    return Entry.known[name]


def complete(settings: AttackSettings) -> AttackSettings:
    """The settings with every number of every attack.

    Raises:
        ValueError: an attack that does not exist, or a number that it does not have.
    """
    return replace(settings, attacks=tuple(_completed(plan) for plan in settings.attacks))


def fitted(settings: AttackSettings, classes: int) -> AttackSettings:
    """Complete settings for a model of so many classes.

    An attack whose loss needs more of them steps aside, and the one that is named for this case takes its place; the
    reference engine has no such attacks. What stepped aside is said in the settings, which are not standard then.

    Raises:
        ValueError: no attack is left.
    """
    settings, plans = complete(settings), list[Plan]()
    for plan in settings.attacks:
        entry = entry_of(plan.name)
        if classes >= entry.least_classes:
            plans.append(plan)
        elif entry.instead and settings.engine == "fast" and entry.instead not in settings.names:
            numbers = entry_of(entry.instead).numbers
            plans.append(Plan(entry.instead, **{name: n for name, n in plan.numbers.items() if name in numbers}))
    aside = tuple(name for name in settings.names if classes < entry_of(name).least_classes)
    if not plans:
        least = min(entry_of(name).least_classes for name in aside)
        raise ValueError(f"the loss of {', '.join(aside)} needs at least {least} classes, got {classes}")
    return replace(settings, attacks=tuple(plans), aside=(*settings.aside, *aside)) if aside else settings


def _completed(plan: Plan) -> Plan:
    numbers = entry_of(plan.name).numbers
    for name in plan.numbers:
        if name not in numbers:
            has = ", ".join(name for name in NUMBERS if name in numbers) or "none of these numbers"
            raise ValueError(f"{plan.name} has no {name}; it has {has}")
    return plan.filled(numbers)
