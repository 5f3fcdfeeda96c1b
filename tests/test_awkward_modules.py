"""Whatever module a user brings goes through every entry point with its right value, or is refused in a sentence."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from awkward import (
    AWKWARD,
    CLASSES,
    SHAPE,
    TRAINABLE,
    AnImpossibleClass,
    Counts,
    Plain,
    Remembers,
    TextbookFlatten,
    WritesIntoItsInput,
    distances,
    images,
    labels,
)
from short_attacks import shorten
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification import certify, certify_at_radius
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.adapt import evaluate_adaptive
from adaptive_smoothing_zoo.evaluation.screening import screen
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.smoothed import SmoothedTraining, train_smoothed_net
from adaptive_smoothing_zoo.units import UnitsWarning
from adaptive_smoothing_zoo.validation import validate
from adaptive_smoothing_zoo.validation.check import CHECKS
from adaptive_smoothing_zoo.validation.subject import Budget
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.triplet import Triplet

X = images()
Y = labels(X)
D = distances(X, Y)
EPS = float(D.sort().values[2:].mean())  # one of four is robust, so that the protocol goes to its end
SMALL = Budget(steps=3, restarts=1, grid_steps=1, long_steps=3, survivors=1, queries=5, noises=2, directions=1)


def expected(eps=EPS):
    return (eps < D).numpy()


@pytest.fixture(autouse=True)
def _the_callers_tensors_stay():
    before_x, before_y = X.clone(), Y.clone()
    yield
    assert torch.equal(X, before_x)
    assert torch.equal(Y, before_y)


def unchanged(model, before):
    """Whether modes, gradients, weights and buffers are as they were."""
    assert [module.training for module in model.modules()] == before[0]
    assert [parameter.requires_grad for parameter in model.parameters()] == before[1]
    for mine, its in zip(tensors_of(model), before[2], strict=True):
        assert torch.equal(mine.to_dense(), its.to_dense())


def tensors_of(model):
    """But for what a call of the model itself changes."""
    named = (*model.named_parameters(), *model.named_buffers())
    return [tensor for name, tensor in named if not name.endswith(("calls", "last"))]


def taken(model):
    tensors = [tensor.detach().clone() for tensor in tensors_of(model)]
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], tensors


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        *((kind, "fast") for kind in AWKWARD),
        (WritesIntoItsInput, "reference"),
        *(pytest.param(kind, "reference", marks=pytest.mark.slow) for kind in (TextbookFlatten, AnImpossibleClass)),
    ],
)
def test_evaluate_gives_the_closed_form(kind, engine, tmp_path, monkeypatch):
    if kind is not AWKWARD[0] or engine == "reference":
        shorten(monkeypatch, iterations=20, queries=500)
    model = kind()
    before = taken(model)
    state = tmp_path / "state" if kind in AWKWARD[:9] else None
    found = evaluate(model, X, Y, eps=EPS, engine=engine, device="cpu", state=state)
    np.testing.assert_array_equal(found.robust, expected())
    assert found.clean_accuracy == 1.0
    unchanged(model, before)
    if state is None:
        return
    again = evaluate(kind(), X, Y, eps=EPS, engine=engine, device="cpu", state=state)  # another object, same state
    np.testing.assert_array_equal(again.robust, found.robust)


@pytest.mark.parametrize("kind", AWKWARD)
def test_screen_and_pgd_find_what_there_is(kind):
    model = kind()
    before = taken(model)
    found = screen(model, X, Y, eps=EPS, device="cpu")
    assert not (found.standing & ~expected()).any()
    assert found.clean_accuracy == 1.0
    model.eval()
    attacked = pgd(model, X, Y, eps=EPS, step_size=EPS / 5, steps=20, keep="best")
    assert bool(((attacked - X).abs() <= EPS + 1e-6).all())
    np.testing.assert_array_equal((labels(attacked) == Y).numpy(), expected())
    model.train()
    unchanged(model, before)


def test_a_buffer_that_was_empty_is_empty_again():
    model = Remembers()
    certify(model, X, Y, sigma=0.1, n0=2, n=4)
    evaluate(model, X, Y, eps=EPS, device="cpu", settings=AttackSettings(attacks=("apgd-ce",)).limited(iterations=1))
    assert model.last is None


@pytest.mark.parametrize("kind", AWKWARD[:3])
def test_attacks_without_alpha_find_what_there_is(kind):
    model = kind()
    before = taken(model)
    found = evaluate_adaptive(model, X, Y, np.ones(4, dtype=bool), eps=EPS, device="cpu")
    np.testing.assert_array_equal(found.robust, expected())
    unchanged(model, before)


@pytest.mark.parametrize("kind", AWKWARD[::2])  # the others meet the same doors in the tests above
def test_validate_goes_through(kind):
    model = kind()
    before = taken(model)
    found = validate(model, X, Y, eps=EPS, device="cpu", budget=SMALL, only=list(CHECKS)[:6])
    assert found.clean_accuracy == 1.0
    assert not (found.broken & expected()).any()
    unchanged(model, before)


@pytest.mark.parametrize("kind", AWKWARD)
def test_certificates_are_those_of_the_plain_net(kind):
    settings = {"sigma": 0.05, "n0": 10, "n": 200, "times": False, "batch_size": 64}
    model = kind()
    before = taken(model)
    found, plain = certify(model, X, Y, **settings), certify(Plain(), X, Y, **settings)
    np.testing.assert_array_equal(found.prediction, plain.prediction)
    np.testing.assert_array_equal(found.radius, plain.radius)
    assert (found.radius > 0).any()
    at = certify_at_radius(model, X, Y, radius=0.01, **settings)
    assert (at.radius > 0).any()
    unchanged(model, before)


@pytest.mark.parametrize("kind", AWKWARD)
def test_the_prepared_copy_answers_the_same(kind):
    from adaptive_smoothing_zoo.backbones.asking import asked

    model = asked(kind())
    model.eval()
    prepared = prepare(model, X.clone())
    assert torch.allclose(prepared(X.clone())[:, :CLASSES], Plain()(X), atol=1e-5)
    assert prepared(X[:0]).shape == prepared(X)[:0].shape


@pytest.mark.parametrize("kind", AWKWARD)
def test_no_images_are_an_answer_and_have_a_gradient(kind):
    from adaptive_smoothing_zoo.backbones.asking import asked

    nothing = X[:0].clone().requires_grad_()
    output = asked(kind())(nothing)
    assert torch.autograd.grad(output.sum(), nothing)[0].shape == nothing.shape
    for settings in ({}, {"keep": "best", "random_start": True, "restarts": 2}):
        assert pgd(kind(), X[:0], Y[:0], eps=EPS, step_size=EPS, steps=2, **settings).shape == (0, *SHAPE)


@pytest.mark.parametrize("kind", AWKWARD)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_it_smoothed_by_gaussian_noise(kind, scale):
    settings = {"sigma": 0.05, "image_shape": SHAPE, "num_noises": 9, "logit_scale": scale}
    model, reference = GaussianSmoothed(kind(), **settings).eval(), GaussianSmoothed(Plain(), **settings).eval()
    assert torch.allclose(model(X)[:, :CLASSES], reference(X), atol=1e-6)
    assert model(X[:0]).shape == model(X)[:0].shape
    certified = [certify(net.voter, X, Y, sigma=0.05, n0=10, n=50, times=False) for net in (model, reference)]
    np.testing.assert_array_equal(certified[0].radius, certified[1].radius)


@pytest.mark.parametrize("kind", AWKWARD)
def test_a_surrogate_of_any_kind_is_asked_and_given_back(kind):
    net = AnImpossibleClass if kind is AnImpossibleClass else Plain  # the same classes
    surrogate, model = kind(), MixedClassifier(net(), net(), 0.8)
    before = taken(surrogate)
    standing, settings = ~expected(), {"eps": EPS, "device": "cpu", "surrogate": surrogate}
    found = evaluate_adaptive(model, X, Y, standing, attacks=["apgd-ce-surrogate"], **settings)
    assert not found.robust.any()
    np.testing.assert_array_equal(found.broken_by == "apgd-ce-surrogate", standing)
    unchanged(surrogate, before)


def test_a_surrogate_is_frozen_meanwhile():
    class Frozen(Plain):
        def forward(self, x):
            assert not self.fc.weight.requires_grad
            assert not self.training
            return super().forward(x)

    model = MixedClassifier(Plain(), Plain(), 0.8)
    settings = {"eps": EPS, "device": "cpu", "surrogate": Frozen(), "attacks": ["apgd-ce-surrogate"]}
    assert not evaluate_adaptive(model, X, Y, ~expected(), **settings).robust.any()


def test_a_surrogate_has_the_models_classes():
    class Fewer(Plain):
        def forward(self, x):
            return super().forward(x)[:, 1:]

    model = MixedClassifier(Plain(), Plain(), 0.8)
    with pytest.raises(ValueError, match="the surrogate has 4 classes and the model 5"):
        evaluate_adaptive(model, X, Y, expected(), eps=EPS, device="cpu", surrogate=Fewer())


class UsersMix(MixedClassifier):
    """Writes into its input and gives a dictionary."""

    def forward(self, images):
        logits = super().forward(images.clone())
        images.mul_(0.0).add_(0.5)
        return {"logits": logits}


@pytest.mark.parametrize("attack", ["apgd-ce-mix", "apgd-t-gray_box", "apgd-ce-pinned", "apgd-p-nudging", "apgd-t-rob"])
def test_somebody_elses_mix(attack):
    model = UsersMix(Plain(), Plain(), 0.8)
    before = taken(model)
    found = evaluate_adaptive(model, X, Y, ~expected(), eps=EPS, device="cpu", attacks=[attack])
    assert not found.robust.any()
    moved = torch.from_numpy(found.adversarials)
    assert bool(((moved - X).abs() <= EPS + 1e-6).all())
    np.testing.assert_array_equal((labels(moved) == Y).numpy(), expected())
    unchanged(model, before)


@pytest.mark.filterwarnings("default")
def test_adaptive_attacks_warn_of_a_radius_in_other_units():
    with pytest.warns(UnitsWarning, match="did you mean 8/255"):
        evaluate_adaptive(MixedClassifier(Plain(), Plain(), 0.8), X, Y, np.zeros(4, dtype=bool), eps=8, device="cpu")


@pytest.mark.parametrize("kind", AWKWARD)
def test_a_mix_of_it(kind, monkeypatch):
    shorten(monkeypatch, iterations=20, restarts=2)
    model = MixedClassifier(kind(), kind(), 0.8)
    model.eval()
    reference = MixedClassifier(Plain(), Plain(), 0.8).eval()
    assert torch.allclose(model(X)[:, :CLASSES], reference(X), atol=1e-6)
    assert torch.equal(model.predict(X), Y)
    assert torch.allclose(
        model.sweep(X, [0.0, 0.3, 1.0])[..., :CLASSES], reference.sweep(X, [0.0, 0.3, 1.0]), atol=1e-6
    )
    assert model(X[:0]).shape == model(X)[:0].shape
    assert model.predict(X[:0]).shape == (0,)
    assert model.sweep(X[:0], [0.5]).shape == model.sweep(X, [0.5])[:, :0].shape
    before = taken(model)
    assert evaluate(model, X, Y, eps=1.1 * float(D.max()), device="cpu").robust_accuracy == 0.0
    standing = np.ones(len(X), dtype=bool)
    found = evaluate_adaptive(model, X, Y, standing, eps=EPS, device="cpu", attacks=["apgd-ce-mix", "apgd-t-rob"])
    np.testing.assert_array_equal(found.robust, expected())
    unchanged(model, before)


@pytest.mark.parametrize("kind", TRAINABLE)
def test_it_can_be_trained(kind):
    settings = BaseNetTraining(epochs=2, batch_size=2, learning_rate=0.01)
    model = train_base_net(kind(), X, Y, settings)
    assert torch.isfinite(model.fc.weight).all()
    assert not torch.equal(model.fc.weight, Plain().fc.weight)


MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "bfloat16 autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("mode", [*MODES, "float64 default"])
def test_any_mode_of_the_caller(mode, monkeypatch):
    shorten(monkeypatch, iterations=20, queries=500)
    model = Plain()
    if mode == "float64 default":
        torch.set_default_dtype(torch.float64)
        try:
            found = evaluate(model, X, Y, eps=EPS, device="cpu")
            assert torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with MODES[mode]():
            x, y = (X * 1.0, Y + 0) if mode == "inference_mode" else (X, Y)  # made in that mode
            found = evaluate(model, x, y, eps=EPS, device="cpu")
            certified = certify(model, x, y, sigma=0.05, n0=10, n=100)
            pgd(model, x, y, eps=EPS, step_size=EPS, steps=2)
            screen(model, x, y, eps=EPS, device="cpu")
        assert (certified.radius > 0).any()
    np.testing.assert_array_equal(found.robust, expected())


@contextmanager
def float64_default():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SMALL_NET = {"architecture": "small_cnn", "arguments": {"widths": [2, 2]}}
SMOOTHED = {"base": SMALL_NET, "num_classes": 4, "sigma": 0.1, "image_shape": [1, 8, 8], "num_noises": 2}
SHORT = {"epochs": 2, "batch_size": 2, "learning_rate": 0.01}
MADE = {  # from a folder and a net that are there
    "load_model": lambda folder, net: load_model("Demo2026Constant", dataset="digits"),
    "from_pretrained": lambda folder, net: Triplet.from_pretrained(folder),
    "build": lambda folder, net: build("gaussian_smoothed", **SMOOTHED),
    "Triplet": lambda folder, net: Triplet(find_entry("Demo2026Adaptive", "digits", "Linf")),
    "train_base_net": lambda folder, net: train_base_net(net, X, Y, BaseNetTraining(**SHORT)),
    "train_smoothed_net": lambda folder, net: train_smoothed_net(net, X, Y, SmoothedTraining(**SHORT, sigma=0.1)),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, float64_default])
@pytest.mark.parametrize("made", MADE)
def test_what_is_built_and_trained_is_the_same_in_any_mode(made, mode, tmp_path):
    if made == "from_pretrained":
        load_model("Demo2026Constant", dataset="digits").save_pretrained(tmp_path)
    other, net = Plain(), Plain()
    torch.manual_seed(0)
    expected_state = MADE[made](tmp_path, other).state_dict()
    torch.manual_seed(0)
    with mode():
        found = MADE[made](tmp_path, net)
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == expected_state[name].dtype
        assert not tensor.is_inference()
        assert torch.equal(tensor, expected_state[name])


def test_images_of_one_pixel_and_two_channels():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4))
    x = torch.rand(1, 2, 1, 1)
    y = model(x).argmax(1)
    assert evaluate(model, x, y, norm="L2", eps=2.0, device="cpu").robust_accuracy == 0.0


class TestRefusals:
    def test_a_function(self):
        for entry in (evaluate, screen, validate):
            with pytest.raises(TypeError, match="wrap it in a module"):
                entry(lambda x: x, X, Y, eps=0.1)

    def test_a_net_that_is_no_mix_has_no_alpha_to_attack(self):
        with pytest.raises(TypeError, match="needs a MixedClassifier"):
            evaluate_adaptive(Plain(), X, Y, np.ones(4, dtype=bool), eps=0.1, attacks=["apgd-ce-pinned"])

    def test_weights_in_half_precision(self):
        for entry in (lambda m: evaluate(m, X, Y, eps=0.1), lambda m: certify(m, X, Y, sigma=0.1)):
            with pytest.raises(EvaluationError, match=r"fc\.weight is torch\.float16; load the model in"):
                entry(Plain().half())

    def test_weights_made_in_inference_mode(self):
        with torch.inference_mode():
            model = copy.deepcopy(Plain())
        with pytest.raises(EvaluationError, match="inference_mode"):
            evaluate(model, X, Y, eps=0.1)

    def test_what_torch_export_makes(self):
        model = torch.export.export(Plain().eval(), (X,)).module()
        for entry in (lambda: evaluate(model, X, Y, eps=0.1), lambda: certify(model, X, Y, sigma=0.1)):
            with pytest.raises(EvaluationError, match=r"cannot be put into eval mode .*; give the module"):
                entry()

    @pytest.mark.parametrize("layers", [[nn.Flatten(), nn.LazyLinear(5)], [nn.LazyBatchNorm2d(affine=False)]])
    def test_a_lazy_layer(self, layers):
        with pytest.raises(EvaluationError, match=r"has no shape yet, .*; call the model"):
            evaluate(nn.Sequential(*layers), X, Y, eps=0.1)

    @pytest.mark.parametrize("settings", [{}, {"batch_size": 4}])
    def test_a_net_for_other_images(self, settings):
        class OfSize32(Plain):
            def forward(self, x):
                assert x.shape[-1] == 32
                return super().forward(x)

        for model in (OfSize32(), nn.Sequential(nn.Flatten(), nn.Linear(7, 5))):
            for entry in (evaluate, screen, validate):
                with pytest.raises(
                    EvaluationError, match=r"fails on torch.float32 images of shape \(1, 2, 3\) .*; check the shape"
                ):
                    entry(model, X, Y, eps=0.1, device="cpu", **settings)

    def test_an_output_without_logits(self):
        class Text(nn.Module):
            def forward(self, x):
                return "a cat"

        with pytest.raises(TypeError, match="must be a tensor of logits"):
            evaluate(Text(), X, Y, eps=0.1)

    def test_answers_that_change(self):
        class Random(nn.Module):
            def forward(self, x):
                return Plain()(x) + torch.randn(len(x), CLASSES)

        assert not evaluate(Random(), X, Y, eps=0.0, device="cpu").deterministic


def test_the_shape_of_the_zoo():
    assert images().shape[1:] == SHAPE
    assert 0 < expected().sum() < len(X)


@pytest.mark.parametrize("entry", ["evaluate", "certify", "screen"])
def test_what_a_module_counts_in_a_buffer_is_put_back(entry):
    model = Counts()
    if entry == "evaluate":
        evaluate(model, X, Y, eps=1.1 * float(D.max()), device="cpu")
    elif entry == "certify":
        certify(model, X, Y, sigma=0.05, n0=5, n=20)
    else:
        screen(model, X, Y, eps=EPS, device="cpu")
    assert int(model.calls) == 0
