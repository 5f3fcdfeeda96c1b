"""Between two looks an attack never makes the host wait for the device, and never mixes devices.

There need be no GPU: fake tensors know their device and have no values, so that whoever asks for one is found.
"""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adaptive_smoothing_zoo.attacks.autoattack import square_draws
from adaptive_smoothing_zoo.attacks.autoattack.apgd import APGD
from adaptive_smoothing_zoo.attacks.autoattack.fab import FAB
from adaptive_smoothing_zoo.attacks.autoattack.square import Square
from adaptive_smoothing_zoo.attacks.autoattack.square_draws import KeyedSquares
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, rank_classes, targeted_dlr
from adaptive_smoothing_zoo.attacks.random_streams import run_keys
from adaptive_smoothing_zoo.threat import ThreatModel

SHAPE, CLASSES, N = (3, 8, 8), 6, 4


class Crossings(TorchDispatchMode):
    """Notes operations for which numbers travel between the CPU and a device: the host waits for each of them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors if moves or tensor.ndim}) > 1:  # other scalars may differ
            self.found.append(str(func))
        return result


@pytest.fixture
def fake(monkeypatch):
    """Fake tensors; gradients are such, too, since a backward pass would ask for a real GPU."""
    caches = (square_draws.pattern, square_draws._pattern_table)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(torch.autograd, "grad", lambda output, points, *_, **__: (torch.empty_like(points),))
    yield FakeTensorMode(allow_non_fake_inputs=False)
    for cache in caches:
        cache.cache_clear()


def _squares(threat, mode):
    """Random numbers of Square, moved to the fake GPU."""
    draw = KeyedSquares(0, "square", SHAPE, threat, torch.device("cpu"), 50)

    def moved(tensor):
        return mode.from_tensor(tensor).to("cuda")

    with mode:
        for name, value in list(vars(draw).items()):
            if isinstance(value, Tensor):
                setattr(draw, name, moved(value))
        draw._places = {name: moved(place) for name, place in draw._places.items()}
    return draw


ATTACKS = {
    "apgd-ce": lambda threat, draw: APGD("apgd-ce", threat, cross_entropy, steps=20),
    "apgd-t": lambda threat, draw: APGD("apgd-t", threat, targeted_dlr, steps=20),
    "fab-t": lambda threat, draw: FAB(threat, steps=20),
    "fab": lambda threat, draw: FAB(threat, steps=20, targeted=False),
    "square": lambda threat, draw: Square(threat, draw, queries=50, batch_size=3 * N),
}


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_steps_on_a_gpu_neither_wait_nor_mix_devices(name, norm, fake):
    threat = ThreatModel(norm, 0.3)
    draw, crossings = _squares(threat, fake), Crossings()
    with fake:
        attack = ATTACKS[name](threat, draw)
        weight = torch.empty(192, CLASSES, device="cuda")
        images = torch.empty(N, *SHAPE, device="cuda")
        labels, keys = (torch.zeros(N, dtype=torch.int64, device="cuda") for _ in range(2))
        state = attack.start(images, labels, labels, keys)

        def model(points: Tensor) -> Tensor:
            return points.flatten(1) @ weight

        attack.step(state, model)  # what is copied once is copied here
        with crossings:
            for _ in range(3):
                attack.step(state, model)
    assert not crossings.found
    assert {value.device.type for value in vars(state).values()} == {"cuda"}


def test_a_wait_and_a_mix_would_be_found(fake):
    crossings = Crossings()
    with fake:
        images = torch.empty(N, *SHAPE, device="cuda")
        for wait in (lambda: bool((images > 0).any()), lambda: images[images > 0], lambda: (images > 0).nonzero()):
            with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
                wait()
        with crossings:
            images.cpu()
            images[torch.tensor([0, 1])]
    assert len(crossings.found) == 2


def test_classes_are_ranked_without_waiting(fake):
    with fake:
        logits, labels = torch.empty(N, CLASSES, device="cuda"), torch.zeros(N, dtype=torch.int64, device="cuda")
        assert rank_classes(logits, labels).shape == (N, CLASSES - 1)
    real = torch.randn(50, CLASSES, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50) % CLASSES
    order = real.argsort(dim=1, descending=True)
    assert torch.equal(rank_classes(real, labels), order[order != labels[:, None]].view(50, CLASSES - 1))


def test_keys_are_made_where_their_indices_are(fake):
    with fake, Crossings() as crossings:
        keys = run_keys(3, "apgd-ce", torch.zeros(N, dtype=torch.int64, device="cuda"), torch.arange(N, device="cuda"))
    assert keys.device.type == "cuda"
    assert not crossings.found
