"""The attacks' iterates and verdicts against pyautoattack's own, on the same random numbers."""

import pytest
import torch
from lockstep import Lockstep
from torch import nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.autoattack.reference import ReferenceEngine
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.threat import ThreatModel

SEED = 5


class Recorder(nn.Module):
    """A model that keeps what it is asked about: with a gradient, and without."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.with_gradient, self.without = [], []

    def forward(self, images):
        (self.with_gradient if images.requires_grad else self.without).append(images.detach().clone())
        return self.model(images)


class SmoothNet(nn.Module):
    """A small net without kinks, so that rounding does not grow into other iterates."""

    def __init__(self, shape=(2, 10, 10), classes=6):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 6, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(6 * 8 * 8, 16),
            nn.Tanh(),
            nn.Linear(16, classes),
        )

    def forward(self, images):
        return 3.0 * self.layers(images)


@pytest.fixture
def double(monkeypatch):
    """float64 throughout, also where the reference converts to float32."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(torch.float32)


def _reference(model, name, images, labels, norm, eps, **numbers):
    """What pyautoattack makes of one batch."""
    settings = AttackSettings(attacks=(name,), engine="reference", seed=SEED, batch_size=len(images))
    settings = complete(settings).limited(**numbers)
    engine = ReferenceEngine(model, ThreatModel(norm, eps), settings, num_classes=6, device=torch.device("cpu"))
    engine.model = model
    for attack in ("apgd", "apgd_targeted", "fab", "square"):
        part = getattr(engine._autoattack, attack)
        if hasattr(part, "predict"):
            part.predict = model
        part.model = model
        part.seed = SEED
    ((_, candidates),) = engine.attack(name, images, labels)
    return candidates


CASES = {"Linf": 0.06, "L2": 0.5}


@pytest.fixture(params=CASES)
def setting(request, double):
    norm = request.param
    torch.manual_seed(3)
    model = SmoothNet().requires_grad_(False)
    images = torch.rand(7, 2, 10, 10)
    images[0, :, :4] = 0.0  # pixels on the border of the box, as real images have them
    images[1, :, 3:] = 1.0
    return model, images, model(images).argmax(1), norm, CASES[norm]


def both(setting, name, eps=None, queries=300, restarts=1, eot=1):
    """The reference's recorder, our recorder, the margins after each query of Square, verdicts."""
    model, images, labels, norm, default_eps = setting
    eps = default_eps if eps is None else eps
    theirs, ours, margins = Recorder(model), Recorder(model), []
    candidates = _reference(theirs, name, images, labels, norm, eps, queries=queries, restarts=restarts, eot=eot)

    def watch(state):
        if name == "square":
            margins.append(state.best_margin.clone())

    numbers = {"queries": queries, "restarts": restarts, "eot": eot}
    lockstep = Lockstep(ours, norm=norm, eps=eps, seed=SEED, num_targets=5, **numbers, watch=watch)
    broken, _ = lockstep.attack(name, images, labels)
    expected = model(candidates).argmax(1) != labels
    assert torch.equal(broken, expected)
    return theirs, ours, margins, broken


