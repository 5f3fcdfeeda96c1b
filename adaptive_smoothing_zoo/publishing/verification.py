"""Verifies that the weights that a name gives are those whose accuracy was published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from adaptive_smoothing_zoo.attacks.verify import predict
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.publishing.record import Record, about, interval_95, results_path
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.zoo.components import load_components, pinned_source
from adaptive_smoothing_zoo.zoo.entry import Component, Entry, Source, entry_to_text
from adaptive_smoothing_zoo.zoo.triplet import Triplet, meta_triplet

ENOUGH = 1000  # examples; with fewer, an accuracy far from the published one would pass
ROUNDING = 0.0005  # of an accuracy on the whole test set: other kernels change some labels of 10,000


@dataclass(frozen=True, kw_only=True)
class Verification(Record):
    """The clean accuracy of loaded weights and the published one, as fractions; ``<NAME>.verify.json``.

    Attributes:
        n, correct: examples classified, and correctly.
        test_set_size: of the official test set, if these are its first n in its order.
        published: the published clean accuracy; None if there is none.
        model_sha256: identity of the model that was loaded.
        components: by part, where the original checkpoint came from, with its hash and size.
    """

    KIND, TITLE, COMMAND = "verify", "a verification", "asz verify"
    DERIVED = ("clean_accuracy", "interval", "agrees")

    correct: int
    test_set_size: int | None
    published: float | None
    model_sha256: str
    device: str
    components: dict[str, Source] = field(default_factory=dict)

    @property
    def clean_accuracy(self) -> float:
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Clopper-Pearson interval of the clean accuracy."""
        return interval_95(self.correct, self.n)

    @property
    def agrees(self) -> bool | None:
        """Whether measured and published accuracy agree; None if none was published.

        On the whole test set the two must be equal up to rounding. On a part of it, the published one must lie in the
        interval of the measured one.
        """
        if self.published is None:
            return None
        if self.n == self.test_set_size:
            return abs(self.clean_accuracy - self.published) <= ROUNDING + 1e-9
        low, high = self.interval
        return low <= self.published <= high

    @property
    def is_conclusive(self) -> bool:
        """Whether an entry may call its weights verified: agreement on enough examples of the official test set."""
        return bool(self.agrees) and self.test_set_size is not None and self.n >= min(ENOUGH, self.test_set_size)


def verify(
    model: Triplet,
    examples: Examples,
    *,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    components: dict[str, Source] | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> Verification:
    """Measure the clean accuracy of a triplet in float32 and note the hashes of its weights.

    Args:
        model: as ``load_model`` gave it, on ``device``.
        components: see :class:`Verification`.
        on_progress: called with the number of images after each batch.
    """
    entry, correct = model.entry, 0
    batch_size = min(batch_size, len(examples))
    for images, labels in zip(examples.images.split(batch_size), examples.labels.split(batch_size), strict=True):
        with float32_precision(tf32=False):
            correct += int((predict(model, images, batch_size, torch.device(device)) == labels).sum())
        if on_progress is not None:
            on_progress(len(labels))
    return Verification(
        **about(entry, examples),
        correct=correct,
        test_set_size=examples.test_set_size,
        published=None if entry.published is None else float(entry.published.clean) / 100,
        model_sha256=identity_of(model).sha256,
        device=device_name(str(device)),
        components=components or {},
    )


def original_files(entry: Entry, model_dir: Path | None = None) -> dict[str, Source]:
    """By part, the source of the checkpoint that ``load_model`` uses, with hash and size of the file.

    Raises:
        WeightsError: a part is not available.
    """
    _, files = load_components(entry, meta_triplet(entry), model_dir=model_dir)
    return {part: pinned_source(*found) for part, found in files.items()}


def verified_entry(entry: Entry, verification: Verification) -> Entry:
    """The entry with the hashes of the files that were used; "verified" if the verification is conclusive."""
    components = {
        part: _pinned(component, verification.components.get(part))
        for part, component in entry.weights.components.items()
    }
    weights = replace(
        entry.weights,
        components=components,
        verified=verification.is_conclusive,
        model_sha256=verification.model_sha256 if verification.is_conclusive else None,
    )
    return replace(entry, weights=weights)


def write_entry(folder: Path, entry: Entry) -> Path:
    """Write an entry below a folder of entries (``zoo/entries`` of a checkout) and return its path."""
    path = results_path(folder, entry)
    write_text(path, entry_to_text(entry))
    return path


def _pinned(component: Component, used: Source | None) -> Component:
    """The component with hash and size of the source that was used; the other sources stay as they are."""
    sources = (used if used and _place(source) == _place(used) else source for source in component.sources)
    return replace(component, sources=tuple(sources))


def _place(source: Source) -> dict[str, Any]:
    return {key: value for key, value in to_json(source).items() if key not in ("sha256", "size", "revision")}
