"""Noisy copies of images, with a separate noise stream per image, and a net's votes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from adaptive_smoothing_zoo.certification.confidence import checked_failure_probability
from adaptive_smoothing_zoo.certification.rounding import Floats
from adaptive_smoothing_zoo.data import check_examples
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.machine.devices import known_device
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.machine.ready import device_of, refusals_named

LARGEST = float(np.finfo(np.float32).max)  # in which noise is added
NOISE_BLOCK = 128  # noise images drawn at once; the numbers depend on it
Votes = Literal["hard", "soft"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The smoothed classifier to sample, the sampling, and the confidence of conclusions.

    Args:
        sigma: standard deviation of the noise, > 0, in units of pixels in [0, 1].
        votes: "hard": each sample votes for its argmax; Clopper-Pearson bound. "soft": its softmax is averaged;
            betting bound. They certify two different smoothed classifiers.
        n0, n: samples for the choice of a class and (at most) for its bound, whole numbers >= 1.
        failure_probability: of each certificate, in (0, 1), over the noise.
        runner_up: also bound the runner-up's probability, with half of the failure probability, instead of using 1 - p;
            not for a single radius.
        seed: of the noise, with the dataset index of the image.
        batch_size: noisy images per pass. If None, 128 on the CPU, where more leave its caches, and 1000 elsewhere.
        device: where to compute; where the model is if None.
        fold: compute with a copy whose batch norms are folded into its convolutions: faster, equal up to rounding.
        dtype: torch.float32; "tf32" for products that CUDA rounds to TF32; torch.bfloat16 or torch.float16 for layers
            that compute in that (autocast). The certificate is for the net with this rounding. Noise is added in
            float32.

    Raises:
        TypeError: sigma is no number.
        ValueError: a value outside its range.
    """

    sigma: float
    votes: Votes = "hard"
    n0: int = 100
    n: int = 100_000
    failure_probability: float = 0.001
    runner_up: bool = False
    seed: int = 0
    batch_size: int | None = None
    device: str | torch.device | None = None
    fold: bool = True
    dtype: torch.dtype | Literal["tf32"] = torch.float32

    def __post_init__(self) -> None:
        for field, name in (("n0", "n0"), ("n", "n"), ("seed", "the seed"), ("batch_size", "the batch size")):
            if (value := getattr(self, field)) is None and field == "batch_size":
                continue
            object.__setattr__(self, field, _whole_number(value, name))
            if field != "seed" and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if isinstance(self.sigma, str):
            raise TypeError(f"sigma must be a number, got {self.sigma!r}")
        if not 0.0 < self.sigma <= LARGEST:
            raise ValueError(f"sigma must be positive and at most {LARGEST:.3g}, float32's largest, got {self.sigma}")
        checked_failure_probability(self.failure_probability)
        if not isinstance(self.runner_up, bool):
            raise ValueError(f"runner_up is True or False, got {self.runner_up!r}")
        if self.votes not in ("hard", "soft"):
            raise ValueError(f"votes must be 'hard' or 'soft', got {self.votes!r}")
        if self.dtype not in ("tf32", torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"certification computes in float32, tf32, bfloat16 or float16, not in {self.dtype}")

    @property
    def tf32(self) -> bool:
        """Whether products of float32 are rounded to TF32."""
        return self.dtype == "tf32"

    @property
    def layers(self) -> torch.dtype:
        """In which the layers compute."""
        return torch.float32 if self.dtype == "tf32" else self.dtype

    def precision(self) -> dict[str, Any]:
        """Which net is certified, for a record."""
        return {"dtype": str(self.layers).removeprefix("torch."), "tf32": self.tf32}

    def device_for(self, model: nn.Module) -> torch.device:
        """Where the model is to compute; ValueError for TF32 where there is none."""
        device = (device_of(model) or torch.device("cpu")) if self.device is None else known_device(self.device)
        if self.tf32 and device.type != "cuda":
            raise ValueError(f"TF32 is a precision of CUDA; on {device} take float32 or bfloat16")
        return device


def _whole_number(value: Any, name: str) -> int:
    """A number without a fraction, also one that is written as 1e3; ValueError for another."""
    with suppress(TypeError, ValueError, OverflowError):  # of no number, NaN, infinity
        if int(value) == value:
            return int(value)
    raise ValueError(f"{name} must be a whole number, got {value!r}")


class Sampler:
    """A net and the images that it classifies.

    Args:
        model: on the device, in eval mode.
        images, labels, places: (N, channels, H, W) float32 in [0, 1], (N,) int64, (N,) dataset indices.
        on_samples: told how many noisy copies a pass has classified.

    Raises:
        EvaluationError: the model fails on such images, or its output is not (N, C).
        ValueError: a label that is none of C classes.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        places: NDArray[np.int64],
        sampling: Sampling,
        device: torch.device,
        on_samples: Callable[[int], None],
    ) -> None:
        self.images, self.labels, self.places = images.detach(), labels.detach().cpu(), places
        self.sampling, self.on_samples = sampling, on_samples
        self.device, self.batch_size = device, sampling.batch_size or (128 if device.type == "cpu" else 1000)
        with torch.no_grad():
            some = self.images[:8].to(device)
            with refusals_named(images):
                logits = model(some)
            _check_output(logits)
            self.classes = int(logits.shape[1])
            check_examples(self.images, self.labels, self.classes)
            self.net = prepare(model, some) if sampling.fold else model
        self.batch = torch.empty((self.batch_size, *images.shape[1:]), device=device)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the votes, as JSON values."""
        sampling = self.sampling
        return {
            "sigma": float(sampling.sigma),
            "seed": sampling.seed,
            "votes": sampling.votes,
            "fold": sampling.fold,
            **sampling.precision(),
            "noise": "cpu" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "examples": len(self.places),
            "data_sha256": _sha256(
                self.images.cpu().contiguous().numpy(), self.labels.numpy(), self.places.astype(np.int64)
            ),
        }


