"""Square asks no more than it must, and goes the same way."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.attacks.autoattack import square
from adaptive_smoothing_zoo.attacks.autoattack.square import Square
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import KeyedSquares
from adaptive_smoothing_zoo.attacks.catalogue import entry_of
from adaptive_smoothing_zoo.attacks.contract import Setup
from adaptive_smoothing_zoo.attacks.losses import margin
from adaptive_smoothing_zoo.attacks.margin_bounds import BoundedMargins
from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings, Plan
from adaptive_smoothing_zoo.threat import ThreatModel

SHAPE, QUERIES = (1, 5, 5), 250
IMAGES = torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(2))
IMAGES[:3, :, :2] = 0.0
CPU = torch.device("cpu")
EPS = {"Linf": 0.12, "L2": 0.35}


class Net(nn.Module):
    """A small smooth net that keeps what it is asked about."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(25, 10), nn.Tanh(), nn.Linear(10, 4)).requires_grad_(False)
        self.asked = []

    def forward(self, images):
        self.asked.append(images.clone())
        return 3 * self.layers(images)


def squares(norm):
    return KeyedSquares(0, "square", SHAPE, ThreatModel(norm, EPS[norm]), CPU, queries=QUERIES)


def go(net, norm, images, *, twins, batch_size=1, faster_way=None):
    """The state in the end, and the attack."""
    draw, labels = squares(norm), net.layers(images).argmax(1)
    keys = run_keys(0, "square", 0, torch.arange(len(images)))
    attack = Square(
        ThreatModel(norm, EPS[norm]),
        draw,
        queries=QUERIES,
        batch_size=batch_size,
        twins=draw.twins if twins else None,
        faster_way=faster_way,
    )
    state = attack.start(images, labels, labels, keys)
    asked = 0
    while not bool((state.found | state.exhausted).all()):
        asked += attack.step(state, net)
    assert asked == sum(len(points) for points in net.asked)
    return state, attack


def test_twins_are_the_last_earlier_changes_that_are_the_same():
    draw = squares("Linf")
    numbers = torch.arange(QUERIES)
    change = draw(None, None, numbers)
    whole = torch.stack([change.size, change.top, change.left, *change.signs.long().T], dim=1)
    for number in numbers.tolist():
        earlier = (whole[:number] == whole[number]).all(1).nonzero().flatten().tolist()
        assert int(draw.twins[number]) == (earlier[-1] if earlier else -1)
    assert (squares("L2").twins == -1).all()  # there the signs are each run's own


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("batch_size", [1, 9, 40])
def test_the_way_is_the_same_if_known_answers_are_not_asked_for_again(norm, batch_size):
    plain, _ = go(Net(), norm, IMAGES, twins=False)
    net = Net()
    state, attack = go(net, norm, IMAGES, twins=True, batch_size=batch_size)
    assert torch.equal(state.found, plain.found)
    assert 0 < state.found.sum() < 9
    # What a run that is found goes through afterwards is of no interest.
    for name in ("best", "best_margin", "best_query", "iteration"):
        left = getattr(state, name)[~state.found], getattr(plain, name)[~state.found]
        torch.testing.assert_close(*left, rtol=0, atol=1e-6)
    torch.testing.assert_close(state.adversarials[state.found], plain.adversarials[state.found], rtol=0, atol=1e-6)
    steps = plain.iteration.clamp(max=QUERIES + 1)
    assert int(attack.answered) == int(steps.sum())
    if norm == "Linf":
        assert sum(map(len, net.asked)) < 0.5 * int(attack.answered)


class Changing:
    """Spares for a while, then not, and so on."""

    def __init__(self):
        self.steps = 0

    def sparing(self, width, done):
        self.steps += 1
        return self.steps // 7 % 2 == 0


@pytest.mark.parametrize("norm", EPS)
def test_the_way_is_the_same_if_answers_are_spared_now_and_then(norm):
    plain, _ = go(Net(), norm, IMAGES, twins=False)
    state, attack = go(Net(), norm, IMAGES, twins=True, batch_size=20, faster_way=Changing())
    assert attack.faster_way.steps > 40
    assert torch.equal(state.found, plain.found)
    left = ~plain.found
    for name in ("best", "best_margin"):  # the same point, asked about again, may be better by rounding
        torch.testing.assert_close(getattr(state, name)[left], getattr(plain, name)[left], rtol=0, atol=1e-6)
    assert int(attack.answered) == int(plain.iteration.clamp(max=QUERIES + 1).sum())


def test_a_gpu_measures_whether_sparing_pays_and_a_cpu_always_spares():
    mix = MixedClassifier(Net(), Net(), 0.7)
    for device, measured in ((CPU, False), (torch.device("cuda"), True)):
        engine = Search(mix, ThreatModel("Linf", 0.1), AttackSettings(), num_classes=4, device=CPU)
        attack = engine.made("square", IMAGES)[0]
        assert isinstance(attack.ask, BoundedMargins)
        assert attack.twins is not None
        setup = Setup(
            plan=Plan("square", queries=9),
            threat=ThreatModel("Linf", 0.1),
            seed=0,
            shape=SHAPE,
            device=device,
            batch_size=4,
            judge=mix,
            prepared=mix,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(square, "KeyedSquares", lambda *arguments: squares("Linf"))
            made = entry_of("square").make(setup)
        assert isinstance(made.ask, BoundedMargins)
        assert (made.faster_way is not None) == measured


def test_only_points_that_may_be_better_are_asked_about():
    every, few = Net(), Net()
    for image in IMAGES:
        for net, twins in ((every, False), (few, True)):
            net.asked.clear()
            go(net, "Linf", image[None], twins=twins)
        known, best, lowest = [points[0] for points in every.asked], None, torch.inf
        label = few.layers(image[None]).argmax(1)
        for points in few.asked:
            assert any(torch.equal(points[0], point) for point in known)
            assert best is None or not torch.equal(points, best)
            if (value := float(margin(3 * few.layers(points), label))) < lowest:
                best, lowest = points, value


def test_an_engine_looks_back_only_if_the_model_answers_the_same_twice():
    class Noisy(Net):
        def forward(self, images):
            return super().forward(images) + 1e-3 * torch.randn(len(images), 4)

    spared = {}
    for net in (Net(), Noisy()):
        plans = AttackSettings(attacks=("square",), batch_size=9).limited(queries=200)
        engine = Search(net, ThreatModel("Linf", 0.05), plans, num_classes=4, device=CPU)
        labels = net.layers(IMAGES).argmax(1)
        list(engine.attack("square", IMAGES, labels, torch.arange(9)))
        spared[type(net)] = 1 - engine.asked["square"] / engine.answered["square"]
    assert engine.deterministic is False
    assert spared[Net] > 0.2
    assert spared[Noisy] <= 0.0
