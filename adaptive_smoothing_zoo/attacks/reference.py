"""The reference engine: AutoAttack "standard" as pyautoattack implements it (Croce and Hein 2020)."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

STANDARD_ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")

# Forward-equivalents that each attack spends on a point it does not break: what progress is measured in.
PASSES = {"apgd-ce": 204, "apgd-t": 1829, "fab-t": 2729, "square": 5004}

LOGGER = "auto-attack"  # the logger to which pyautoattack writes its warnings
LOST_GRADIENT = "a gradient was not finite during an attack, which may have failed for that"


class ReferenceEngine:
    """Runs each attack of the standard protocol on batches of points, as ``AutoAttack.run_standard_evaluation`` does.

    The verdicts are those of pyautoattack for the same seed and batch size; its global seeding is undone afterwards.

    Args:
        model: images in [0, 1] to logits, in eval mode, on ``device``.
        norm: "Linf" or "L2".
        eps: radius of the ball.
        seed: given to each attack at the start of each batch, as pyautoattack does.
        batch_size: points per batch.
        num_classes: of the model. The targeted attacks try 9 wrong classes, or all there are if they are fewer.
        device: where the model is.

    Raises:
        ModuleNotFoundError: pyautoattack is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        norm: str,
        eps: float,
        seed: int,
        batch_size: int,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self.name = self.full_name()
        from pyautoattack import AutoAttack

        self.flat: dict[str, set[int]] = {}  # pyautoattack does not tell
        model = _ContiguousGradients(model)
        self.model, self.batch_size, self.device = model, batch_size, device
        self._autoattack = AutoAttack(model, norm=norm, eps=eps, seed=seed, version="standard", device=device)
        self._targets = min(9, num_classes - 1)
        self._autoattack.apgd_targeted.n_target_classes = self._targets
        self._autoattack.fab.n_target_classes = self._targets

    @staticmethod
    def full_name() -> str:
        """What carries out the attacks, with its version.

        Raises:
            ModuleNotFoundError: pyautoattack is not installed.
        """
        try:
            return f"pyautoattack {version('pyautoattack')}"
        except PackageNotFoundError:
            raise ModuleNotFoundError(
                "AutoAttack comes with pyautoattack: pip install 'adaptive-smoothing-zoo[evaluation]'"
            ) from None

    def attack(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        indices: Tensor | None = None,
        done: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Attack every point; yield (positions, candidates) batch by batch. Indices in the dataset are not used.

        A batch whose points are all ``done`` (N,) is passed over; the batches are the same whatever is done.

        A candidate is a point of the ball, adversarial or not: ask the model.
        """
        perturb = self._perturb(name)
        for positions in torch.arange(len(labels)).split(self.batch_size):
            if done is not None and bool(done[positions].all()):
                continue
            # pyautoattack asserts nothing about memory format but needs contiguous tensors.
            x = images[positions].to(self.device).contiguous()
            y = labels[positions].to(self.device)
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                candidates = perturb(x, y)
            yield positions, candidates.detach().to(images.device)

    def check(self, images: Tensor, labels: Tensor) -> None:
        """AutoAttack's own checks of the model on one batch; they speak through warnings (see ``collect_warnings``)."""
        from pyautoattack import checks

        x, y = images[: self.batch_size].to(self.device), labels[: self.batch_size].to(self.device)
        logger = logging.getLogger(LOGGER)
        checks.check_randomized(self.model, x, y, bs=len(x), logger=logger)
        n_classes = checks.check_range_output(self.model, x, logger=logger)
        checks.check_n_classes(n_classes, list(STANDARD_ATTACKS), self._targets, self._targets, logger=logger)
        # This check traces function calls with a global counter that it never resets, and ends any other tracing.
        tracer = sys.gettrace()
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))
        try:
            with torch.no_grad():
                checks.check_dynamic(self.model, x, False, logger=logger)
        finally:
            sys.settrace(tracer)

    def _perturb(self, name: str) -> Callable[[Tensor, Tensor], Tensor]:
        if name == "apgd-ce":
            self._autoattack.apgd.loss = "ce"
            return self._autoattack.apgd.perturb  # type: ignore[no-any-return]
        if name == "apgd-t":
            return self._autoattack.apgd_targeted.perturb  # type: ignore[no-any-return]
        if name == "fab-t":
            self._autoattack.fab.targeted = True
            return self._autoattack.fab.perturb  # type: ignore[no-any-return]
        if name == "square":
            return self._autoattack.square.perturb  # type: ignore[no-any-return]
        raise ValueError(f"the standard protocol has the attacks {', '.join(STANDARD_ATTACKS)}, not {name!r}")


def check_square(accuracy_after: dict[str, float]) -> None:
    """AutoAttack's check that Square, which sees no gradient, did not beat the attacks that do; it warns."""
    from pyautoattack import checks

    checks.check_square_sr(accuracy_after, logger=logging.getLogger(LOGGER))


class _ContiguousGradients(nn.Module):
    """A model whose gradient with respect to the images is contiguous, which pyautoattack needs and channels_last
    weights do not give by themselves.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad:
            images = images.view_as(images)
            images.register_hook(_contiguous_and_finite)
        return self.model(images)  # type: ignore[no-any-return]


def _contiguous_and_finite(gradient: Tensor) -> Tensor:
    """The gradient, contiguous. One that is not finite is told of: APGD stands still there, and nobody would know."""
    if not bool(torch.isfinite(gradient).all()):
        logging.getLogger(LOGGER).warning(LOST_GRADIENT)
    return gradient.contiguous()


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Collect what AutoAttack warns of, each text once, instead of letting it scroll by."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (text := record.getMessage()) not in found:
                found.append(text)

    logger, collector = logging.getLogger(LOGGER), Collector(logging.WARNING)
    propagate = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagate
