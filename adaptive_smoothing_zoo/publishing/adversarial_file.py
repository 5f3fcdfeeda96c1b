"""Adversarial images in a file, for verifying a robust accuracy: ``.npz`` or ``.pt``. The images are under
``adv_complete``, where AutoAttack's own scripts put them, next to ``labels`` and ``about``. An entry of RobustBench's
for external evaluations links such a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ResultsError, reason
from adaptive_smoothing_zoo.evaluation.evaluate import Evaluation
from adaptive_smoothing_zoo.publishing.record import check_file_writable
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.files import write_with
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.threat import ThreatModel

IMAGES = "adv_complete"
ENDINGS = (".npz", ".pt")
_SAID = (
    *("model", "dataset", "threat_model", "eps", "protocol", "engine", "seed", "n", "data", "data_sha256"),
    *("identity", "deterministic", "robust_accuracy"),
)


@dataclass(frozen=True, kw_only=True)
class AdversarialFile:
    """What such a file holds.

    Attributes:
        images: (N, channels, H, W) float32 in [0, 1], in the order of the data: where an attack broke a point, its
            verified adversarial example, elsewhere the image as it is.
        labels: (N,) int64; None if the file does not say.
        about: JSON values: radius, norm, model, protocol, batch size and robust accuracy; empty if it does not say.
    """

    images: Tensor
    labels: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def threat(self) -> ThreatModel | None:
        """Of the attacks; None if the file does not say."""
        if not {"threat_model", "eps"} <= self.about.keys():
            return None
        return ThreatModel(self.about["threat_model"], self.about["eps"])

    def is_of(self, identity: Identity) -> bool:
        """Whether the images were found for this model, as far as the file says."""
        found = self.about.get("identity")
        return not isinstance(found, dict) or Identity.from_json(found) == identity

    @property
    def robust_accuracy(self) -> float | None:
        """That was recorded, a fraction; None if the file does not say."""
        found = self.about.get("robust_accuracy")
        return found if isinstance(found, float) else None

    @property
    def batch_size(self) -> int:
        """In which the model was asked: the last bits of logits depend on it."""
        found = self.about.get("batch_size")
        return found if isinstance(found, int) and found > 0 else 256


def check_adversarial_path(path: Path) -> None:
    """Check before a long run that its adversarial images can be written; ResultsError if not."""
    if path.suffix not in ENDINGS:
        raise ResultsError(f"adversarial images are written to a file {' or '.join(ENDINGS)}, not {path}")
    if path.is_dir():
        raise ResultsError(f"cannot write {path}: it is a folder; name a file")
    check_file_writable(path)


def write_adversarials(path: Path, evaluation: Evaluation, examples: Examples, record: RunRecord) -> None:
    """Write the adversarial images of a whole evaluation, in full or not at all.

    Raises:
        ResultsError: another ending, or a file that cannot be written.
    """
    check_adversarial_path(path)
    said = {name: to_json(getattr(record, name)) for name in _SAID}
    about = said | {"batch_size": evaluation.batch_size}
    images, labels, text = evaluation.adversarials, examples.labels, json.dumps(about)
    if path.suffix == ".pt":
        tensors = {IMAGES: torch.from_numpy(images), "labels": labels, "about": text}
        write_with(path, lambda temporary: torch.save(tensors, temporary))
    else:
        arrays: dict[str, Any] = {IMAGES: images, "labels": labels.numpy(), "about": np.array(text)}
        write_with(path, lambda temporary: np.savez_compressed(temporary, **arrays))


def read_adversarials(path: Path) -> AdversarialFile:
    """The content of a file of adversarial images. No code in it runs.

    Raises:
        ResultsError: it cannot be read, or is none.
    """
    try:
        found = _read(path)
        images, labels = torch.as_tensor(found[IMAGES]), found.get("labels")
        about = json.loads(str(found["about"])) if "about" in found else {}
        if images.ndim != 4 or images.dtype != torch.float32 or not isinstance(about, dict):
            raise ValueError(f"{IMAGES} must be float32 (N, channels, H, W), got {images.dtype} {tuple(images.shape)}")
        return AdversarialFile(
            images=images, labels=None if labels is None else torch.as_tensor(labels).long(), about=about
        )
    except FileNotFoundError:
        raise ResultsError(f"there is no file {path}") from None
    except Exception as error:  # a damaged file makes its readers raise almost anything
        raise ResultsError(f"{path} holds no adversarial images: {reason(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found