def _check_output(logits: Tensor) -> None:
    """Raise EvaluationError for what no vote can be read from; any number format of real numbers will do."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise EvaluationError(f"the model's output must have shape (N, classes), got {tuple(logits.shape)}")
    numbers = not logits.is_complex() and logits.dtype != torch.bool
    if not numbers or logits.layout != torch.strided or logits.is_meta:
        raise EvaluationError(
            f"the model's output must be a dense tensor of real numbers, got {logits.dtype}, {logits.layout}, on "
            f"{logits.device}"
        )


class Copies:
    """Noisy copies of the G images at some positions; every call goes on where the streams of noise have been left."""

    def __init__(self, sampler: Sampler, members: range) -> None:
        self._sampler, self._sampling = sampler, sampler.sampling
        self._places = sampler.places[members.start : members.stop]
        self._images = sampler.images[members.start : members.stop].to(sampler.device)
        self._noises = [
            Noise(self._sampling.seed, int(place), self._images.shape[1:], sampler.device) for place in self._places
        ]
        self._broken = torch.zeros((), dtype=torch.bool, device=sampler.device)

    def choose(self, count: int) -> Tensor:
        """The class with the largest mean vote of ``count`` copies of each image, (G,), on the device."""
        size, classes = len(self._images), self._sampler.classes
        votes = torch.empty((size * count, classes), dtype=torch.float64, device=self._images.device)
        for start, stop, logits in self._classify(range(size), count):
            soft = self._sampling.votes == "soft"
            votes[start:stop] = logits.float().softmax(1) if soft else F.one_hot(logits.argmax(1), classes)
        return votes.view(size, count, classes).sum(dim=1).argmax(dim=1)

    def votes(self, tops: Tensor, count: int, members: Sequence[int] | None = None) -> Tensor:
        """The votes for the classes ``tops`` (G,) of ``count`` copies of each member (all if None): (G, count)."""
        chosen = range(len(self._images)) if members is None else members
        found = torch.empty(len(chosen) * count, device=self._images.device)
        wanted = tops[list(chosen)].repeat_interleave(count)
        for start, stop, logits in self._classify(chosen, count):
            label = wanted[start:stop]
            if self._sampling.votes == "soft":
                found[start:stop] = logits.float().softmax(dim=1).gather(1, label[:, None]).squeeze(1).clamp(max=1.0)
            else:
                found[start:stop] = logits.argmax(dim=1) == label
        return found.view(len(chosen), count)

    def all_votes(self, count: int) -> Tensor:
        """The votes for every class of ``count`` copies of each image: (G, count, C) if soft, sums (G, C) if hard."""
        size, classes = len(self._images), self._sampler.classes
        if self._sampling.votes == "soft":
            soft = torch.empty((size * count, classes), device=self._images.device)
            for start, stop, logits in self._classify(range(size), count):
                soft[start:stop] = logits.float().softmax(dim=1).clamp(max=1.0)
            return soft.view(size, count, classes)
        sums = torch.zeros(size * classes, dtype=torch.float64, device=self._images.device)
        for start, stop, logits in self._classify(range(size), count):
            image = torch.arange(start, stop, device=sums.device) // count
            sums += torch.bincount(image * classes + logits.argmax(dim=1), minlength=len(sums))
        return sums.view(size, classes)

    def fetch(self, *tensors: Tensor) -> list[Floats]:
        """Tensors of the device as float64 arrays, in one transfer; EvaluationError if a logit is NaN or infinite."""
        packed = torch.cat([*(tensor.double().flatten() for tensor in tensors), self._broken.double()[None]])
        values = packed.cpu().numpy()
        if values[-1]:
            raise EvaluationError(
                f"the model gives NaN or infinity for a noisy copy of one of the examples {self._places[0]} to "
                f"{self._places[-1]}; no vote would mean anything"
            )
        ends = np.cumsum([tensor.numel() for tensor in tensors])
        parts = np.split(values[:-1], ends[:-1])
        return [part.reshape(tuple(tensor.shape)) for part, tensor in zip(parts, tensors, strict=True)]

    def _classify(self, members: Sequence[int], count: int) -> Iterator[tuple[int, int, Tensor]]:
        """The logits of ``count`` copies of each image, in batches that cross images: from, to, (B, C)."""
        total, batch_size = len(members) * count, self._sampler.batch_size
        for start in range(0, total, batch_size):
            stop = min(start + batch_size, total)
            batch = self._sampler.batch[: stop - start]
            for k in range(start // count, (stop - 1) // count + 1):
                part = batch[max(k * count - start, 0) : (k + 1) * count - start]
                self._noises[members[k]].add_to(self._images[members[k]], self._sampling.sigma, part)
            logits = self._sampler.net(batch)
            self._broken |= ~logits.amax(dim=1).isfinite().all()  # -inf alone stands for an impossible class
            yield start, stop, logits
            self._sampler.on_samples(stop - start)


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
            torch.add(image, noise, alpha=float(sigma), out=out[filled : filled + count])
            self._used += count
            filled += count


def _sha256(*arrays: NDArray[Any]) -> str:
    digest = sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
