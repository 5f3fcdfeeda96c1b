"""Whole steps, with the twin of CUDA graphs that runs on any device."""

import copy
import logging

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.attacks import search, whole_steps
from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.autoattack.fab import FAB
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, targeted_dlr
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.whole_steps import WholeSteps
from adaptive_smoothing_zoo.machine import graphs
from adaptive_smoothing_zoo.machine.graphs import Graphed, Recording, Rerun
from adaptive_smoothing_zoo.threat import ThreatModel

N, CLASSES = 5, 6
KEYS = torch.arange(N)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        layers = nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, CLASSES)
        self.layers = nn.Sequential(*layers).requires_grad_(False)

    def forward(self, images):
        return self.layers(images)


class Clocked(Rerun):
    """By whose clock a step takes ``step`` seconds, and a replay ``replay``."""

    def __init__(self, step=2.0, replay=1.0):
        super().__init__()
        self.took, self.calls, self.recorded, self.freed = (step, replay), 0, 0, 0
        self.time = 0.0

    def record(self, work):
        self.recorded += 1
        return super().record(work)

    def free(self):
        self.freed += 1

    def now(self):
        if self.calls % 2 == 1:
            self.time += self.took[self.calls // 2 % 2]
        self.calls += 1
        return self.time


ATTACKS = {
    "apgd-ce": lambda threat: APGD("apgd-ce", threat, cross_entropy, steps=12),
    "apgd-t": lambda threat: APGD("apgd-t", threat, targeted_dlr, steps=12),
    "fab-t": lambda threat: FAB(threat, steps=12),
    "fab": lambda threat: FAB(threat, steps=12, targeted=False),
}


def _start(attack, net):
    images = torch.rand(N, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = net(images).argmax(1)
    return attack.start(images, labels, (labels + 1) % CLASSES, KEYS)


def _never_passes(recorder, net):
    """What an attack asks, with passes that are never recorded: only whole steps count."""
    graphed = Graphed(net, recorder, often=2)
    graphed._most = 0
    return graphed


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_replayed_steps_leave_the_states_of_the_attack_bit_for_bit(name, norm):
    net, attack, recorder = Net(), ATTACKS[name](ThreatModel(norm, 0.2)), Clocked()
    graphed = _never_passes(recorder, net)
    whole = WholeSteps(attack, graphed)
    ours, expected = _start(attack, net), _start(attack, net)
    asked = []
    for _ in range(attack.length + 3):
        before = copy.copy(ours)
        kept = {field: value.clone() for field, value in vars(before).items()}
        asked.append((whole.step(ours, graphed), attack.step(expected, net)))
        for field, value in vars(expected).items():
            assert torch.equal(getattr(ours, field), value), field
        for field, value in vars(before).items():
            assert torch.equal(value, kept[field]), field  # a step writes into no tensor of the state it got
    assert all(a == b for a, b in asked)
    assert recorder.recorded == 1
    assert recorder.replays >= attack.length - 5
    assert torch.equal(whole.spent(ours), attack.spent(expected))


def test_each_width_has_its_own_recording_and_states_share_nothing():
    net, attack, recorder = Net(), ATTACKS["apgd-ce"](ThreatModel("Linf", 0.2)), Clocked()
    graphed = _never_passes(recorder, net)
    whole = WholeSteps(attack, graphed)
    state = _start(attack, net)
    for _ in range(6):
        whole.step(state, graphed)
    narrow = state.select(torch.tensor([0, 3]))
    other = state.select(torch.arange(N))
    kept = {field: value.clone() for field, value in vars(state).items()}
    for _ in range(6):
        whole.step(narrow, graphed)
        whole.step(other, graphed)
    assert recorder.recorded == 2
    for field, value in vars(state).items():
        assert torch.equal(value, kept[field])
    with_others, alone = other.select(torch.tensor([0, 3])), narrow
    for field in vars(state):
        torch.testing.assert_close(getattr(with_others, field), getattr(alone, field))


class Stale(Clocked):
    """Replays nothing: what the host decided when it recorded stays."""

    def record(self, work):
        recording = super().record(work)
        return Recording(lambda: None, recording.result)


class Waiting(Clocked):
    def warm_up(self, work):
        raise RuntimeError("called a synchronizing CUDA operation")


class Full(Clocked):
    def record(self, work):
        raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("recorder", "said"),
    [
        (Stale(), "a replay leaves another state than the step"),
        (Waiting(), "called a synchronizing CUDA operation"),
        (Full(), "CUDA out of memory"),
        (Clocked(step=1.0, replay=1.0), "a replay takes 1 s and a step 1 s"),
    ],
)
def test_where_it_cannot_be_or_does_not_pay_the_attack_s_own_steps_are_made_and_said_once(recorder, said, caplog):
    net, attack = Net(), ATTACKS["apgd-ce"](ThreatModel("Linf", 0.2))
    graphed = _never_passes(recorder, net)
    whole = WholeSteps(attack, graphed)
    ours, expected = _start(attack, net), _start(attack, net)
    with caplog.at_level(logging.INFO, whole_steps.__name__):
        for _ in range(10):
            whole.step(ours, graphed)
            attack.step(expected, net)
    for field, value in vars(expected).items():
        assert torch.equal(getattr(ours, field), value), field
    assert caplog.text.count(said) == 1
    assert caplog.text.count("\n") == 1


def test_the_search_replays_whole_steps_and_finds_the_same(monkeypatch):
    monkeypatch.setattr(graphs, "OFTEN", 2)
    seen = []
    step = whole_steps._WholeStep.step
    monkeypatch.setattr(
        whole_steps._WholeStep, "step", lambda self, state: seen.append(len(state)) or step(self, state)
    )
    found = []
    for recorder in (Clocked(), None):
        monkeypatch.setattr(search, "recorder_of", lambda device, recorder=recorder: recorder)
        net, images = Net(), torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(4))
        settings = AttackSettings(batch_size=4).limited(iterations=12, queries=30)
        engine = search.Search(net, ThreatModel("Linf", 0.1), settings, num_classes=CLASSES, device=torch.device("cpu"))
        labels = net(images).argmax(1)
        verdicts = [(v.attack, v.points, v.broken, v.candidates) for v in engine.run(images, labels, torch.arange(6))]
        found.append((verdicts, dict(engine.asked)))
    assert len(seen) > 10
    assert found[0][1] == found[1][1]
    for ours, theirs in zip(found[0][0], found[1][0], strict=True):
        assert ours[0] == theirs[0]
        assert all(map(torch.equal, ours[1:], theirs[1:]))
