"""The reference engine: AutoAttack as pyautoattack implements it [CH20]."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.autoattack.apgd import intervals
from adaptive_smoothing_zoo.attacks.catalogue import entry_of
from adaptive_smoothing_zoo.attacks.contract import batches
from adaptive_smoothing_zoo.attacks.settings import AttackSettings, Plan
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.threat import ThreatModel

CHECKED = 256  # images used by AutoAttack's checks, unless a batch has more
ADVICE = "Here: asz eval --version rand, or AttackSettings.version('rand')."
LOST_GRADIENT = "a gradient was not finite during an attack, which may have failed because of it"


class ReferenceEngine:
    """Runs AutoAttack's attacks on batches of points, as ``AutoAttack.run_standard_evaluation`` does.

    The verdicts are those of pyautoattack for the same seed and batch size; its global seeding is undone afterwards.
    Each attack is seeded at the start of each batch, so an interrupted batch starts again. Arguments and methods are
    those of ``Search``; there are no snapshots, and surrogates are not used.

    Raises:
        ModuleNotFoundError: pyautoattack is not installed.
        ValueError: an attack that pyautoattack lacks.
    """

    resumes_inside = False

    def __init__(
        self,
        model: nn.Module,
        threat: ThreatModel,
        settings: AttackSettings,
        *,
        num_classes: int,
        device: torch.device,
        surrogate: nn.Module | None = None,
    ) -> None:
        self.name = self.full_name()
        from pyautoattack import AutoAttack

        self.flat: dict[str, set[int]] = {}  # pyautoattack does not report it
        self.model, self.device, self.settings = model, device, settings
        self.batch_size = settings.batch_size or 256
        self._notes = _Notes()
        self._warnings: dict[str, list[str]] = {}
        self._watched = _Watched(model, self._notes)
        self._autoattack = AutoAttack(
            self._watched, norm=threat.norm, eps=threat.eps, seed=settings.seed, version="standard", device=device
        )
        self._autoattack.apgd.logger = self._autoattack.apgd_targeted.logger = self._notes
        self._batch: tuple[int, int, int] | None = None  # passes at its start, passes per point, points
        self._num_classes = num_classes
        self._targets = self._autoattack.apgd_targeted.n_target_classes = min(9, num_classes - 1)
        self._autoattack.fab.n_target_classes = self._targets
        if settings.engine == "reference":
            for name in settings.names:
                if name not in _NAMES:
                    raise ValueError(f"pyautoattack has no attack {name!r}; use the engine 'fast'")

    def _follow(self, plan: Plan) -> Any:
        """pyautoattack's attack, configured by a plan."""
        attack, loss = _NAMES[plan.name]
        part = getattr(self._autoattack, attack)
        numbers = {
            "n_iter": plan.iterations,
            "n_restarts": plan.restarts or 1,
            "n_target_classes": plan.targets and min(plan.targets, self._num_classes - 1),
            "n_queries": plan.queries,
            "eot_iter": plan.eot,
        }
        for name, number in numbers.items():
            if number is not None:
                setattr(part, name, number)
        if loss is not None:
            part.loss = loss
        if attack == "fab":
            part.targeted = plan.name == "fab-t"
        if plan.iterations is not None and hasattr(part, "n_iter_2"):  # APGD's first checkpoint and later intervals
            part.n_iter_2, part.size_decr, part.n_iter_min = intervals(plan.iterations)
        return part

    @staticmethod
    def full_name() -> str:
        """Name and version of the engine.

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
        *,
        snapshot: dict[str, Tensor] | None = None,
        beat: Callable[[], object] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Attack every point; yield (positions, candidates) batch by batch; a candidate need not be adversarial.

        A batch whose points are all ``done`` (N,) is skipped; ``done`` does not change the batches. ``beat`` is called
        at every pass. Indices in the dataset are not used.
        """
        perturb = self._follow(self.settings.plan(name)).perturb
        self._notes.texts = self._warnings.setdefault(name, [])
        self._watched.beat = beat or (lambda: None)
        for positions in batches(torch.arange(len(labels)), self.batch_size):
            if done is not None and bool(done[positions].all()):
                continue
            per_point = entry_of(name).passes(self.settings.plan(name), self._num_classes)
            self._batch = self._watched.passes, per_point, len(positions)
            # pyautoattack asserts nothing about memory format but needs contiguous tensors.
            x = images[positions].to(self.device).contiguous()
            y = labels[positions].to(self.device)
            forked = torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])
            with forked, float32_precision(self.settings.tf32):
                candidates = perturb(x, y)
            self._batch = None
            yield positions, candidates.detach().to(images.device)

    def snapshot(self) -> None:
        """None: a batch cannot resume."""

    def spent(self) -> int:
        """Forward-equivalents that checks and attacks have spent so far."""
        return self._watched.passes

    def underway(self) -> float:
        """Progress within the current batch, in points."""
        if self._batch is None:
            return 0.0
        begin, per_point, points = self._batch
        return min((self._watched.passes - begin) / per_point, points)

    def warnings(self, name: str) -> tuple[str, ...]:
        """Warnings about an attack so far."""
        return tuple(self._warnings.get(name, ()))

    def check(self, images: Tensor, labels: Tensor, beat: Callable[[], object] | None = None) -> tuple[str, ...]:
        """Warnings of AutoAttack's own checks on the model's outputs for the first images; empty if there are none.
        ``beat`` is called at every pass.
        """
        from pyautoattack import checks

        most = max(self.batch_size, CHECKED)
        x, y = images[:most].to(self.device), labels[:most].to(self.device)
        self._watched.beat = beat or (lambda: None)
        logger = _Notes()
        if not self.settings.averages:
            checks.check_randomized(self._in_parts, x, y, bs=len(x), logger=logger)
            logger.texts = [f"{text} {ADVICE}" for text in logger.texts]
        n_classes = checks.check_range_output(self._in_parts, x, logger=logger)
        checks.check_n_classes(n_classes, list(self.settings.names), self._targets, self._targets, logger=logger)
        # This check traces function calls with a global counter that it never resets, and ends any other tracing.
        tracer = sys.gettrace()
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))
        try:
            with torch.no_grad():
                checks.check_dynamic(self._in_parts, x, False, logger=logger)
        finally:
            sys.settrace(tracer)
        return tuple(logger.texts)

    def _in_parts(self, images: Tensor) -> Tensor:
        return torch.cat([self._watched(part) for part in images.split(self.batch_size)])


