"""Passes of a frozen net, recorded once and replayed as CUDA graphs: one launch instead of hundreds.

Small nets on a GPU wait for the host, which launches kernel after kernel. A graph is launched as a whole. It is bound
to the shape, the buffers and the precision of its recording.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adaptive_smoothing_zoo.errors import reason
from adaptive_smoothing_zoo.machine.devices import is_out_of_memory
from adaptive_smoothing_zoo.machine.folding import relative_rounding
from adaptive_smoothing_zoo.machine.precision import tf32_allowed

OFTEN = 20  # calls of one shape before it is recorded; recording and comparing take the time of about ten calls
WORTH = 0.97  # a replay must take less than this share of the net's time, since it holds memory

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """Recorded work on fixed buffers.

    Attributes:
        replay: does the work again.
        result: the buffer with its result; valid until the next replay of any recording of the same recorder.
    """

    replay: Callable[[], None]
    result: Tensor


class Recorder(Protocol):
    """Records work of fixed shapes on fixed buffers.

    Attributes:
        replays: number of replays of all recordings. They share memory: a replay overwrites what others have kept.
    """

    replays: int

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do the work as often as needed before recording. Raises RuntimeError: it cannot be recorded."""

    def record(self, work: Callable[[], Tensor]) -> Recording:
        """Record the work. Raises RuntimeError: it cannot be recorded, or memory ran out."""

    def free(self) -> None:
        """Release the memory of deleted recordings."""

    def now(self) -> float:
        """Wait for all work so far and return seconds."""


