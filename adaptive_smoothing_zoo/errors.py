"""Errors that a user can cause. Their base class lets the command line distinguish them from bugs."""

import reprlib
from collections.abc import Mapping
from typing import Any


class ZooError(Exception):
    """An error that the user can fix; the message says what happened, to which item, and what to do."""


class ConfigError(ZooError, ValueError):
    """An invalid or incomplete entry or config.json."""


class WeightsError(ZooError, ValueError):
    """A weights file that is missing, damaged, or made for something else."""


class UnknownModelError(ZooError, KeyError):
    """A name, data set or threat model that the zoo does not have."""

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


class EvaluationError(ZooError, RuntimeError):
    """An evaluation that cannot give a valid number."""


class ResultsError(ZooError, ValueError):
    """Recorded results that are missing, damaged, or not usable for the request."""


class TrainingError(ZooError, RuntimeError):
    """A training run that cannot continue."""


class HubError(ZooError, RuntimeError):
    """The Hugging Face Hub rejects a request or cannot be reached."""


def reason(error: BaseException) -> str:
    """The message of another library's error, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


def shown(value: Any) -> str:
    """A value for a message: its repr, shortened in the middle."""
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 100
_REPR.maxtuple = _REPR.maxlist = _REPR.maxdict = 40


def check_keywords(given: Mapping[str, object], known: type) -> None:
    """Raise TypeError, as Python does, for a keyword that the ``TypedDict`` lacks."""
    if unknown := sorted(given.keys() - known.__annotations__.keys()):
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
