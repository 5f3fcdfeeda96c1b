"""Who a model is: everything that decides its output, and nothing else."""

import argparse
import copy
import dataclasses
import json
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale
from adaptive_smoothing_zoo.storage.identity import Identity, has_foreign_code, identity_of, structure_of, tensor_bytes
from adaptive_smoothing_zoo.storage.schema import parse, to_json

SHAPE = (1, 2, 2)


def adaptive():
    return load_model("Demo2026Adaptive", dataset="digits")


class Sized(nn.Module):
    """Foreign code with all that a description could stumble over."""

    def __init__(self, factor=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)
        self.register_buffer("shift", torch.ones(4, dtype=torch.bfloat16))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self._factor, self.calls, self.cache, self.thing = factor, 0, None, object()

    def forward(self, x):
        self.calls += 1
        self.cache = x.sum()
        return self._factor * self.fc(x.view(x.size(0), -1)) + self.shift

    def get_extra_state(self):
        return {"version": 3, "table": torch.arange(3)}

    def set_extra_state(self, state):
        pass

    def extra_repr(self):
        return repr(self.thing)


class Negated(Sized):
    """The same tensors, settings and repr; other code."""

    def forward(self, x):
        return -super().forward(x)


Negated.__qualname__ = Negated.__name__ = "Sized"

