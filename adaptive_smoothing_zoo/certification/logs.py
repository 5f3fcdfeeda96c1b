"""Certificates of a data set: what they hold, and the usual log format."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptive_smoothing_zoo.certification.rounding import Floats, Values
from adaptive_smoothing_zoo.errors import ResultsError, reason
from adaptive_smoothing_zoo.storage.files import write_text

ABSTAIN = -1
COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")  # time may be missing in others' files
FIELDS = ("index", "label", "prediction", "radius", "correct", "seconds", "samples", "p_top", "p_runner_up", "top_k")
# fields that need not be given, and what they are then
OPTIONAL = {"samples": 0, "p_top": np.nan, "p_runner_up": np.nan, "top_k": 1}
LONGEST = timedelta.max.total_seconds()
TIME = re.compile(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d(?:\.\d+)?)")  # as str(timedelta) writes it


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificates:
    """One certificate per example; read-only arrays of one length N.

    Attributes:
        index: place in the data set, each at most once.
        label: the true class.
        prediction: the certified class; -1 where there is none (abstention).
        radius: >= 0, in units of the images: no smaller perturbation changes the prediction. Of the top k: no smaller
            one moves the prediction, here the label, out of the k likeliest classes.
        correct: prediction == label.
        seconds: time spent; NaN if unknown.
        samples: noisy images classified; 0 if there were none, or if nobody counted (also if not given).
        p_top, p_runner_up: what bounds the smoothed net's probability of its label from below, and those of all other
            classes from above, or of all but k - 1 for the top k; NaN where the radius alone tells (also if not given).
        top_k: k, if the radius is about the k likeliest classes; else 1 (also if not given).

    Raises:
        ValueError: arrays of different lengths, or values that contradict each other or these ranges.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    radius: Floats
    correct: NDArray[np.bool_]
    seconds: Floats
    samples: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    p_top: Floats = field(default_factory=lambda: np.zeros(0))
    p_runner_up: Floats = field(default_factory=lambda: np.zeros(0))
    top_k: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        kinds: dict[str, type] = dict.fromkeys(("radius", "seconds", "p_top", "p_runner_up"), np.float64)
        kinds["correct"] = np.bool_
        for name, value in OPTIONAL.items():
            if len(getattr(self, name)) == 0:
                object.__setattr__(self, name, np.full(len(self.index), value))
        for name in FIELDS:
            array = _exactly(getattr(self, name), kinds.get(name, np.int64), name)
            if array.shape != (len(self.index),):
                raise ValueError(f"{name} must have shape ({len(self.index)},), got {array.shape}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        for wrong, what in (
            (self.index < 0, "a negative index"),
            (self.label < 0, "a negative label"),
            (self.prediction < ABSTAIN, "a prediction that is neither a class nor -1"),
            (~(self.radius >= 0), "a radius that is negative or not a number"),
            ((self.prediction == ABSTAIN) & (self.radius > 0), "a radius though nothing was predicted"),
            (self.correct != (self.prediction == self.label), "a correctness that contradicts label and prediction"),
            ((self.seconds < 0) | (self.seconds > LONGEST), "a time that is negative or beyond all calendars"),
            (self.samples < 0, "a negative number of samples"),
            ((self.p_top < 0) | (self.p_top > 1), "a probability outside [0, 1]"),
            ((self.p_runner_up < 0) | (self.p_runner_up > 1), "a probability outside [0, 1]"),
            (self.top_k < 1, "a top_k below 1"),
        ):
            if wrong.any():
                raise ValueError(f"example {self.index[wrong][0]} has {what}")
        values, counts = np.unique(self.index, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"example {values[counts > 1][0]} appears twice")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def abstained(self) -> NDArray[np.bool_]:
        """(N,) whether there is no certified class."""
        return np.asarray(self.prediction == ABSTAIN)

    def average_certified_radius(self) -> float:
        """ACR: the mean over all examples of radius * [correct]; ValueError if there are none."""
        self._check_not_empty()
        return float(np.where(self.correct, self.radius, 0.0).mean())

    def certified_accuracy(self, radii: Values) -> Floats:
        """Share of examples (fractions) that are correct with at least each of the radii; an array of their shape.

        Raises:
            ValueError: there are no examples, or a radius is negative.
        """
        self._check_not_empty()
        asked = np.asarray(radii, dtype=np.float64)
        if not (asked >= 0).all():
            raise ValueError("radii must be numbers >= 0")
        reached = np.sort(self.radius[self.correct])
        return np.asarray((len(reached) - np.searchsorted(reached, asked, side="left")) / len(self))

    def with_radii(self, radius: Floats) -> Certificates:
        """The same predictions with other radii; where a radius is 0, none."""
        prediction = np.where(radius > 0, self.prediction, ABSTAIN)
        return replace(self, prediction=prediction, radius=radius, correct=prediction == self.label)

    def write(self, path: Path) -> None:
        """Write the log that ``read_log`` reads, radii to the last bit; ResultsError if it cannot be written."""
        bounded = bool(np.isfinite(self.p_top).any())
        columns = COLUMNS + ("p_top", "p_runner_up") * bounded + ("top_k",) * bool((self.top_k > 1).any())
        write_text(path, header(columns) + "".join(format_row(self, i, columns) for i in range(len(self))))

    def _check_not_empty(self) -> None:
        if len(self) == 0:
            raise ValueError("there are no certificates to average")