class CudaGraphs:
    """Records CUDA graphs in one memory pool, on a separate stream."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.replays = device, 0
        self._stream: torch.cuda.Stream | None = None
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def warm_up(self, work: Callable[[], object]) -> None:
        """Do the work twice. The second time, an operation that makes the host wait raises RuntimeError; in a
        recording it would also leave the allocator in disorder.
        """
        with self._aside():
            work()
            with waiting_refused():
                work()

    def record(self, work: Callable[[], Tensor]) -> Recording:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        self.free()
        # A pool lives as long as one of its graphs. "thread_local": calls of other threads do not end the recording.
        pool = next((other.pool() for other in self._graphs), None)
        with self._aside():
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                result = work()
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        self._graphs.add(graph)

        def replay() -> None:
            self.replays += 1
            graph.replay()

        return Recording(replay, result)

    def free(self) -> None:
        torch.cuda.empty_cache()

    def now(self) -> float:
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Switch to the recording stream, in order with the work of the current stream before and after."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        main = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(main)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            main.wait_stream(self._stream)


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Within the block, operations that make the host wait for the device raise RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this is "a prototype feature"
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


class Rerun:
    """Stands in for ``CudaGraphs`` on any device: a replay does the work again and writes to the same buffer."""

    def __init__(self) -> None:
        self.replays = 0

    def warm_up(self, work: Callable[[], object]) -> None:
        work()

    def record(self, work: Callable[[], Tensor]) -> Recording:
        result = work().clone()

        def replay() -> None:
            self.replays += 1
            result.copy_(work())

        return Recording(replay, result)

    def free(self) -> None:
        """There is nothing to free."""

    def now(self) -> float:
        return time.perf_counter()


def recorder_of(device: torch.device) -> Recorder | None:
    """The recorder of a device; None for a CPU, where launches take no time."""
    return CudaGraphs(device) if device.type == "cuda" else None


class Graphed(nn.Module):
    """Replays a net's passes, forward and with a gradient to the images, at shapes that come often.

    A recording is used only if it is faster and its outputs and gradients equal the net's up to rounding, also on
    images that it was not made with. Otherwise the net itself runs, and the log says why.

    Args:
        model: images (N, channels, H, W) to logits (N, C); frozen, deterministic, and used by nobody else. Its hooks
            run during recording, not during replay.
        recorder: of the model's device.
        often: replaces ``OFTEN``.
    """

    def __init__(self, model: nn.Module, recorder: Recorder, *, often: int | None = None) -> None:
        super().__init__()
        self.model, self.recorder, self.often = model, recorder, often or OFTEN
        self._passes: dict[_Kind, _Passes | None] = {}
        self._calls: Counter[_Kind] = Counter()
        self._most = float("inf")  # largest batch, in numbers, for which a recording may be worth its time and memory

    def forward(self, images: Tensor) -> Tensor:
        """(N, channels, H, W) images -> (N, C) logits, in a new tensor."""
        gradient = images.requires_grad and torch.is_grad_enabled()
        passes = self._at(images, gradient)
        if passes is None:
            return self.model(images)  # type: ignore[no-any-return]
        if gradient:
            return _Replayed.apply(images, passes)  # type: ignore[no-any-return]
        return passes.forward(images)

    def _at(self, images: Tensor, gradient: bool) -> _Passes | None:
        """The recorded passes for such images; None if the model itself must run."""
        foreign = type(images) is not Tensor or torch.is_autocast_enabled() or torch.is_inference_mode_enabled()
        if foreign or len(images) == 0 or self._most == 0:
            return None
        kind = gradient, images.shape, images.dtype, images.device, tf32_allowed()
        if kind not in self._passes:
            self._calls[kind] += 1
            if self._calls[kind] < self.often:
                return None
            self._passes[kind] = self._record(images.detach(), gradient)
        return self._passes[kind]

    def _record(self, images: Tensor, gradient: bool) -> _Passes | None:
        """Record passes for such images; None, with a line in the log, if that fails or is not worth it."""
        if images.numel() > self._most:
            return None  # already logged
        passes: _Passes | None = None
        try:
            passes = _Passes(self.recorder, self.model, images, gradient)
            return None if self._is_slower(passes, images) else passes
        except RuntimeError as error:
            said, full = reason(error), is_out_of_memory(error)
        passes = None  # releases the memory that the error held
        self._most = images.numel() - 1 if full else 0
        if not full:
            self._passes.clear()
        self.recorder.free()
        sizes = f"of {len(images)} and more" if full else "of any size"
        _logger.warning("%s runs without CUDA graphs, hence slower, in batches %s: %s", self._name, sizes, said)
        return None

    @property
    def _name(self) -> str:
        return type(getattr(self.model, "model", self.model)).__name__

    def _is_slower(self, passes: _Passes, images: Tensor) -> bool:
        """Whether a replay takes about as long as the net or longer. Raises RuntimeError: its results differ."""
        took: dict[bool, list[float]] = {False: [], True: []}
        for points in (1.0 - images, images):
            outputs = []
            for replayed in (False, True):
                begin = self.recorder.now()
                outputs.append(self._ask(passes, points, replayed))
                took[replayed].append(self.recorder.now() - begin)
            if not all(map(agree, *outputs)):
                raise RuntimeError("a replay gives other outputs or gradients than the net")
        slower = min(took[True]) > WORTH * min(took[False])
        if slower:
            self._most = images.numel() - 1  # larger batches wait even less for the host
            _logger.info(
                "%s runs without CUDA graphs in batches of %d and more, where a replay takes %.2g s and the net %.2g s",
                self._name,
                len(images),
                min(took[True]),
                min(took[False]),
            )
        return slower

    def _ask(self, passes: _Passes, points: Tensor, replayed: bool) -> list[Tensor]:
        """The output, and with a gradient, that of a weighted sum in which all outputs have different weights."""
        if not passes.gradient:
            with torch.no_grad():
                return [passes.forward(points) if replayed else self.model(points)]
        points = points.clone().requires_grad_()
        with torch.enable_grad():
            output = _Replayed.apply(points, passes) if replayed else self.model(points)
        weights = torch.linspace(-1.0, 1.0, output.numel(), device=output.device).view_as(output).to(output.dtype)
        (gradient,) = torch.autograd.grad(output, points, weights)
        return [output.detach(), gradient]


_Kind = tuple[bool, torch.Size, torch.dtype, torch.device, bool]


class _Passes:
    """A net's recorded passes on buffers of one shape: forward, and with ``gradient`` also backward."""

    def __init__(self, recorder: Recorder, model: nn.Module, images: Tensor, gradient: bool) -> None:
        self.recorder, self.model, self.gradient = recorder, model, gradient
        self.asked = self._at = 0  # number of forward passes; the recorder's number of replays after the last of them
        self._images = images.clone(memory_format=torch.contiguous_format).requires_grad_(gradient)
        self._output: Tensor | None  # with its autograd graph
        recorder.warm_up(self._both)
        self._output = None
        self._held = tensors_used(model, images)  # keeps tensors alive that a net may drop, such as caches for a shape
        self._forward = recorder.record(self._run)
        self._weights = torch.zeros_like(self._forward.result)
        self._backward = recorder.record(self._differentiate) if gradient else None
        self._output = None  # other recordings may overwrite the memory of its autograd graph

    def _run(self) -> Tensor:
        with torch.set_grad_enabled(self.gradient):
            self._output = self.model(self._images)
        return self._output.detach()

    def _differentiate(self) -> Tensor:
        assert self._output is not None
        # The graph is kept, so that this can run several times.
        (gradient,) = torch.autograd.grad(self._output, self._images, self._weights, retain_graph=True)
        return gradient

    def _both(self) -> None:
        output = self._run()
        if self.gradient:
            self._weights = torch.zeros_like(output)
            self._differentiate()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        self._images.copy_(images)
        self._forward.replay()
        self.asked, self._at = self.asked + 1, self.recorder.replays
        return self._forward.result.clone()

    @torch.no_grad()
    def backward(self, images: Tensor, weights: Tensor, asked: int) -> Tensor:
        """The gradient at images, (N, channels, H, W); their forward pass runs anew if anything was replayed since.

        Args:
            weights: (N, C), the outputs' weights in the sum that is differentiated.
            asked: the value of ``self.asked`` after the forward pass of these images.
        """
        assert self._backward is not None
        if (self.asked, self._at) != (asked, self.recorder.replays):
            self.forward(images)
        self._weights.copy_(weights)
        self._backward.replay()
        self._at = self.recorder.replays
        return self._backward.result.clone()


def tensors_used(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The tensors that a pass reads and does not make, the images among them."""
    used = _Used()
    with torch.no_grad(), used:
        model(images)
    return list(used.before.values())


class _Used(TorchDispatchMode):
    """Collects the tensors that operations read and that none of them made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before: dict[int, Tensor] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in _strided((args, kwargs)):
            if (place := tensor.untyped_storage().data_ptr()) not in self._made:
                self.before.setdefault(place, tensor)
        self._made |= {tensor.untyped_storage().data_ptr() for tensor in _strided(result)} - self.before.keys()
        return result


def _strided(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


class _Replayed(torch.autograd.Function):
    """Recorded passes as a function for autograd."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, passes: _Passes) -> Tensor:
        output = passes.forward(images)
        ctx.passes, ctx.asked = passes, passes.asked
        ctx.save_for_backward(images)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None]:
        (images,) = ctx.saved_tensors
        gradient = ctx.passes.backward(images, weights, ctx.asked)
        ctx.asked = ctx.passes.asked
        return gradient, None


def agree(expected: Tensor, found: Tensor) -> bool:
    """Whether two tensors are equal up to rounding, relative to the largest expected number."""
    if torch.equal(expected, found):
        return True
    most = relative_rounding(expected) * expected.abs().max()
    return expected.shape == found.shape and bool((expected - found).abs().max() <= most)
