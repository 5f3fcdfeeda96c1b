"""Files of adversarial images, ``.npz`` or ``.pt``, for verifying a robust accuracy.

The images are under ``adv_complete``, as in the files of AutoAttack's own scripts, next to ``labels`` and ``about``.
RobustBench's entries for external evaluations link such files.
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
    """The content of such a file.

    Attributes:
        images: (N, channels, H, W) float32 in [0, 1], in the order of the data: the verified adversarial example of
            each point that an attack broke, the original image of each other point.
        labels: (N,) int64; None if the file has none.
        about: JSON values: radius, norm, model, protocol, batch size and robust accuracy; empty if the file has none.
    """

    images: Tensor
    labels: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def threat(self) -> ThreatModel | None:
        """The threat model of the attacks; None if the file does not say."""
        if not {"threat_model", "eps"} <= self.about.keys():
            return None
        return ThreatModel(self.about["threat_model"], self.about["eps"])

    @property
    def identity(self) -> Identity | None:
        """Of the model that was attacked; None if the file does not say."""
        found = self.about.get("identity")
        return Identity.from_json(found) if isinstance(found, dict) else None

    def is_of(self, identity: Identity) -> bool:
        """Whether the images were found for this model, as far as the file says."""
        return self.identity in (None, identity)

    @property
    def robust_accuracy(self) -> float | None:
        """The recorded robust accuracy, a fraction; None if the file does not say."""
        found = self.about.get("robust_accuracy")
        return found if isinstance(found, float) else None

    @property
    def batch_size(self) -> int:
        """Images per forward pass, on which the last bits of logits depend; 256 if the file does not say."""
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
        ResultsError: it cannot be read, or holds something else.
    """
    try:
        return _checked(_read(path))
    except FileNotFoundError:
        raise ResultsError(f"there is no file {path}") from None
    except Exception as error:  # a damaged file makes its readers raise almost anything
        raise ResultsError(f"{path} holds no adversarial images: {reason(error)}") from error


def _checked(found: dict[str, Any]) -> AdversarialFile:
    if IMAGES not in found:
        raise ValueError(f"it has no {IMAGES}")
    images, labels = torch.as_tensor(found[IMAGES]), found.get("labels")
    if images.ndim != 4 or images.dtype != torch.float32:
        raise ValueError(f"{IMAGES} must be float32 (N, channels, H, W), got {images.dtype} {tuple(images.shape)}")
    about = json.loads(str(found["about"])) if "about" in found else {}
    labels = None if labels is None else torch.as_tensor(labels).long()
    file = AdversarialFile(images=images, labels=labels, about=about)
    try:
        _ = file.threat, file.identity
    except Exception as error:  # of JSON values of any kind
        raise ValueError(f"'about' is damaged: {type(error).__name__} {reason(error)}") from error
    return file


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return found