def _exactly(values: Any, kind: type, name: str) -> NDArray[Any]:
    """A new array of a kind of numbers, if the values are such."""
    given = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    try:
        array: NDArray[Any] = given.astype(kind)
        exact = bool(((array == given) | (array != array)).all())
    except (OverflowError, TypeError) as error:
        raise ValueError(f"{name} must be numbers of the kind {kind.__name__}: {reason(error)}") from None
    if not exact or given.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers of the kind {kind.__name__}, got {given.dtype} with others")
    return array


def header(columns: tuple[str, ...]) -> str:
    """The first line of a log, with its end of line."""
    return "\t".join(columns) + "\n"


def format_row(certificates: Certificates, i: int, columns: tuple[str, ...] = COLUMNS) -> str:
    """The line of the i-th certificate, with its end of line."""
    seconds = float(certificates.seconds[i])
    values = {
        "idx": str(certificates.index[i]),
        "label": str(certificates.label[i]),
        "predict": str(certificates.prediction[i]),
        "radius": repr(float(certificates.radius[i])),
        "correct": str(int(certificates.correct[i])),
        "time": str(timedelta(seconds=seconds)) if np.isfinite(seconds) else "nan",
        "samples": str(certificates.samples[i]),
        "p_top": repr(float(certificates.p_top[i])),
        "p_runner_up": repr(float(certificates.p_runner_up[i])),
        "top_k": str(certificates.top_k[i]),
    }
    return "\t".join(values[name] for name in columns) + "\n"


def read_log(path: str | Path) -> Certificates:
    """Read a certification log in the format of [CRK19], which most who certify by smoothing use.

    Tab-separated with a header line: idx, label, predict (-1: abstained), radius, correct (0 or 1), and optionally
    time (seconds, or h:mm:ss), samples, p_top, p_runner_up and top_k. Further columns and empty lines are ignored.
    Published logs give radii to three digits, so one may be up to half a unit of the third digit too large; those of
    this package are exact.

    Raises:
        ResultsError: there is no such file, it cannot be read, or a line is damaged; the message names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ResultsError(f"there is no certification log {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"cannot read the certification log {path}: {reason(error)}") from error
    return parse_log(text, str(path))


def parse_log(text: str, where: str) -> Certificates:
    """``read_log`` of a file's content; ``where`` names it in messages."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise ResultsError(f"{where} is empty; a certification log starts with the line {'  '.join(COLUMNS)}")
    names = [name.strip() for name in lines[0][1].split("\t")]
    if missing := [name for name in COLUMNS[:-1] if name not in names]:
        raise ResultsError(f"{where}: the first line must name tab-separated columns; {', '.join(missing)} missing")
    rows = [_parse_row(line, names, f"{where}, line {number}") for number, line in lines[1:]]
    seen: dict[int, int] = {}
    for (number, _), row in zip(lines[1:], rows, strict=True):
        if (first := seen.setdefault(row[0], number)) != number:
            raise ResultsError(f"{where}, line {number}: example {row[0]} appears again (first in line {first})")
    return certificates_of(rows)


def certificates_of(rows: list[tuple[Any, ...]]) -> Certificates:
    """Certificates from tuples in the order of ``FIELDS``, with or without the optional ones at the end."""
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    return Certificates(**{name: np.array(column) for name, column in zip(FIELDS, columns, strict=False)})


def _parse_row(line: str, names: list[str], where: str) -> tuple[Any, ...]:
    """The values of one line in the order of the columns, checked on their own and against each other."""
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != len(names):
        raise ResultsError(f"{where}: expected {len(names)} fields, got {len(fields)}; the line is damaged")
    values = dict(zip(names, fields, strict=True))
    try:
        row = (
            int(values["idx"]),
            int(values["label"]),
            int(values["predict"]),
            float(values["radius"]),
            bool(("0", "1").index(values["correct"])),
            _parse_time(values.get("time", "nan")),
            int(values.get("samples", "0")),
            float(values.get("p_top", "nan")),
            float(values.get("p_runner_up", "nan")),
            int(values.get("top_k", "1")),
        )
        certificates_of([row])
    except (ValueError, OverflowError) as error:
        raise ResultsError(f"{where} is damaged: {reason(error)}") from error
    return row


def _parse_time(text: str) -> float:
    match = TIME.fullmatch(text)
    if match is None:
        return float(text)
    days, hours, minutes, seconds = match.groups()
    return int(days or 0) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