_NAMES = {  # the attributes of AutoAttack and the loss of each
    "apgd-ce": ("apgd", "ce"),
    "apgd-dlr": ("apgd", "dlr"),
    "apgd-t": ("apgd_targeted", None),
    "fab": ("fab", None),
    "fab-t": ("fab", None),
    "square": ("square", None),
}


def check_square(accuracy_after: dict[str, float]) -> tuple[str, ...]:
    """AutoAttack's warning if Square, a gradient-free attack, succeeded after the gradient attacks; else nothing."""
    from pyautoattack import checks

    notes = _Notes()
    checks.check_square_sr(accuracy_after, logger=notes)
    return tuple(notes.texts)


class _Notes:
    """A logger that stores pyautoattack's warnings, each text once, independent of logging settings."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def warning(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)


class _Watched(nn.Module):
    """A model with contiguous image gradients, which pyautoattack needs and channels_last weights do not guarantee.

    Attributes:
        passes: forward-equivalents so far, counted in images: a gradient is one more.
        beat: called at every pass.
    """

    def __init__(self, model: nn.Module, notes: _Notes) -> None:
        super().__init__()
        self.model, self.notes = model, notes
        self.passes = 0
        self.beat: Callable[[], object] = lambda: None

    def forward(self, images: Tensor) -> Tensor:
        self.passes += len(images)
        self.beat()
        if images.requires_grad:
            images = images.view_as(images)
            images.register_hook(self._contiguous_and_finite)
        return self.model(images)  # type: ignore[no-any-return]

    def _contiguous_and_finite(self, gradient: Tensor) -> Tensor:
        """The gradient, contiguous. Non-finite gradients are recorded: APGD would silently stop moving there."""
        self.passes += len(gradient)
        if not bool(torch.isfinite(gradient).all()):
            self.notes.warning(LOST_GRADIENT)
        return gradient.contiguous()
