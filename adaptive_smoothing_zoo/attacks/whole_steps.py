"""Steps of an attack, recorded whole and replayed: small nets on a GPU wait for what is between their passes, too."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.attacks.contract import Attack, S
from adaptive_smoothing_zoo.attacks.losses import Model
from adaptive_smoothing_zoo.errors import reason
from adaptive_smoothing_zoo.machine.graphs import WORTH, Graphed, Recorder, agree, tensors_used
from adaptive_smoothing_zoo.machine.precision import tf32_allowed

LATER = 2  # steps after the passes of a width are recorded, so that a step is compared with one that replays them

_logger = logging.getLogger(__name__)


class WholeSteps(Attack[S]):
    """An attack whose steps are replayed whole at widths that come often.

    A recording is used only where it leaves a state as the attack's own step does, up to rounding, twice in a row, and
    where it is faster than a step that replays the passes alone. Elsewhere steps run as they are, and the log says why.

    Args:
        attack: one that is ``recordable``.
        graphed: what the attack asks; within a recording the net itself is asked.
    """

    def __init__(self, attack: Attack[S], graphed: Graphed) -> None:
        self.name, self.length, self.view = attack.name, attack.length, attack.view
        self.attack, self.graphed = attack, graphed
        self._calls: Counter[_Kind] = Counter()
        self._steps: dict[_Kind, _WholeStep | None] = {}
        self._given_up = False

    def start(self, images: Tensor, labels: Tensor, targets: Tensor, keys: Tensor) -> S:
        """The attack's own."""
        return self.attack.start(images, labels, targets, keys)

    def step(self, state: S, model: Model) -> int:
        """Advance every run by one step of the attack."""
        recorded = self._at(state)
        return self.attack.step(state, model) if recorded is None else recorded.step(state)

    def spent(self, state: S) -> Tensor:
        """The attack's own."""
        return self.attack.spent(state)

    def _at(self, state: S) -> _WholeStep | None:
        """The recorded step for a state of this width; None if the attack's own is to be made."""
        if self._given_up or torch.is_autocast_enabled() or torch.is_inference_mode_enabled():
            return None
        kind = len(state), tf32_allowed()
        if kind not in self._steps:
            self._calls[kind] += 1
            if self._calls[kind] <= self.graphed.often + LATER:
                return None
            self._steps[kind] = self._record(state)
        return self._steps[kind]

    def _record(self, state: S) -> _WholeStep | None:
        try:
            recorded = _WholeStep(self.attack, self.graphed.model, self.graphed.recorder, state)
            return None if self._is_slower(recorded, state) else recorded
        except RuntimeError as error:  # OutOfMemoryError is one
            said = reason(error)
        self._given_up = True
        self._steps.clear()
        self.graphed.recorder.free()
        _logger.info("steps of %s are not recorded whole, only their passes: %s", self.name, said)
        return None

    def _is_slower(self, recorded: _WholeStep, state: S) -> bool:
        """Whether a replay takes about as long as the attack's step. Raises RuntimeError: it does something else."""
        expected, found, now = copy.copy(state), copy.copy(state), self.graphed.recorder.now
        took: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(2):
            begin = now()
            self.attack.step(expected, self.graphed)
            took[False].append(now() - begin)
            begin = now()
            recorded.step(found)
            took[True].append(now() - begin)
            if not all(agree(a, b) for a, b in zip(vars(expected).values(), vars(found).values(), strict=True)):
                raise RuntimeError("a replay leaves another state than the step")
        if min(took[True]) <= WORTH * min(took[False]):
            return False
        _logger.info(
            "steps of %s on %d runs are not replayed whole: a replay takes %.2g s and a step %.2g s",
            self.name,
            len(state),
            min(took[True]),
            min(took[False]),
        )
        return True


_Kind = tuple[int, bool]


class _WholeStep:
    """A step on the buffers of one state."""

    def __init__(self, attack: Attack[Any], model: nn.Module, recorder: Recorder, state: Any) -> None:
        self.attack, self.model = attack, model
        self.buffers = copy.copy(state)
        for name, value in vars(state).items():
            setattr(self.buffers, name, value.clone())
        self.asked = 0
        self.changed: list[str] = []
        self._held = tensors_used(model, state.images)  # a net might drop some of them
        recorder.warm_up(self._work)
        self._recording = recorder.record(self._work)

    @torch.no_grad()
    def _work(self) -> Tensor:
        """One step from the buffers, whose result takes their place."""
        moved = copy.copy(self.buffers)
        self.asked = self.attack.step(moved, self.model)
        kept = {value.untyped_storage().data_ptr() for value in vars(self.buffers).values()}
        results = {name: value for name, value in vars(moved).items() if value is not getattr(self.buffers, name)}
        for name, value in results.items():  # what lies in a buffer would be overwritten before it is read
            if value.untyped_storage().data_ptr() in kept:
                results[name] = value.clone()
        for name, value in results.items():
            getattr(self.buffers, name).copy_(value)
        self.changed = list(results)
        found: Tensor = self.buffers.found
        return found

    @torch.no_grad()
    def step(self, state: Any) -> int:
        """The same for a state, which gets tensors of its own."""
        for field in fields(state):
            getattr(self.buffers, field.name).copy_(getattr(state, field.name))
        self._recording.replay()
        for name in self.changed:
            setattr(state, name, getattr(self.buffers, name).clone())
        return self.asked
