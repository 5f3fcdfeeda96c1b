"""The errors a user can cause, one base class so that the command line can tell them from bugs."""

import reprlib
from collections.abc import Mapping
from typing import Any


class ZooError(Exception):
    """Something the user can put right; the message says what happened, to which item, and what to do."""


class ConfigError(ZooError, ValueError):
    """An entry or a config.json that does not say what it must."""


class WeightsError(ZooError, ValueError):
    """A weights file that is missing, damaged, or made for something else."""


class UnknownModelError(ZooError, KeyError):
    """A name, data set or threat model that the zoo does not have."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


class EvaluationError(ZooError, RuntimeError):
    """An evaluation whose result would not be a valid number."""


class ResultsError(ZooError, ValueError):
    """Recorded results that are missing, damaged, or not fit for what is asked of them."""


class TrainingError(ZooError, RuntimeError):
    """A training that cannot go on."""


class HubError(ZooError, RuntimeError):
    """What the Hugging Face Hub does not take, or the way to it that is closed."""


def reason(error: BaseException) -> str:
    """What another library's error says, in one line that fits into a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


def shown(value: Any) -> str:
    """A value in a message: its repr, cut short in the middle."""
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 100
_REPR.maxtuple = _REPR.maxlist = _REPR.maxdict = 40


def check_keywords(given: Mapping[str, object], known: type) -> None:
    """Raise TypeError, as Python does, for a keyword that is no key of the ``TypedDict``."""
    if unknown := sorted(given.keys() - known.__annotations__.keys()):
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
