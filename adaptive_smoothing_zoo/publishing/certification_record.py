"""The record of a certification, and what a model card says of it.

Under ``OUT/<dataset>/<threat model>/certificates/``: the record ``<NAME>.certified.json`` and, for each bound, a log
``<NAME>.certified-<bound>.tsv``. Logs of samples are named after net, sigma and votes:
``<NAME>.rob_model.smoothed-0.25-soft.tsv``. A name with ``-top-2`` is about the two likeliest classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from adaptive_smoothing_zoo.certification.bounds import BOUNDS
from adaptive_smoothing_zoo.certification.kinds import PARTS, Subject, stem_of
from adaptive_smoothing_zoo.certification.logs import Certificates
from adaptive_smoothing_zoo.certification.rounding import Floats, checked_k
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.publishing.pages import page, percent
from adaptive_smoothing_zoo.publishing.record import Keyed, results_path
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json
from adaptive_smoothing_zoo.threat import L2
from adaptive_smoothing_zoo.zoo.entry import ModelEntry

CALLED = {"whole": "the mix", "std_model": "g alone", "rob_model": "h alone"}
GRID = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)  # radii of the tables


@dataclass(frozen=True, kw_only=True)
class SamplingRecord:
    """How votes were sampled."""

    sigma: float
    votes: str
    n0: int  # 0 where the label is the class
    n: int  # the most, where sampling was adaptive
    failure_probability: float  # of each certificate
    seed: int
    dtype: str
    tf32: bool
    mean_samples: float  # per example, with those that choose its class
    runner_up: bool = False  # whether the runner-up has its own bound, with half of the failure probability

    @classmethod
    def of(cls, subject: Subject, found: Certificates) -> SamplingRecord | None:
        """What a record says of a subject's sampling and its cost."""
        sampling = subject.sampling
        if sampling is None:
            return None
        names = ("sigma", "votes", "n", "failure_probability", "runner_up", "seed")
        return cls(
            **{name: getattr(sampling, name) for name in names},
            n0=sampling.n0 if subject.top_k is None else 0,
            **sampling.precision(),
            mean_samples=float(found.samples.mean()),
        )


@dataclass(frozen=True, kw_only=True)
class BoundRecord:
    """What one theorem certified."""

    log: str  # the file next to the record
    average_radius: float | None  # over all examples, 0 where wrong or not certified; None if at_radius is given
    certified_accuracy: tuple[float, ...]  # at the record's radii; fractions


@dataclass(frozen=True, kw_only=True)
class CertificationRecord:
    """Which classifier was certified, how, and with what result. Radii are l_2, in units of pixels in [0, 1]."""

    model: str
    dataset: str
    threat_model: str
    part: str  # "whole", "std_model" or "rob_model"
    smoothed: bool  # whether the certificates are for the part's Gaussian-smoothed version
    norm: str
    alpha_min: float | None  # None for a net that is no mix
    logits_lipschitz: float | None  # l_2 Lipschitz constant of h's scaled logits, if h proves one
    sampling: SamplingRecord | None
    at_radius: float | None  # the only radius that was decided, if one was given
    top_k: int | None = None  # the label is certified to stay among so many likeliest classes; None: to stay the first
    radii: tuple[float, ...]  # of the table; at 0, any radius above counts
    bounds: dict[str, BoundRecord]
    clean_accuracy: float | None  # of the certified classifier on the same examples, of its top k; None if unmeasured
    n: int
    skip: int  # every skip-th example
    test_set_size: int | None
    data: str
    data_sha256: str
    identity: Identity
    batch_size: int | None
    device: str
    device_name: str
    versions: dict[str, str]
    commit: str | None
    seconds: float

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"no part {self.part!r}; known: {', '.join(PARTS)}")
        if self.n < 1 or not 0.0 <= (self.alpha_min or 0.0) <= 1.0:
            raise ValueError("'n' must be at least 1, and 'alpha_min' in [0, 1]")
        if self.top_k is not None:
            checked_k(self.top_k)
        if any(radius < 0.0 for radius in self.radii):
            raise ValueError("radii must not be negative")
        for name, bound in self.bounds.items():
            if name not in BOUNDS:
                raise ValueError(f"no bound {name!r}; known: {', '.join(BOUNDS)}")
            if len(bound.certified_accuracy) != len(self.radii):
                raise ValueError(f"{name} must have one certified accuracy for each of {len(self.radii)} radii")
            if not all(0.0 <= accuracy <= 1.0 for accuracy in bound.certified_accuracy):
                raise ValueError(f"the certified accuracies of {name} must be fractions")


def certification_path(out: Path, entry: Keyed, name: str) -> Path:
    """Where the file ``name`` of a model's certification stands."""
    return results_path(out, entry).parent / "certificates" / f"{entry.name}.{name}"