def assert_close(ours, theirs, tolerance=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_apgd_ce_iterates(setting):
    theirs, ours, _, broken = both(setting, "apgd-ce")
    assert 0 < broken.sum() < 7
    assert len(ours.with_gradient) == len(theirs.with_gradient) == 101
    for mine, reference in zip(ours.with_gradient, theirs.with_gradient, strict=True):
        assert_close(mine, reference)


def test_apgd_dlr_iterates_of_all_restarts(setting):
    theirs, ours, _, broken = both(setting, "apgd-dlr", eps=setting[4] / 2, restarts=2)
    assert 0 < broken.sum() < 7
    assert len(ours.with_gradient) == len(theirs.with_gradient) == 2 * 101
    for mine, reference in zip(ours.with_gradient, theirs.with_gradient, strict=True):
        assert_close(mine, reference)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr"])
def test_means_of_three_passes_lead_a_deterministic_net_the_same_way(setting, name):
    """As pyautoattack's, and up to rounding as single passes do."""
    theirs, ours, _, broken = both(setting, name, eot=3)
    _, single, _, same = both(setting, name)
    assert torch.equal(broken, same)
    assert len(ours.with_gradient) == len(theirs.with_gradient) == 3 * len(single.with_gradient)
    for mine, reference in zip(ours.with_gradient, theirs.with_gradient, strict=True):
        assert_close(mine, reference)
    for mine, alone in zip(ours.with_gradient[::3], single.with_gradient, strict=True):
        assert_close(mine, alone)


def test_untargeted_fab_iterates_of_all_restarts(setting):
    # A ball too small to hold any adversarial example: every run lasts to its end.
    theirs, ours, _, broken = both(setting, "fab", eps=1e-4, restarts=2)
    assert not broken.any()
    assert len(ours.with_gradient) == len(theirs.with_gradient) == 200
    for mine, reference in zip(ours.with_gradient, theirs.with_gradient, strict=True):
        assert_close(mine, reference)
    away = (ours.with_gradient[100] - setting[1]).flatten(1)
    assert (away.abs().amax(1) > 0).all()  # the second start is not the image


def test_apgd_t_iterates(setting):
    theirs, ours, _, broken = both(setting, "apgd-t")
    assert 0 < broken.sum() < 7
    assert len(ours.with_gradient) == len(theirs.with_gradient) == 5 * 101
    for mine, reference in zip(ours.with_gradient, theirs.with_gradient, strict=True):
        assert_close(mine, reference)


def test_fab_iterates(setting):
    # A ball too small to hold any adversarial example: every run lasts to its end.
    theirs, ours, _, broken = both(setting, "fab-t", eps=1e-4)
    assert not broken.any()
    assert len(ours.with_gradient) == len(theirs.with_gradient) == 500
    for mine, reference in zip(ours.with_gradient, theirs.with_gradient, strict=True):
        assert_close(mine, reference)
    # Per target: two passes for the label and the order of targets, 100 to judge iterates, one in the end.
    starts = range(1, 5 * 103, 103)
    judged = [points for start in starts for points in theirs.without[start + 2 : start + 102]]
    for mine, reference in zip(ours.without[1:], judged, strict=True):
        assert_close(mine, reference)


def assert_square_iterates(setting):
    """Compare all points asked about; return which were broken."""
    theirs, ours, margins, broken = both(setting, "square", eps=setting[4] * 1.5)
    assert 0 < broken.sum() < 7
    asked = theirs.without[1:-1]  # the first and the last are for labels
    mine = ours.without[1:]
    assert len(mine) == len(asked) == 301
    alive = [torch.ones(7, dtype=torch.bool), *(margin > 0 for margin in margins[:-1])]
    # In l_2 a window in which all is cut off by the box is divided by its norm, a rounding error, plus 1e-12.
    tolerance = 1e-9 if setting[3] == "Linf" else 1e-4
    for points, reference, left in zip(mine, asked, alive, strict=True):
        assert_close(points[left], reference, tolerance)
    return broken


def test_square_iterates(setting):
    model, images, labels, *ball = setting
    broken = assert_square_iterates(setting)
    # And with a run that is over early in the first place, from which the others cannot tell how far they are.
    order = broken.argsort(descending=True, stable=True)
    assert assert_square_iterates((model, images[order], labels[order], *ball))[0]


def _nets():
    mix = load_model("Demo2026Adaptive", dataset="digits").eval()
    return {"standard": mix.std_model, "robust": mix.rob_model, "mix": mix}


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.2), ("L2", 0.8)])
@pytest.mark.parametrize("which", ["standard", "robust", "mix"])
def test_verdicts_example_by_example(which, norm, eps):
    model = _nets()[which].requires_grad_(False)
    eps = eps / 4 if which == "standard" else eps  # where neither all nor nothing breaks
    examples = load_data("digits").first(40)
    with torch.no_grad():
        correct = model(examples.images).argmax(1) == examples.labels
    images, labels = examples.images[correct], examples.labels[correct]
    settings = AttackSettings(engine="reference", seed=SEED, batch_size=20)
    engine = ReferenceEngine(model, ThreatModel(norm, eps), settings, num_classes=10, device=torch.device("cpu"))
    lockstep = Lockstep(model, norm=norm, eps=eps, seed=SEED)
    # Every attack meets all points, so that each is compared on as many as possible.
    for name in STANDARD_ATTACKS:
        for part in torch.arange(len(labels)).split(20):
            engine._autoattack.apgd.seed = SEED
            ((_, candidates),) = engine.attack(name, images[part], labels[part])
            with torch.no_grad():
                expected = model(candidates).argmax(1) != labels[part]
            broken, adversarials = lockstep.attack(name, images[part], labels[part])
            assert torch.equal(broken, expected), name
            with torch.no_grad():
                assert (model(adversarials).argmax(1) != labels[part])[broken].all()
