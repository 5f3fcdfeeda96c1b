"""CERTIFY (Cohen et al. 2019): certified l_2 radii of a Gaussian-smoothed classifier by sampling."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.prepare import prepare
from adaptive_smoothing_zoo.certification.bounds import betting_lower, clopper_pearson_lower
from adaptive_smoothing_zoo.certification.journal import Journal
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates, certificates_of
from adaptive_smoothing_zoo.certification.radii import Floats, cohen_radius
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError

NOISE_BLOCK = 128  # noise images drawn at once; the numbers depend on it


@dataclass(frozen=True, kw_only=True)
class CertifyProgress:
    """Where a run stands: examples that are finished, those wanted, and noisy images classified in this run."""

    done: int
    total: int
    samples: int
    samples_total: int


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 100_000,
    failure_probability: float = 0.001,
    batch_size: int | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    votes: Literal["hard", "soft"] = "hard",
    fold: bool = True,
    dtype: torch.dtype = torch.float32,
    log: str | Path | None = None,
    on_progress: Callable[[CertifyProgress], None] | None = None,
) -> Certificates:
    """Certify the smoothed version of a classifier at each image (Cohen et al. 2019, CERTIFY).

    The smoothed classifier gives the class with the largest mean vote of ``model`` over noise N(0, sigma^2 I) on the
    image. n0 samples choose the class, n others bound its mean vote p from below, and where p > 1/2 no perturbation
    smaller than sigma Phi^-1(p) changes the class.

    Args:
        model: images (N, channels, H, W) to logits (N, C), C >= 2. Noisy images are not clipped to [0, 1].
        images: (N, channels, H, W) float32 in [0, 1].
        labels: (N,) int64.
        sigma: standard deviation of the noise, > 0, in units of pixels in [0, 1].
        n0, n: samples for the choice and for the bound, >= 1.
        failure_probability: of each certificate, in (0, 1), over the noise.
        batch_size: noisy images per pass; images share batches where n is smaller. If None, 128 on the CPU, where more
            leave its caches, and 1000 elsewhere.
        seed: of the noise, with the dataset index of the image.
        indices: (N,) dataset indices; 0 to N - 1 if None.
        device: where to compute; where the model is if None. The model is moved there.
        votes: "hard": each sample votes for its argmax; Clopper-Pearson bound. "soft": its softmax is averaged;
            betting bound. They certify two different smoothed classifiers.
        fold: compute with a copy of the model whose batch norms are folded into its convolutions, which is the same
            function up to rounding and faster (``attacks.prepare``; where that does not apply, the model itself).
        dtype: torch.float32, or torch.bfloat16 or torch.float16 to let layers compute in that (autocast), which is
            faster where the device has units for it. Noise is added in float32. What is certified is then the smoothed
            version of the rounded net, not of the float32 net.
        log: a file to which each example's certificate is written as soon as it is known, in the format of
            ``read_log``. A run that was interrupted, however hard, goes on from there if all settings are the same.
        on_progress: called after each batch.

    Returns:
        One certificate per image, in their order; prediction -1 and radius 0 where the bound does not exceed 1/2.

    Raises:
        ValueError: images, labels or settings that make no sense.
        EvaluationError: the model's output is not (N, C), or NaN somewhere.
        ResultsError: the log is damaged or belongs to other settings.

    Each certificate is wrong with at most ``failure_probability``; of N certificates some may be. What is certified is
    the smoothed version of ``model`` as it is computed here, with the rounding of its number format, folding and TF32
    setting, as if inputs and noise were real numbers.

    The noise of an image depends on the seed, its dataset index and the kind of device alone: batch size, order, the
    other images and interruptions change nothing but the rounding of kernels that depend on the shape of a batch, and
    with one batch size not even that. (Generators on the CPU have 32-bit seeds, so two of many images may have the
    same noise; that couples their errors and leaves each guarantee as it is.)
    """
    check_examples(images, labels)
    places = np.arange(len(images)) if indices is None else np.asarray(indices, dtype=np.int64)
    where = _device_of(model) if device is None else torch.device(device)
    if batch_size is None:
        batch_size = 128 if where.type == "cpu" else 1000
    _check_settings(places, len(images), sigma, n0, n, failure_probability, batch_size, votes, dtype)
    run = _Run(
        model,
        images,
        labels,
        places,
        sigma=sigma,
        n0=n0,
        n=n,
        failure_probability=failure_probability,
        batch_size=batch_size,
        seed=seed,
        device=where,
        votes=votes,
        fold=fold,
        dtype=dtype,
        on_progress=on_progress,
    )
    with _ready(model, where):
        run.prepare()
        journal = None if log is None else Journal(Path(log), run.settings())
        if journal is not None:
            run.take(journal.done)
        with torch.inference_mode(), torch.autocast(where.type, dtype, enabled=dtype != torch.float32):
            for group in run.open_groups():
                new = run.certify_group(group)
                if journal is not None:
                    journal.append(new)
    return run.certificates()


class _Run:
    """One certification: its settings, and the certificates so far."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        places: np.ndarray,
        *,
        sigma: float,
        n0: int,
        n: int,
        failure_probability: float,
        batch_size: int,
        seed: int,
        device: torch.device,
        votes: str,
        fold: bool,
        dtype: torch.dtype,
        on_progress: Callable[[CertifyProgress], None] | None,
    ) -> None:
        self.model, self.images, self.labels, self.places = model, images.detach(), labels.detach().cpu(), places
        self.sigma, self.n0, self.n, self.failure_probability = float(sigma), n0, n, failure_probability
        self.batch_size, self.seed, self.device, self.votes = batch_size, seed, device, votes
        self.fold, self.dtype, self.on_progress = fold, dtype, on_progress
        self.rows: dict[int, tuple[Any, ...]] = {}  # by dataset index, in the order of a log's columns
        self.samples = self.samples_total = 0
        self.batch = torch.empty((batch_size, *images.shape[1:]), device=device)
        # Images that fit into one batch are done together. Which ones are is fixed, so that an image meets the same
        # neighbours in a run that goes on as in one that was not interrupted.
        size = max(1, round(batch_size / n))
        self.groups = [range(i, min(i + size, len(places))) for i in range(0, len(places), size)]

    def settings(self) -> dict[str, Any]:
        """Everything that decides the certificates, for the log."""
        noise = "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)
        return {
            "sigma": self.sigma,
            "n0": self.n0,
            "n": self.n,
            "failure_probability": self.failure_probability,
            "seed": self.seed,
            "votes": self.votes,
            "fold": self.fold,
            "dtype": str(self.dtype).removeprefix("torch."),
            "noise": noise,
            "examples": len(self.places),
            "model_sha256": model_sha256(self.model),
            "data_sha256": _sha256(
                self.images.cpu().contiguous().numpy(), self.labels.numpy(), self.places.astype(np.int64)
            ),
        }

    @torch.no_grad()
    def prepare(self) -> None:
        """Look at the model's output, and make the copy of it that computes."""
        some = self.images[:8].to(self.device)
        logits = self.model(some)
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise EvaluationError(f"the model's output must have shape (N, classes), got {tuple(logits.shape)}")
        self.classes = int(logits.shape[1])
        check_examples(self.images, self.labels, self.classes)
        self.net = prepare(self.model, some) if self.fold else self.model

    def take(self, done: Certificates) -> None:
        """Certificates of an earlier run with the same settings."""
        for i in range(len(done)):
            self._keep(
                *(getattr(done, name)[i].item() for name in ("index", "prediction", "radius", "seconds")),
            )

    def open_groups(self) -> list[range]:
        """The groups of which some example has no certificate yet."""
        groups = [group for group in self.groups if any(int(self.places[i]) not in self.rows for i in group)]
        self.samples_total = sum(len(group) for group in groups) * (self.n0 + self.n)
        return groups

    def certificates(self) -> Certificates:
        return certificates_of([self.rows[int(place)] for place in self.places])

    def certify_group(self, group: range) -> Certificates:
        """The certificates of a group that were still missing."""
        start = time.perf_counter()
        images = self.images[group.start : group.stop].to(self.device)
        noises = [Noise(self.seed, int(self.places[i]), images.shape[1:], self.device) for i in group]
        self.broken = torch.zeros((), dtype=torch.bool, device=self.device)
        tops = self._choose(images, noises)
        # The one transfer: classes, what the samples said of them, and whether some output was not a number.
        found = self._sample(images, noises, tops).double().flatten()
        numbers = torch.cat([tops.double(), found, self.broken.double()[None]])
        values = numbers.cpu().numpy()
        if values[-1]:
            raise EvaluationError(
                f"the model gives NaN for a noisy copy of one of the examples {self.places[group.start]} to "
                f"{self.places[group.stop - 1]}; no vote would mean anything"
            )
        predictions = values[: len(group)].astype(np.int64)
        p_lower = self._bound(values[len(group) : -1].reshape(len(group), -1))
        radii = cohen_radius(p_lower, self.sigma)
        predictions = np.where(p_lower > 0.5, predictions, ABSTAIN)
        seconds = (time.perf_counter() - start) / len(group)
        missing = [k for k, i in enumerate(group) if int(self.places[i]) not in self.rows]
        for k in missing:
            self._keep(int(self.places[group[k]]), int(predictions[k]), float(radii[k]), seconds)
        self._report()
        return certificates_of([self.rows[int(self.places[group[k]])] for k in missing])

    def _keep(self, place: int, prediction: int, radius: float, seconds: float) -> None:
        label = int(self.labels[int(np.flatnonzero(self.places == place)[0])])
        self.rows[place] = (place, label, prediction, radius, prediction == label, seconds)

    def _choose(self, images: Tensor, noises: list[Noise]) -> Tensor:
        """The class with the most votes of n0 samples for each image, (G,), on the device."""
        votes = torch.empty((len(images) * self.n0, self.classes), dtype=torch.float64, device=self.device)
        for start, stop, logits in self._classify(images, noises, self.n0):
            self.broken |= logits.isnan().any()
            votes[start:stop] = (
                logits.float().softmax(1) if self.votes == "soft" else F.one_hot(logits.argmax(1), self.classes)
            )
        return votes.view(len(images), self.n0, self.classes).sum(dim=1).argmax(dim=1)

    def _sample(self, images: Tensor, noises: list[Noise], tops: Tensor) -> Tensor:
        """What n further samples vote for ``tops``: the number of votes, (G, 1), or every soft vote, (G, n)."""
        votes = self._soft_votes(images, noises, tops) if self.votes == "soft" else self._hard_votes(images, noises)
        self.broken |= votes.isnan().any()
        by_image = votes.view(len(images), self.n)
        return by_image if self.votes == "soft" else (by_image == tops[:, None]).sum(dim=1, keepdim=True)

    def _hard_votes(self, images: Tensor, noises: list[Noise]) -> Tensor:
        """The class of every sample, (G n,); NaN where the model gives NaN."""
        found = torch.empty(len(images) * self.n, device=self.device)
        for start, stop, logits in self._classify(images, noises, self.n):
            peak, label = logits.max(dim=1)  # a NaN is its row's maximum
            found[start:stop] = torch.where(peak.isnan(), peak, label)
        return found

    def _soft_votes(self, images: Tensor, noises: list[Noise], tops: Tensor) -> Tensor:
        """The probability of its image's class for every sample, (G n,)."""
        found = torch.empty(len(images) * self.n, device=self.device)
        wanted = tops.repeat_interleave(self.n)[:, None]
        for start, stop, logits in self._classify(images, noises, self.n):
            found[start:stop] = logits.float().softmax(dim=1).gather(1, wanted[start:stop]).squeeze(1)
        return found.clamp_(max=1.0)

    def _classify(self, images: Tensor, noises: list[Noise], count: int) -> Iterator[tuple[int, int, Tensor]]:
        """The logits of ``count`` noisy copies of each image, in batches that cross images: from, to, (B, C)."""
        total = len(images) * count
        for start in range(0, total, self.batch_size):
            stop = min(start + self.batch_size, total)
            batch = self.batch[: stop - start]
            for k in range(start // count, (stop - 1) // count + 1):
                part = batch[max(k * count - start, 0) : (k + 1) * count - start]
                noises[k].add_to(images[k], self.sigma, part)
            yield start, stop, self.net(batch)
            self.samples += stop - start
            self._report()

    def _bound(self, found: Floats) -> Floats:
        """Lower bounds of the mean votes, (G,)."""
        if self.votes == "soft":
            return betting_lower(found, self.failure_probability)
        return clopper_pearson_lower(found[:, 0], self.n, self.failure_probability)

    def _report(self) -> None:
        if self.on_progress is not None:
            done, total = len(self.rows), len(self.places)
            self.on_progress(
                CertifyProgress(done=done, total=total, samples=self.samples, samples_total=self.samples_total)
            )


class Noise:
    """A stream of standard normal images that depends on the seed, the dataset index and the kind of device alone.

    Numbers are drawn in blocks of one size, because what a generator gives depends on how much is asked for at once.
    """

    def __init__(self, seed: int, index: int, shape: Sequence[int], device: torch.device) -> None:
        key = int.from_bytes(sha256(f"{seed} {index}".encode()).digest()[:8], "big") >> 1
        self._generator = torch.Generator(device).manual_seed(key)
        self._block = torch.empty((NOISE_BLOCK, *shape), device=device)
        self._used = NOISE_BLOCK

    def add_to(self, image: Tensor, sigma: float, out: Tensor) -> None:
        """Write image + sigma * noise for the next ``len(out)`` noise images, (K, channels, H, W), into ``out``."""
        filled = 0
        while filled < len(out):
            if self._used == NOISE_BLOCK:
                torch.randn(self._block.shape, generator=self._generator, out=self._block)
                self._used = 0
            count = min(len(out) - filled, NOISE_BLOCK - self._used)
            noise = self._block[self._used : self._used + count]
            torch.add(image, noise, alpha=sigma, out=out[filled : filled + count])
            self._used += count
            filled += count


def model_sha256(model: nn.Module) -> str:
    """A digest of a model's structure and state; what neither ``repr`` nor ``state_dict`` shows is not seen."""
    structure = re.sub(
        r" at 0x[0-9a-f]+", "", f"{type(model).__qualname__}\n{model!r}"
    )  # addresses differ between runs
    digest = sha256(structure.encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            value = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        else:
            value = repr(value).encode()
        digest.update(value)
    return digest.hexdigest()


def _sha256(*arrays: np.ndarray) -> str:
    digest = sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _device_of(model: nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextmanager
def _ready(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on the device and in eval mode; the mode is put back."""
    training = [module for module in model.modules() if module.training]
    try:
        model.to(device).eval()
        yield
    finally:
        for module in training:
            module.training = True


def _check_settings(
    places: np.ndarray,
    images: int,
    sigma: float,
    n0: int,
    n: int,
    failure_probability: float,
    batch_size: int,
    votes: str,
    dtype: torch.dtype,
) -> None:
    if places.shape != (images,):
        raise ValueError(f"{images} images need as many indices, got {places.shape}")
    if len(np.unique(places)) < images or (places < 0).any():
        raise ValueError("dataset indices must be different numbers >= 0")
    if not 0.0 < sigma < np.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    if n0 < 1 or n < 1 or batch_size < 1:
        raise ValueError(f"n0, n and the batch size must be at least 1, got {n0}, {n} and {batch_size}")
    if not 0.0 < failure_probability < 1.0:
        raise ValueError(f"the failure probability must be in (0, 1), got {failure_probability}")
    if votes not in ("hard", "soft"):
        raise ValueError(f"votes must be 'hard' or 'soft', got {votes!r}")
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"certification computes in float32, bfloat16 or float16, not in {dtype}")
