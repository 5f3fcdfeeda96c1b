"""A small zoo of modules as people have them. All compute the same known function, and are awkward in one way each.

Logits are linear in the pixels of (N, 1, 2, 3) images, so how far each image is from another label is known exactly.
"""

import warnings
from types import SimpleNamespace

import torch
from torch import nn

SHAPE, CLASSES = (1, 2, 3), 5


def weights():
    return torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float32)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, CLASSES, dtype=torch.float32, device="cpu")
        self.fc.weight.data.copy_(weights())
        self.fc.bias.data.zero_()

    def forward(self, x):
        return self.fc(x.flatten(1))


class TextbookFlatten(Plain):
    """Fails on an empty batch, as ``x.view(x.size(0), -1)`` does in most nets."""

    def forward(self, x):
        return self.fc(x.view(x.size(0), -1))


class RaisesOnEmpty(Plain):
    def forward(self, x):
        if len(x) == 0:
            raise ZeroDivisionError("no images")
        return super().forward(x)


class WritesIntoItsInput(Plain):
    def forward(self, x):
        logits = super().forward(x.clone())
        x.mul_(-3.0).add_(1.0)
        return logits


class OddState(Plain):
    """Buffers in bfloat16 and bool, one that is not saved, extra state, a plain tensor, an address in its repr."""

    def __init__(self):
        super().__init__()
        self.register_buffer("one", torch.ones(1, dtype=torch.bfloat16))
        self.register_buffer("flag", torch.tensor([True]))
        self.register_buffer("unsaved", torch.ones(1), persistent=False)
        self.plain, self.thing, self.calls = torch.zeros(1), object(), 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.one.float() + self.plain

    def get_extra_state(self):
        return {"kept": [1, torch.ones(2)]}

    def set_extra_state(self, state):
        pass

    def extra_repr(self):
        return repr(self.thing)


class LogitsAttribute(Plain):
    def forward(self, x):
        return SimpleNamespace(logits=super().forward(x))


class LogitsInADict(Plain):
    def forward(self, x):
        return {"features": x, "logits": super().forward(x)}


class LogitsInATuple(Plain):
    def forward(self, x):
        return super().forward(x), x


class OddModes(Plain):
    """``train`` and ``eval`` return nothing; dropout and batch norm that matter in train mode only."""

    def __init__(self):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(1, eps=1e-12)

    def train(self, mode=True):
        super().train(mode)

    def eval(self):
        super().train(False)

    def forward(self, x):
        return super().forward(self.drop(self.norm(x)))


class NoGradInside(Plain):
    """Switches gradients off for a part that does not matter, and forgets that somebody else may have set a mode."""

    def forward(self, x):
        with torch.no_grad():
            x.mean()
        with torch.enable_grad():
            return super().forward(x)


class AnImpossibleClass(Plain):
    """One class more, whose logit is -inf, as where outputs are masked."""

    def forward(self, x):
        return nn.functional.pad(super().forward(x), (0, 1), value=-torch.inf)


class HasAConfig(Plain):
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(factor=1.0, inner=object())

    def forward(self, x):
        return super().forward(x) * self.config.factor


class Counts(Plain):
    """Counts its calls in a buffer, which is its own doing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Remembers(Plain):
    """Keeps its last output in a buffer that is empty at first."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", None)

    def forward(self, x):
        logits = super().forward(x)
        self.last = logits.detach()
        return logits


class HasASparseBuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("pairs", torch.eye(CLASSES, dtype=torch.float32, device="cpu").to_sparse())

    def forward(self, x):
        return torch.sparse.mm(self.pairs, super().forward(x).T).T


class HoldsItself(Plain):
    def __init__(self):
        super().__init__()
        self.me = [self]


def a_graph_module():
    return torch.fx.symbolic_trace(Plain())


def a_script_module():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.trace(Plain(), torch.zeros(2, *SHAPE))


AWKWARD = [
    TextbookFlatten,
    RaisesOnEmpty,
    WritesIntoItsInput,
    OddState,
    LogitsAttribute,
    LogitsInADict,
    LogitsInATuple,
    OddModes,
    NoGradInside,
    AnImpossibleClass,
    HasAConfig,
    Counts,
    Remembers,
    HasASparseBuffer,
    HoldsItself,
    a_graph_module,
    a_script_module,
]
TRAINABLE = [kind for kind in AWKWARD if not kind.__name__.startswith("Logits")]


def images(count=4):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float32) * 0.4 + 0.3


def labels(x):
    return (x.flatten(1) @ weights().T).argmax(1)


def distances(x, y):
    """The l_inf distance of each image to another label, if the box is far away, (N,)."""
    logits = x.double().flatten(1) @ weights().double().T
    rows = weights().double()[y]
    gaps = logits.gather(1, y[:, None]) - logits
    sizes = (rows[:, None] - weights().double()[None]).abs().sum(2)
    return torch.where(sizes > 0, gaps / sizes.clamp(min=1e-12), torch.inf).amin(1)
