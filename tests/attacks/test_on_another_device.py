"""Images, labels and indices may be on the model's device or on the CPU: nothing mixes them, whoever brings what.

A stand-in for a second device: tensors whose numbers are on the CPU, and which say that they are on a GPU and refuse to
be mixed with others as a GPU's would.
"""

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from adaptive_smoothing_zoo.attacks import search
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.machine import faster_way
from adaptive_smoothing_zoo.threat import ThreatModel

GPU = torch.device("cuda")
IMAGES = 0.3 + 0.4 * torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(2))
WEIGHT = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


class Remote(Tensor):
    """A tensor that claims to be on a GPU."""


def _remote(tree):
    return tree_map(lambda leaf: leaf.as_subclass(Remote) if type(leaf) is Tensor else leaf, tree)


def _local(tree):
    return tree_map(lambda leaf: leaf.as_subclass(Tensor) if isinstance(leaf, Remote) else leaf, tree)


class TwoDevices(TorchFunctionMode):
    """Carries out operations on remote tensors, and refuses those that a GPU would refuse."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        remote = any(isinstance(tensor, Remote) for tensor in tensors)
        with torch._C.DisableTorchFunctionSubclass():
            if func == Tensor.device.__get__:
                return GPU if remote else func(*args)
            if func == Tensor.is_cuda.__get__:
                return remote
            named = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
            args, kwargs = tree_map(lambda leaf: torch.device("cpu") if leaf in named else leaf, (args, kwargs))
            if func is Tensor.cpu:
                return _local(func(*args, **kwargs))
            if named:  # a move, or something made there
                return (_remote if named[-1].type == "cuda" else _local)(func(*args, **kwargs))
            if func is not Tensor.copy_:
                self._check(func, args, tensors)
            result = func(*args, **kwargs)
            kept = isinstance(args[0], Remote) if func in (Tensor.to, Tensor.__getitem__, Tensor.copy_) else remote
            return _remote(result) if kept else result

    def _check(self, func, args, tensors):
        if func in (Tensor.__getitem__, Tensor.__setitem__):  # an index may be on the CPU
            index = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)]
            assert isinstance(args[0], Remote) or not any(isinstance(each, Remote) for each in index), func
            tensors = [args[0], *args[2:]]
        kinds = {isinstance(each, Remote) for each in tensors if isinstance(each, Tensor) and each.dim()}
        assert len(kinds) < 2, f"{func} mixes devices"


class Linear(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, images):
        return images.flatten(1) @ self.weight.T


def _verdicts(model, device, images, labels, indices):
    settings = AttackSettings(batch_size=4).limited(iterations=4, queries=10, targets=2)
    engine = Search(model, ThreatModel("Linf", 0.06), settings, num_classes=5, device=device)
    broken = torch.zeros(len(IMAGES), dtype=torch.bool)
    for verdict in engine.run(images, labels, indices):
        broken[verdict.points] |= verdict.broken
        assert type(verdict.candidates) is type(images)
    return broken


@pytest.mark.parametrize("places", [(True, False, False), (False, True, True)], ids=str)
def test_whatever_comes_from_the_device_is_attacked_there(places, monkeypatch):
    monkeypatch.setattr(search, "prepare", lambda net, images: net)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)  # what is timed
    monkeypatch.setattr(faster_way, "WARM_UP", 0)
    monkeypatch.setattr(faster_way, "TRIAL", 1)  # Square also takes its sparing way
    labels, indices = Linear(WEIGHT)(IMAGES).argmax(1), torch.arange(6)
    expected = _verdicts(Linear(WEIGHT), torch.device("cpu"), IMAGES, labels, indices)
    assert 0 < int(expected.sum()) < 6
    with TwoDevices():
        given = [
            _remote(each) if there else each for each, there in zip((IMAGES, labels, indices), places, strict=True)
        ]
        found = _verdicts(Linear(_remote(WEIGHT)), GPU, *given)
    assert torch.equal(found, expected)


def test_a_mix_is_refused():
    with TwoDevices():
        for mix in (lambda: _remote(IMAGES) + IMAGES, lambda: IMAGES[_remote(torch.tensor([0]))]):
            with pytest.raises(AssertionError):
                mix()
        assert _remote(IMAGES).cpu().device.type == "cpu"
        assert torch.zeros(3, device=GPU).device.type == "cuda"
