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
        ValueError: unknown attack.
    """
    if name not in Entry.known:
        raise ValueError(f"unknown attack {name!r}; known: {', '.join(sorted(Entry.known))}")
    return Entry.known[name]


def complete(settings: AttackSettings) -> AttackSettings:
    """The settings with every number of every attack.

    Raises:
        ValueError: an unknown attack, or a number that the attack lacks.
    """
    return replace(settings, attacks=tuple(_completed(plan) for plan in settings.attacks))


def fitted(settings: AttackSettings, classes: int) -> AttackSettings:
    """Complete settings for a model with this number of classes.

    An attack whose loss needs more classes is replaced by the attack registered for this case, if any (the reference
    engine has none). The settings record what was left out and are then not standard.

    Raises:
        ValueError: no attack is left.
    """
    settings = complete(settings)
    fitting = [_fitting(plan, settings, classes) for plan in settings.attacks]
    aside = tuple(name for name, plan in zip(settings.names, fitting, strict=True) if plan is None or plan.name != name)
    plans = tuple(plan for plan in fitting if plan is not None)
    if not plans:
        entries = [entry_of(name) for name in aside]
        entries += [entry_of(entry.instead) for entry in entries if entry.instead and settings.engine == "fast"]
        least = min(entry.least_classes for entry in entries)
        raise ValueError(f"the loss of {', '.join(aside)} needs at least {least} classes, got {classes}")
    return replace(settings, attacks=plans, aside=(*settings.aside, *aside)) if aside else settings


def _fitting(plan: Plan, settings: AttackSettings, classes: int) -> Plan | None:
    """The plan, or that of the replacement; None if there is none."""
    entry = entry_of(plan.name)
    if classes >= entry.least_classes:
        return plan
    if not entry.instead or settings.engine != "fast" or entry.instead in settings.names:
        return None
    other = entry_of(entry.instead)
    numbers = {name: number for name, number in plan.numbers.items() if name in other.numbers}
    return Plan(entry.instead, **numbers) if classes >= other.least_classes else None


def _completed(plan: Plan) -> Plan:
    numbers = entry_of(plan.name).numbers
    for name in plan.numbers:
        if name not in numbers:
            has = ", ".join(name for name in NUMBERS if name in numbers) or "none of these numbers"
            raise ValueError(f"{plan.name} has no {name}; it has {has}")
    return plan.filled(numbers)
