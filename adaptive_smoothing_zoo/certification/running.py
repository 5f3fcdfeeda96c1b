"""What every certification by sampling shares: groups of images, a journal, progress, and one state of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import own_copy
from adaptive_smoothing_zoo.certification.journal import Journal
from adaptive_smoothing_zoo.certification.logs import Certificates, certificates_of
from adaptive_smoothing_zoo.certification.radii import Floats
from adaptive_smoothing_zoo.certification.sampling import Copies, Sampler, Smoothing, Votes
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.machine.devices import known_device
from adaptive_smoothing_zoo.machine.ready import device_of, ready
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings


@dataclass(frozen=True, kw_only=True)
class CertifyProgress:
    """Where a run stands.

    Attributes:
        done, total: examples that are finished, and those wanted.
        samples, samples_total: noisy images classified in this run, and how many it will be; where sampling is
            adaptive, at first how many it can be, then an estimate from the examples that are finished.
    """

    done: int
    total: int
    samples: int
    samples_total: int


OnProgress = Callable[[CertifyProgress], None]


class Rule(Protocol):
    """How many votes are asked for, and what they certify."""

    @property
    def n(self) -> int:
        """Samples for one image at most, beside those that choose its class."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the log."""

    def settings(self) -> dict[str, Any]:
        """Everything in the rule that decides certificates, as JSON values."""

    def group_size(self, batch_size: int) -> int:
        """How many images are done together."""

    def certify(self, copies: Copies, tops: Tensor) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
        """Predictions (-1 for none), radii and numbers of samples of a group whose classes ``tops`` are chosen."""


@own_surroundings()
def run_certification(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rule: Rule,
    *,
    sigma: float,
    n0: int,
    votes: Votes = "hard",
    batch_size: int | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    fold: bool = True,
    dtype: torch.dtype = torch.float32,
    log: str | Path | None = None,
    times: bool = True,
    on_progress: OnProgress | None = None,
) -> Certificates:
    """Apply a rule to every image; see ``certify`` for the arguments."""
    check_examples(images, labels)
    places = np.arange(len(images)) if indices is None else np.asarray(indices)
    if places.dtype.kind not in "iu":
        raise ValueError(f"dataset indices must be whole numbers, got {places.dtype}")
    if places.shape != (len(images),):
        raise ValueError(f"{len(images)} images need as many indices, got {places.shape}")
    if len(np.unique(places)) < len(images) or (places < 0).any():
        raise ValueError("dataset indices must be different numbers >= 0")
    if (n0 := whole_number(n0, "n0")) < 1:
        raise ValueError(f"n0 must be at least 1, got {n0}")
    images, labels = own_copy(images), own_copy(labels)
    where = (device_of(model) or torch.device("cpu")) if device is None else known_device(device)
    smoothing = Smoothing(
        sigma=sigma,
        votes=votes,
        seed=whole_number(seed, "the seed"),
        batch_size=(128 if where.type == "cpu" else 1000)
        if batch_size is None
        else whole_number(batch_size, "the batch size"),
        device=where,
        fold=fold,
        dtype=dtype,
    )
    report = _Report(len(places), on_progress)
    with ready(model, where) as net:
        sampler = Sampler(net, images, labels, places, smoothing, report.add)
        settings = {
            **sampler.settings(),
            "model": identity_of(model, images.shape[1:]).as_json(),
            "n0": n0,
            **rule.settings(),
        }
        with nullcontext() if log is None else Journal(Path(log), settings, rule.columns) as journal:
            rows = {} if journal is None else _rows(journal.done, n0 + rule.n)
            groups = _open_groups(places, rule.group_size(smoothing.batch_size), rows)
            report.begin(len(rows), sum(len(group) for group in groups), n0 + rule.n)
            with torch.inference_mode(), torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
                for group in groups:
                    found = _certify_group(sampler, rule, group, n0, times)
                    new = {place: row for place, row in found.items() if place not in rows}
                    if journal is not None:
                        journal.append(certificates_of(list(new.values())))
                    rows |= new
                    report.finished(len(rows), len(group))
    return certificates_of([rows[int(place)] for place in places])


def _certify_group(sampler: Sampler, rule: Rule, group: range, n0: int, times: bool) -> dict[int, tuple[Any, ...]]:
    """The rows of a log for a group, by dataset index."""
    start = time.perf_counter()
    copies = sampler.copies_of(group)
    predictions, radii, samples = rule.certify(copies, copies.choose(n0))
    seconds = (time.perf_counter() - start) / len(group) if times else np.nan
    rows = {}
    for i, prediction, radius, used in zip(group, predictions.tolist(), radii.tolist(), samples.tolist(), strict=True):
        place, label = int(sampler.places[i]), int(sampler.labels[i])
        rows[place] = (place, label, prediction, radius, prediction == label, seconds, n0 + used)
    return rows


def _rows(done: Certificates, samples: int) -> dict[int, tuple[Any, ...]]:
    """Certificates of an earlier run with the same settings, by dataset index, in the order of a log's columns.

    Where the log does not tell the number of samples, it is always ``samples``.
    """
    names = ("index", "label", "prediction", "radius", "correct", "seconds", "samples")
    columns = [getattr(done, name).tolist() for name in names]
    return {row[0]: (*row[:-1], row[-1] or samples) for row in zip(*columns, strict=True)}


def _open_groups(places: NDArray[np.int64], size: int, rows: dict[int, Any]) -> list[range]:
    """The groups of which some example has no certificate yet.

    Which images form a group is fixed, so that an image meets the same neighbours in a run that goes on as in one that
    was not interrupted.
    """
    groups = [range(i, min(i + size, len(places))) for i in range(0, len(places), size)]
    return [group for group in groups if any(int(places[i]) not in rows for i in group)]


class _Report:
    """Counts, and tells whoever wants to know."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self.total, self.on_progress = total, on_progress
        self.done = self.samples = 0
        self._left = self._sampled = self._settled = 0  # examples to sample, those sampled, and the samples of these
        self._each = 0.0  # samples that an example takes

    def begin(self, done: int, left: int, each: int) -> None:
        self.done, self._left, self._each = done, left, each

    def add(self, samples: int) -> None:
        self.samples += samples
        self._tell()

    def finished(self, done: int, examples: int) -> None:
        self.done, self._settled = done, self.samples
        self._left, self._sampled = self._left - examples, self._sampled + examples
        self._each = self.samples / self._sampled
        self._tell()

    def _tell(self) -> None:
        if self.on_progress is not None:
            expected = max(self.samples, self._settled + round(self._each * self._left))
            self.on_progress(
                CertifyProgress(done=self.done, total=self.total, samples=self.samples, samples_total=expected)
            )


def whole_number(value: Any, name: str) -> int:
    """A number without a fraction, also one that is written as 1e3.

    Raises:
        ValueError: it is none.
    """
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):  # of no number, NaN, infinity
        number = None
    if number is None or number != value:
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return number