EDITS = {
    "alpha_min": lambda m: m.alpha.set_range(0.5, m.alpha.alpha_max),
    "alpha_max": lambda m: m.alpha.set_range(m.alpha.alpha_min, 0.99),
    "scale": lambda m: setattr(m.alpha, "logit_scale", m.alpha.logit_scale * 1.0001),
    "bias": lambda m: setattr(m.alpha, "logit_bias", m.alpha.logit_bias + 1e-9),
    "clamp": lambda m: setattr(m.alpha, "clamp", 0.6),
    "std_taps": lambda m: setattr(m.alpha, "std_taps", (0,)),
    "rob_taps": lambda m: setattr(m.alpha, "rob_taps", (1,)),
    "std_map": lambda m: setattr(m, "std_map", Scale(1.5)),
    "hard_max": lambda m: setattr(m, "std_map", HardMax()),
    "rob_map": lambda m: setattr(m.rob_map, "scale", 2.0),
    "power": lambda m: setattr(m, "rob_map", NormClampPowerScale(scale=2, power=2, clamp_bias=0.0)),
    "weight": lambda m: next(m.rob_model.parameters()).data.view(-1)[0].add_(1e-3),
    "statistics": lambda m: m.alpha.norm.running_mean.add_(1e-3),
    "eps of a norm": lambda m: setattr(m.alpha.norm, "eps", 1e-4),
    "stride": lambda m: setattr(next(p for p in m.modules() if isinstance(p, nn.Conv2d)), "stride", (2, 2)),
    "swapped": lambda m: (lambda g, h: (setattr(m, "std_model", h), setattr(m, "rob_model", g)))(
        m.std_model, m.rob_model
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_number_that_decides_the_output_belongs_to_it(edit):
    model = adaptive()
    before = identity_of(model)
    EDITS[edit](model)
    assert identity_of(model) != before


def test_a_constant_alpha_and_each_number_of_a_map_belong_to_it():
    g = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    numbers = {"scale": 2.0, "power": 2.0, "clamp_bias": 0.1, "top_k": 3}
    found = {identity_of(MixedClassifier(g, g, alpha)).sha256 for alpha in (0.5, 0.5 + 1e-12, 1.0)}
    for name in numbers:
        rob_map = NormClampPowerScale(**{**numbers, name: numbers[name] + 1})
        found.add(identity_of(MixedClassifier(g, g, 0.5, rob_map=rob_map)).sha256)
    assert len(found) == 3 + len(numbers)


def test_modes_devices_formats_in_memory_names_and_wrappers_do_not():
    model = adaptive()
    before = identity_of(model)
    model.train().requires_grad_(True)
    model.to(memory_format=torch.channels_last)
    model.entry = dataclasses.replace(model.entry, name="Other2026Name")
    assert identity_of(model) == before
    assert identity_of(nn.DataParallel(model)) == before
    assert identity_of(torch.compile(model)) == before
    assert model.training
    assert identity_of(copy.deepcopy(model)) == before
    model.compile()
    model.std_model.compile()
    assert identity_of(model) == before


def test_foreign_modules_have_answers_and_are_left_as_they_were():
    model = Sized().train()
    model.fc.eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    found = identity_of(model, SHAPE)
    assert torch.equal(torch.rand(1), expected)
    assert len(found.answers) == 3 * 4
    assert model.calls == 0
    assert model.cache is None
    assert model.training
    assert not model.fc.training
    assert identity_of(model, SHAPE) == found  # although it has counted calls meanwhile
    assert identity_of(Sized(), SHAPE) == found  # although another object has another address
    assert not has_foreign_code(adaptive())


def test_other_code_or_private_attributes_of_equal_tensors_are_another_model():
    assert structure_of(Sized()).keys() == structure_of(Negated()).keys()
    mine = identity_of(Sized(), SHAPE)
    assert identity_of(Negated(), SHAPE) != mine
    assert identity_of(Sized(2.0), SHAPE) != mine
    hooked = Sized()
    hooked.register_forward_hook(lambda module, args, output: output * 2)
    assert identity_of(hooked, SHAPE) != mine
    patched = Sized()
    patched.forward = lambda x: torch.zeros(len(x), 4)
    assert identity_of(patched, SHAPE) != mine


@pytest.mark.parametrize("change", ["shift", "unsaved", "table"])
def test_buffers_of_any_kind_and_extra_state_belong_to_it(change, monkeypatch):
    model = Sized()
    before = identity_of(model, SHAPE)
    if change == "table":
        monkeypatch.setattr(Sized, "get_extra_state", lambda self: {"version": 3, "table": torch.arange(1, 4)})
    else:
        getattr(model, change).add_(1)
    assert identity_of(model, SHAPE) != before


def test_a_model_that_does_not_answer_twice_alike_has_no_answers():
    class Random(nn.Module):
        def forward(self, x):
            return x.flatten(1) + torch.from_numpy(GENERATOR.random((len(x), 4)))

    found = identity_of(Random(), SHAPE)
    assert found.answers == ()
    assert found == identity_of(Random(), SHAPE)


GENERATOR = np.random.default_rng(0)


class Linear(nn.Module):
    """Logits of the zoo of kinds below; ``sign`` is code, not state."""

    sign = 1.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        return self.sign * self.fc(x.flatten(1))


def masked(value):
    return lambda z: z.index_fill(1, torch.tensor([5]), value)


KINDS = {
    "masked by -inf": masked(-torch.inf),
    "masked by the lowest number": masked(torch.finfo(torch.float32).min),
    "masked by -1e9": masked(-1e9),
    "tiny": lambda z: z * 1e-5,
    "huge": lambda z: z * 1e6,
    "random": lambda z: z + 0.01 * torch.randn_like(z),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_code_is_seen_whatever_the_logits(kind):
    def made(sign):
        return type("Net", (Linear,), {"forward": lambda self, x: KINDS[kind](sign * self.fc(x.flatten(1)))})()

    mine, its = made(1.0), made(-1.0)
    assert identity_of(mine, SHAPE) == identity_of(made(1.0), SHAPE)
    assert identity_of(mine, SHAPE) != identity_of(its, SHAPE)
    mixes = [MixedClassifier(net, net, 0.5) for net in (mine, its)]
    assert identity_of(mixes[0], SHAPE) != identity_of(mixes[1], SHAPE)


class Minus(Linear):
    sign = -1.0


Minus.__qualname__ = Minus.__name__ = "Linear"


@pytest.mark.parametrize("form", [torch.fx.symbolic_trace, lambda net: torch.jit.trace(net, torch.rand(2, *SHAPE))])
def test_traced_modules_are_known_by_their_graphs(form):
    assert identity_of(form(Linear()), SHAPE) == identity_of(form(Linear()), SHAPE)
    assert identity_of(form(Linear()), SHAPE) != identity_of(form(Minus()), SHAPE)


def test_settings_in_objects_belong_to_it_also_where_no_probe_shows_them():
    def made(threshold):
        net = Linear()
        net.cfg, net.space = types.SimpleNamespace(t=threshold), argparse.Namespace(inner=[Holder(threshold)])
        net.lock = threading.Lock()
        return net

    assert identity_of(made(0.5), SHAPE) == identity_of(made(0.5), SHAPE)
    assert identity_of(made(0.5), SHAPE) != identity_of(made(0.6), SHAPE)


class Holder:
    def __init__(self, value):
        self.value, self.me = value, self


def test_an_exchanged_private_method_is_foreign_code():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten())
    before = identity_of(net, SHAPE)
    net[0]._conv_forward = lambda x, weight, bias: -nn.functional.conv2d(x, weight, bias)
    assert has_foreign_code(net)
    assert identity_of(net, SHAPE) != before


def test_modules_that_hold_themselves_have_an_identity():
    net = Linear()
    net.me, net.table = [net], {}
    net.table["again"] = net.table
    net.fc.__dict__["parent"] = net
    assert identity_of(net, SHAPE) == identity_of(net, SHAPE)


def test_a_buffer_that_counts_is_put_back_and_no_part_of_it():
    class Counting(Linear):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", torch.zeros(()))

        def forward(self, x):
            self.n += 1
            return super().forward(x)

    net = Counting()
    before = identity_of(net, SHAPE)
    assert net.n == 0
    net(torch.rand(2, *SHAPE))
    assert identity_of(net, SHAPE) == before
    assert net.n == 1


def test_a_cache_that_calls_fill_is_no_part_of_it():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.bias_cache = nn.Linear(4, 4), {}

        def forward(self, images):
            self.bias_cache.setdefault(str(images.device), self.fc.bias.detach())
            return self.fc(images.flatten(1))

    model = Biased()
    before = identity_of(model), identity_of(model, SHAPE), structure_of(model)
    model(torch.rand(1, *SHAPE))
    model.bias_cache["elsewhere"] = torch.zeros(4)
    assert (identity_of(model), identity_of(model, SHAPE), structure_of(model)) == before
    assert len(model.bias_cache) == 2


def test_rounding_is_no_other_model():
    found = identity_of(Sized(), SHAPE)
    near = dataclasses.replace(found, answers=tuple(answer + 1e-4 for answer in found.answers))
    far = dataclasses.replace(found, answers=tuple(answer + 0.1 for answer in found.answers))
    assert found == near
    assert hash(found) == hash(near)
    assert found != far
    assert parse(Identity, json.loads(json.dumps(to_json(found))), "x") == found


def test_another_process_finds_the_same():
    code = (
        "from adaptive_smoothing_zoo import load_model\n"
        "from adaptive_smoothing_zoo.storage.identity import identity_of\n"
        "print(identity_of(load_model('Demo2026Adaptive', dataset='digits')).sha256)"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == identity_of(adaptive()).sha256, run.stderr


FORMATS = [getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16", "int8", "int64", "bool")]


@settings(max_examples=60)
@given(st.sampled_from([*FORMATS, torch.complex64]), st.lists(st.integers(0, 3), max_size=3), st.booleans())
def test_bytes_of_any_number_format_and_layout(dtype, shape, turned):
    tensor = torch.zeros(shape, dtype=dtype)
    tensor = tensor.transpose(0, -1) if turned and tensor.ndim else tensor
    assert len(tensor_bytes(tensor)) == tensor.numel() * tensor.itemsize
    if tensor.numel():
        other = tensor.clone()
        other[(0,) * other.ndim] = 1
        assert tensor_bytes(other) != tensor_bytes(tensor)


def test_what_has_no_values_is_refused():
    with pytest.raises(ValueError, match="no weights yet"):
        identity_of(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match="fails on images of shape"):
        identity_of(Sized(), (3, 7, 7))
