import random

import numpy as np
import pytest
import torch
from linear_mixes import a_linear_mix
from torch import nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.autoattack.apgd import checkpoints
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import square_size
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.storage.checked_file import read_checked, write_checked
from adaptive_smoothing_zoo.threat import ThreatModel

LINF = ThreatModel("Linf", 1.0)
IMAGES = torch.rand(14, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2


def _engine(model, norm, eps, batch_size, seed=4, num_classes=5, iterations=20, queries=100):
    settings = AttackSettings(seed=seed, batch_size=batch_size).limited(iterations=iterations, queries=queries)
    return Search(model, ThreatModel(norm, eps), settings, num_classes=num_classes, device=torch.device("cpu"))


class Smooth(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 5))

    def forward(self, images):
        return 4 * self.layers(images)


def _attack(engine, name, images, labels, indices):
    """Index -> adversarial example, for the points that the attack broke."""
    found = {}
    for positions, candidates in engine.attack(name, images, labels, indices):
        for position, candidate in zip(positions.tolist(), candidates, strict=True):
            assert int(indices[position]) not in found
            found[int(indices[position])] = candidate
            assert not candidate.isnan().any()
    originals = {int(index): image for index, image in zip(indices, images, strict=True)}
    return {index: point for index, point in found.items() if not torch.equal(point, originals[index])}


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *((name, norm) for name in STANDARD_ATTACKS for norm in ("Linf", "L2") if (name, norm) != ("square", "L2")),
        pytest.param("square", "L2", marks=pytest.mark.slow),
    ],
)
def test_batch_size_order_and_company_change_nothing(name, norm):
    model = Smooth().requires_grad_(False)
    labels, indices = model(IMAGES).argmax(1), torch.arange(100, 114)
    eps = {"Linf": 0.05, "L2": 0.25}[norm] * (1.3 if name == "square" else 1.0)
    expected = _attack(_engine(model, norm, eps, 14), name, IMAGES, labels, indices)
    assert 0 < len(expected) < 14
    shuffled = torch.randperm(14)
    for batch_size, chosen in ((3, torch.arange(14)), (14, shuffled), (5, shuffled[:9])):
        found = _attack(_engine(model, norm, eps, batch_size), name, IMAGES[chosen], labels[chosen], indices[chosen])
        assert set(found) == set(expected) & set(indices[chosen].tolist())
        for index, point in found.items():
            assert (model(point[None]).argmax(1) != labels[index - 100]).all()
            if name in ("apgd-ce", "square"):  # the targeted attacks may end with another target when slots are free
                torch.testing.assert_close(point, expected[index], rtol=0, atol=1e-5)
    other_seed = _attack(_engine(model, norm, eps, 14, seed=5), name, IMAGES, labels, indices)
    if name != "fab-t":  # which uses no random numbers
        assert any(not torch.equal(point, expected[index]) for index, point in other_seed.items() if index in expected)


class Interrupted(BaseException):
    """As Ctrl-C."""


def _stopping(most):
    """What is called between steps, and interrupts at the n-th call."""
    calls = iter(range(1, 10**9))

    def beat():
        if next(calls) == most:
            raise Interrupted

    return beat


def _until(engine, most, name, points, **options):
    """(index, candidate) of what is finished before the engine is interrupted, and whether it was."""
    found, (images, labels, indices) = [], points
    try:
        for positions, candidates in engine.attack(name, images, labels, indices, beat=_stopping(most), **options):
            found += zip(indices[positions].tolist(), candidates, strict=True)
    except Interrupted:
        return found, True
    return found, False


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("name", STANDARD_ATTACKS)
def test_an_attack_goes_on_from_a_snapshot_as_if_nothing_had_been(name, mix, norm, tmp_path):
    model = a_linear_mix() if mix else Smooth().requires_grad_(False)  # Square asks a mix by its bounds
    labels, indices = model(IMAGES).argmax(1), torch.arange(100, 114)
    eps = {"Linf": 0.05, "L2": 0.25}[norm] * (1.3 if name == "square" else 1.0) * (0.3 if mix else 1.0)

    def an_engine():
        return _engine(model, norm, eps, 5, iterations=8, queries=60)

    whole = an_engine()
    expected, _ = _until(whole, 0, name, (IMAGES, labels, indices))
    assert 0 < sum(not torch.equal(point, IMAGES[index - 100]) for index, point in expected) < 14
    assert (whole.made("square", IMAGES)[0].ask is not None) == mix
    moments, found, order = random.Random(0), [], torch.arange(14)
    engine, snapshot, interrupted = an_engine(), None, True
    while interrupted:
        # The points come in another order, and those that are done come again: the snapshot knows which are meant.
        points = IMAGES[order], labels[order], indices[order]
        options = {} if snapshot is None else {"snapshot": snapshot}
        part, interrupted = _until(engine, moments.randrange(1, 8), name, points, **options)
        found, order = found + part, torch.tensor(moments.sample(range(14), 14))
        if interrupted:
            write_checked(tmp_path / "snapshot", engine.snapshot(), {})
            snapshot = read_checked(tmp_path / "snapshot", lambda tensors, about: tensors)
            asked, engine = engine.spent(), an_engine()
            assert asked > 0
    assert [index for index, _ in found] == [index for index, _ in expected]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))
    assert (engine.asked[name], engine.answered[name]) == (whole.asked[name], whole.answered[name])
    assert engine.spent() < whole.spent()
    assert whole.underway() == engine.underway() == 0.0


