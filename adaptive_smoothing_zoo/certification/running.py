"""What every certification by sampling shares: groups of images, a journal, progress, and one state of the machine."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones.asking import asked, own_copy
from adaptive_smoothing_zoo.certification.journal import open_journal
from adaptive_smoothing_zoo.certification.logs import COLUMNS, FIELDS, OPTIONAL, Certificates, certificates_of
from adaptive_smoothing_zoo.certification.rounding import Floats
from adaptive_smoothing_zoo.certification.sampling import Copies, Sampler, Sampling
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.units import warn_of_noise


@dataclass(frozen=True, kw_only=True)
class CertifyProgress:
    """Where a run stands.

    Attributes:
        done, total: examples that are finished, and those wanted.
        samples, samples_total: noisy images classified in this run, and how many it will be at most, or probably.
    """

    done: int
    total: int
    samples: int
    samples_total: int


OnProgress = Callable[[CertifyProgress], None]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The images of a run, its log and its callback.

    Args:
        indices: (N,) dataset indices of the images, different numbers >= 0; 0 to N - 1 if None.
        log: a file to which each certificate is written as soon as it is known, in the format of ``read_log``. The same
            run resumes there after any interruption.
        times: record the time of each example in the log and the result. If False, repeated runs write identical logs.
        on_progress: called after each batch.
    """

    indices: Sequence[int] | None = None
    log: str | Path | None = None
    times: bool = True
    on_progress: OnProgress | None = None

    def places(self, count: int) -> NDArray[np.int64]:
        """The dataset indices of so many images; ValueError if they are not these."""
        places = np.arange(count) if self.indices is None else np.asarray(self.indices)
        if places.dtype.kind not in "iu":
            raise ValueError(f"dataset indices must be whole numbers, got {places.dtype}")
        if places.shape != (count,):
            raise ValueError(f"{count} images need as many indices, got {places.shape}")
        if len(np.unique(places)) < count or (places < 0).any():
            raise ValueError("dataset indices must be different numbers >= 0")
        return places


def settled(settings: Mapping[str, Any]) -> tuple[Sampling, Run]:
    """The fields of both, given as keywords.

    Raises:
        TypeError: an unknown keyword, or no sigma.
        ValueError: a value outside its range.
    """
    if "sigma" not in settings:
        raise TypeError("give sigma, the noise's standard deviation in units of pixels in [0, 1], as sigma=0.25")
    names = {field.name for field in fields(Run)}
    run = {name: value for name, value in settings.items() if name in names}
    return Sampling(**{name: value for name, value in settings.items() if name not in names}), Run(**run)


class Found(NamedTuple):
    """What a rule says of G images: classes (-1 for none), radii, numbers of samples; what else their log tells."""

    predictions: NDArray[np.int64]
    radii: Floats
    samples: NDArray[np.int64]
    p_top: Floats | None = None
    p_runner_up: Floats | None = None
    top_k: NDArray[np.int64] | None = None

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The same by image, as numbers."""
        known = {name: column for name, column in self._asdict().items() if column is not None}
        columns = {name: np.full(len(self.radii), value) for name, value in OPTIONAL.items()} | known
        return zip(*(columns[name].tolist() for name in self._fields), strict=True)


class Rule(ABC):
    """The number of votes to draw, and what they certify.

    Attributes:
        sampling: how votes are drawn; its n is the most for one image, next to those that choose its class.
        n0: samples that choose the class of an image; 0 if it is the label.
    """

    sampling: Sampling

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the log."""
        return COLUMNS

    @property
    def n0(self) -> int:
        return self.sampling.n0

    def check(self, classes: int) -> None:  # noqa: B027
        """Raise ValueError if the rule does not fit a net with so many classes."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything in the rule that decides certificates, as JSON values."""

    @abstractmethod
    def group_size(self, batch_size: int) -> int:
        """How many images are done together."""

    @abstractmethod
    def certify(self, copies: Copies, tops: Tensor) -> Found:
        """What is found of a group whose classes ``tops`` are chosen."""


Rows = dict[int, tuple[Any, ...]]  # of a log, by dataset index, in the order of its columns


@own_surroundings()
def run_certification(model: nn.Module, images: Tensor, labels: Tensor, rule: Rule, run: Run) -> Certificates:
    """Apply a rule to every image; see ``certify``."""
    asked(model)  # refuses what is no module
    check_examples(images, labels)
    places, sampling = run.places(len(images)), rule.sampling
    warn_of_noise(sampling.sigma)
    images, labels = own_copy(images), own_copy(labels)
    device, dtype = sampling.device_for(model), sampling.layers
    report = _Report(len(places), run.on_progress)
    with ready(model, device, tf32=sampling.tf32) as net:
        sampler = Sampler(net, images, labels, places, sampling, device, report.add)
        rule.check(sampler.classes)
        settings = {
            **sampler.settings(),
            "model": identity_of(model, images.shape[1:]).as_json(),
            "n0": rule.n0,
            **rule.settings(),
        }
        with nullcontext() if run.log is None else open_journal(Path(run.log), settings, rule.columns) as journal:
            rows = {} if journal is None else _rows(journal.done, rule.n0 + sampling.n)
            groups = _open_groups(places, rule.group_size(sampler.batch_size), rows)
            report.begin(len(rows), sum(len(group) for group in groups), rule.n0 + sampling.n)
            with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                for group in groups:
                    found = _certify_group(sampler, rule, group, run.times)
                    new = {place: row for place, row in found.items() if place not in rows}
                    if journal is not None:
                        journal.append(certificates_of(list(new.values())))
                    rows |= new
                    report.finished(len(rows), len(group))
    return certificates_of([rows[int(place)] for place in places])


def _certify_group(sampler: Sampler, rule: Rule, group: range, times: bool) -> Rows:
    start, n0 = time.perf_counter(), rule.n0
    copies = Copies(sampler, group)
    labels = sampler.labels[group.start : group.stop]
    found = rule.certify(copies, copies.choose(n0) if n0 else labels.to(sampler.device))
    seconds = (time.perf_counter() - start) / len(group) if times else np.nan
    rows = {}
    for i, (prediction, radius, used, *probabilities) in zip(group, found.rows(), strict=True):
        place, label = int(sampler.places[i]), int(sampler.labels[i])
        rows[place] = (place, label, prediction, radius, prediction == label, seconds, n0 + used, *probabilities)
    return rows


def _rows(done: Certificates, samples: int) -> Rows:
    """Certificates of an earlier run; ``samples`` where its log does not tell their number."""
    done = replace(done, samples=np.where(done.samples == 0, samples, done.samples))
    columns = [getattr(done, name).tolist() for name in FIELDS]
    return {row[0]: row for row in zip(*columns, strict=True)}


def _open_groups(places: NDArray[np.int64], size: int, rows: Rows) -> list[range]:
    """The groups of which some example has no certificate yet.

    Which images form a group is fixed, so that an image meets the same neighbours in a run that is resumed.
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