def make_certification_record(
    entry: ModelEntry,
    model: nn.Module,
    examples: Examples,
    subject: Subject,
    found: dict[str, Certificates],
    *,
    device: str,
    **around: Any,
) -> CertificationRecord:
    """The record of a certification: all that a reader needs to trust or repeat it.

    Args:
        model: the whole triplet, or the net.
        examples: those that were certified.
        found: certificates by bound.
        around: fields that only the caller knows: ``clean_accuracy``, ``skip``, ``commit``, ``seconds``.
    """
    radii = grid_of(list(found.values())) if subject.radius is None else np.array([subject.radius])
    return CertificationRecord(
        model=entry.name,
        dataset=entry.dataset,
        threat_model=entry.threat_model,
        part=subject.part,
        smoothed=subject.is_smoothed_version,
        norm=L2,
        alpha_min=subject.alpha_min,
        logits_lipschitz=subject.logits_lipschitz,
        sampling=SamplingRecord.of(subject, next(iter(found.values()))),
        at_radius=subject.radius,
        top_k=subject.top_k,
        radii=tuple(radii.tolist()),
        bounds={
            name: BoundRecord(
                log=f"{entry.name}.{subject.file_name(name)}.tsv",
                average_radius=certificates.average_certified_radius() if subject.radius is None else None,
                certified_accuracy=tuple(certificates.certified_accuracy(radii).tolist()),
            )
            for name, certificates in found.items()
        },
        n=len(examples),
        test_set_size=examples.test_set_size,
        data=examples.source,
        data_sha256=tensors_sha256({"images": examples.images, "labels": examples.labels}),
        identity=identity_of(model, examples.images.shape[1:]),
        batch_size=None if subject.sampling is None else subject.sampling.batch_size,
        device=device,
        device_name=device_name(device),
        versions=installed_versions(),
        **around,
    )


def grid_of(found: list[Certificates]) -> Floats:
    """The radii of a table: those of ``GRID`` up to the first at which nothing is certified."""
    accuracies = np.max([certificates.certified_accuracy(GRID) for certificates in found], axis=0)
    return np.array(GRID[: int((accuracies > 0).sum()) + 1])


def write_certification(path: Path, record: CertificationRecord) -> Path:
    """Write a record; its path."""
    write_text(path, json.dumps(to_json(record), indent=2) + "\n")
    return path


def read_certification(out: Path, entry: Keyed) -> CertificationRecord | None:
    """The record of a whole triplet below ``out``, None if there is none.

    Raises:
        ResultsError: it is damaged, or of another triplet.
    """
    path = certification_path(out, entry, f"{stem_of('whole')}.json")
    if not path.exists():
        return None
    try:
        record = parse(CertificationRecord, read_json(path), str(path))
    except (ConfigError, FileNotFoundError) as error:
        raise ResultsError(f"{path} is not a record of a certification: {error}") from error
    if (record.model, record.dataset, record.threat_model) != (entry.name, entry.dataset, entry.threat_model):
        raise ResultsError(f"{path} records {record.model} on {record.dataset} {record.threat_model}, not {entry.key}")
    return record


def table_of(record: CertificationRecord) -> list[list[str]]:
    """Rows of text: the head, then for each bound its name, the percentages at the radii and the average radius."""
    radii = ["> 0" if radius == 0 else f"{radius:g}" for radius in record.radii]
    head = ["l_2 radius", *radii, *(["average radius"] if record.at_radius is None else [])]
    rows = []
    for name, bound in record.bounds.items():
        average = [] if bound.average_radius is None else [f"{bound.average_radius:.3f}"]
        rows.append([name, *(percent(accuracy) for accuracy in bound.certified_accuracy), *average])
    return [head, *rows]


def sentences_of(record: CertificationRecord) -> list[str]:
    """What each bound is, and what is certified of the top k."""
    runner_up = record.sampling is not None and record.sampling.runner_up
    found = [f"{name}: {BOUNDS[name].words(runner_up)}" for name in record.bounds]
    if (k := record.top_k) is not None:
        shared = "" if record.sampling is None else ", and k other classes share 1 - p [JCWG20]"
        found.append(
            f"top {k}: the label stays among the k = {k} likeliest classes; the k-th likeliest other class takes the "
            f"runner-up's place [BAKS24 v1, Theorem 1]{shared}"
        )
    return found


def certificates_section(record: CertificationRecord) -> str:
    """The section of a model card about certificates, in Markdown."""
    head, *rows = table_of(record)
    sentences = sentences_of(record)
    which = "" if record.skip == 1 else f", every {_ordinal(record.skip)}"
    called = CALLED[record.part]
    text = page("certificates.md", record=record, head=head, rows=rows, sentences=sentences, called=called, which=which)
    return text.rstrip("\n")


def _ordinal(number: int) -> str:
    last = 0 if 10 < number % 100 < 20 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