def test_a_snapshot_of_other_points_or_another_attack_is_refused():
    model = Smooth().requires_grad_(False)
    labels, indices = model(IMAGES).argmax(1), torch.arange(100, 114)
    engine = _engine(model, "Linf", 0.05, 5)
    _until(engine, 3, "apgd-t", (IMAGES, labels, indices))
    kept = engine.snapshot()
    for name, points, change, message in (
        ("apgd-t", indices + 1, {}, "other points"),
        ("apgd-t", indices, {"running.step_size": kept["running.images"]}, "invalid snapshot of a pool"),
        ("apgd-ce", indices, {}, r"targets have shape \(14, 4\), not \(14, 1\)"),
        ("apgd-t", indices, {"targets": kept["targets"] + 9}, "not classes"),
        ("apgd-t", indices, {"indices": kept["indices"].float()}, "lacks indices"),
    ):
        with pytest.raises(ResultsError, match=message):
            engine.attack(name, IMAGES, labels, points, snapshot=kept | change)


def test_no_batch_is_empty():
    class Refusing(Smooth):
        def forward(self, images):
            assert len(images)
            return super().forward(images)

    model = Refusing().requires_grad_(False)
    engine = _engine(model, "Linf", 0.05, 5)
    for name in ("apgd-t", "fab-t"):  # the second finds the classes ranked
        _attack(engine, name, IMAGES, model(IMAGES).argmax(1), torch.arange(14))


def test_gradients_that_lead_nowhere_are_told_of():
    class Flat(nn.Module):
        def forward(self, images):
            return torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(len(images), 4) + 0.0 * images.mean((1, 2, 3))[:, None]

    labels = torch.zeros(14, dtype=torch.int64)
    engine = _engine(Flat(), "Linf", 0.1, 14, num_classes=4)
    assert not _attack(engine, "apgd-t", IMAGES, labels, torch.arange(14))
    assert engine.warnings("apgd-t") == ()
    assert engine.flat["apgd-t"] == set(range(14))  # from which an evaluation makes one warning for all points

    class Lost(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images):
            return images.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.nan

    model = Smooth()
    wrapped = nn.Module()
    wrapped.forward = lambda images: model(Lost.apply(images))
    engine = _engine(wrapped, "Linf", 0.001, 14)
    list(engine.attack("apgd-ce", IMAGES, model(IMAGES).argmax(1), torch.arange(14)))
    assert any("not finite during an attack" in warning for warning in engine.warnings("apgd-ce"))


def test_the_attacks_settings_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    sizes = [square_size(query, 32, 32, LINF) for query in (0, 10, 11, 51, 201, 501, 1001, 2001, 4001)]
    assert sizes == [29, 29, 20, 14, 10, 7, 5, 4, 3]
    assert {square_size(query, 32, 32, ThreatModel("L2", 1.0)) % 2 for query in range(0, 5000, 7)} == {1}
    assert square_size(4500, 8, 8, LINF) == 1


@pytest.mark.slow
def test_robust_accuracy_differs_from_the_references_by_no_more_than_a_seed_does():
    model = load_model("Demo2026Constant", dataset="digits")
    examples = load_data("digits").first(60)
    accuracy = {
        engine: [
            evaluate(model, examples.images, examples.labels, eps=0.2, seed=seed, engine=engine).robust_accuracy
            for seed in range(5)
        ]
        for engine in ("reference", "fast")
    }
    spread = max(np.ptp(values) for values in accuracy.values())
    assert abs(np.mean(accuracy["fast"]) - np.mean(accuracy["reference"])) <= max(spread, 1 / 60)
