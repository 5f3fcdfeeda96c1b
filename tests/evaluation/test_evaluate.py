import logging
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, ThreatModel
from adaptive_smoothing_zoo.attacks.autoattack.reference import ReferenceEngine, check_square
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.attacks.verify import predict
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.evaluate import ENGINES

IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2


class Linear(nn.Module):
    """Logits linear in the pixels: how far each point is from another label is known exactly."""

    def __init__(self, classes=4, pixels=36):
        super().__init__()
        self.layer = nn.Linear(pixels, classes, dtype=torch.float32)

    def forward(self, images):
        return self.layer(images.flatten(1))

    def distance(self, images, labels, norm):
        """To the nearest decision boundary without the box, (N,); negative if misclassified."""
        weight, logits = self.layer.weight.double(), self(images).double()
        gaps = logits.gather(1, labels[:, None]) - logits
        steps = weight[labels][:, None] - weight[None]
        size = steps.abs().sum(2) if norm == "Linf" else steps.norm(dim=2)
        return torch.where(size > 0, gaps / size, torch.inf).amin(1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_autoattack_agrees_with_the_closed_form_on_a_linear_net(norm, engine):
    model = Linear()
    labels = model(IMAGES).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    distance = model.distance(IMAGES, labels, norm).detach()
    eps = float(distance[1:].median())  # about half of the points are robust; the box [0, 1] is out of reach
    assert eps < 0.2
    clear = (distance - eps).abs() > 1e-3  # points on the very boundary may go either way
    settings = AttackSettings(engine=engine, batch_size=7).limited(iterations=30, queries=500)
    result = evaluate(model, IMAGES, labels, norm=norm, eps=eps, settings=settings)
    np.testing.assert_array_equal(result.robust[clear], (distance > eps)[clear].numpy())
    assert result.broken_by[0] == "clean"
    assert not result.clean_correct[0]
    assert result.clean_correct[1:].all()


@pytest.mark.parametrize(("targets", "queries"), [(2, 200), pytest.param(9, 800, marks=pytest.mark.slow)])
def test_verdicts_equal_pyautoattacks_own_run(targets, queries):
    from pyautoattack import AutoAttack

    model = Linear(classes=10).requires_grad_(False)
    images = IMAGES[:4]
    labels = model(images).argmax(1)
    eps = float(model.distance(images, labels, "Linf").median())
    short = {"iterations": 100, "targets": targets, "queries": queries}
    settings = AttackSettings(engine="reference", seed=7, batch_size=3).limited(**short)
    ours = evaluate(model, images, labels, eps=eps, settings=settings)
    attack = AutoAttack(model, norm="Linf", eps=eps, seed=7, version="standard", device="cpu")
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
    attack.square.n_queries = queries
    adversarials, _ = attack.run_standard_evaluation(images, labels, batch_size=3)
    theirs = (model(adversarials).argmax(1) == labels).numpy()
    assert 0 < theirs.sum() < len(theirs)
    np.testing.assert_array_equal(ours.robust, theirs)
    np.testing.assert_array_equal(ours.adversarials, adversarials.numpy())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_gives_the_same_result_and_the_global_generator_is_left_alone(engine):
    model = Linear(classes=10)
    images = IMAGES[:5]
    labels = model(images).argmax(1)
    eps = float(model.distance(images, labels, "Linf").detach().median())
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    settings = AttackSettings(engine=engine).limited(iterations=20, queries=300)
    first = evaluate(model, images, labels, eps=eps, settings=settings)
    assert torch.equal(torch.rand(3), expected)
    second = evaluate(model, images, labels, eps=eps, settings=settings)
    assert set(first.broken_by) != {""}
    np.testing.assert_array_equal(first.adversarials, second.adversarials)
    np.testing.assert_array_equal(first.broken_by, second.broken_by)


def test_radius_zero_gives_clean_accuracy():
    model = Linear()
    labels = model(IMAGES).argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    result = evaluate(model, IMAGES, labels, eps=0.0)
    assert result.robust_accuracy == result.clean_accuracy == 9 / 12
    np.testing.assert_array_equal(result.adversarials, IMAGES.numpy())


class Brightness(nn.Module):
    """Two of four classes by mean brightness, with logits so large that a textbook softmax saturates."""

    def __init__(self, scale, sign=1.0):
        super().__init__()
        self.scale, self.sign = scale, sign

    def forward(self, images):
        bright = self.sign * self.scale * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([bright, -bright, -3 * self.scale - 0 * bright, -3 * self.scale - 0 * bright], dim=1)


class TextbookMix(nn.Module):
    def __init__(self, std_model, rob_model, alpha):
        super().__init__()
        self.std_model, self.rob_model, self.alpha = std_model, rob_model, alpha

    def forward(self, images):
        std, rob = self.std_model(images).softmax(1), self.rob_model(images).softmax(1)
        return ((1 - self.alpha) * std + self.alpha * rob).log()


def test_a_textbook_head_fools_autoattack_where_the_stable_head_gives_the_true_value():
    # Every point can be pushed across the boundary at brightness 1/2, so the true robust accuracy is 0.
    from pyautoattack import AutoAttack

    images = (
        0.5
        + torch.tensor([-0.05, -0.03, 0.03, 0.05]).view(-1, 1, 1, 1)
        + 0.01 * (IMAGES[:4] - IMAGES[:4].mean((1, 2, 3), keepdim=True))
    )
    nets = Brightness(3e3), Brightness(3e3)
    textbook, stable = TextbookMix(*nets, 0.7), MixedClassifier(*nets, 0.7)
    labels = stable(images).argmax(1)
    points = images.clone().requires_grad_()
    output = textbook(points)
    assert torch.isinf(output).any()
    (gradient,) = torch.autograd.grad(output.sum(), points)
    assert gradient.isnan().any()

    attack = AutoAttack(textbook, norm="Linf", eps=0.1, seed=0, version="standard", device="cpu")
    attack.attacks_to_run = ["apgd-ce", "apgd-t"]
    attack.apgd_targeted.n_target_classes = 3
    adversarials, _ = attack.run_standard_evaluation(images, labels)
    # What is left "robust" is so only because its attack ended in NaN or never moved.
    fooled = TextbookMix(*nets, 0.7)(adversarials.nan_to_num(0.5)).argmax(1) != labels
    assert not fooled.all()
    assert evaluate(stable, images, labels, eps=0.1).robust_accuracy == 0.0
    with pytest.raises(EvaluationError, match="gradient of the cross-entropy is not finite at image 0"):
        evaluate(textbook, images, labels, eps=0.1)


class OneAttack:
    """An engine that proposes what it is told to."""

    resumes_inside = False

    def __init__(self, candidates):
        self.candidates, self.flat = candidates, {}

    def __call__(self, model, threat, settings, **more):
        return self

    def check(self, images, labels, beat):
        return ("something is odd",)

    def warnings(self, name):
        return (f"{name} is odd, too",)

    def snapshot(self):
        return None

    def spent(self):
        return 0

    def underway(self):
        return 0.0

    @staticmethod
    def full_name():
        return "fake"

    def attack(self, name, images, labels, indices, done, *, snapshot, beat):
        yield torch.arange(len(labels)), self.candidates(images) if name == "apgd-ce" else images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.clamp(0.3, 0.3) * 0 + 0.31 + (x - x), r"leaves the Linf ball of radius 0.01"),
        (lambda x: x - 5, r"leaves \[0, 1\]"),
        (lambda x: x / 0, r"not finite for image 0"),
    ],
)
def test_a_candidate_outside_the_threat_model_is_an_error_not_a_number(monkeypatch, change, message):
    model = Linear()
    labels = (model(IMAGES).argmax(1) + 0) % 4
    monkeypatch.setitem(ENGINES, "fast", OneAttack(change))

    class Confused(nn.Module):
        def forward(self, images):
            logits = model(images)
            return logits if torch.equal(images[: len(IMAGES)], IMAGES[: len(images)]) else logits.roll(1, 1)

    with pytest.raises(EvaluationError, match=message):
        evaluate(Confused(), IMAGES, labels, eps=0.01, engine="fast")


def test_an_adversarial_example_that_does_not_hold_is_an_error(monkeypatch):
    model = Linear()
    labels = model(IMAGES).argmax(1)
    monkeypatch.setitem(ENGINES, "fast", OneAttack(lambda x: x + 0.001))

    class Moody(nn.Module):
        calls = 0

        def forward(self, images):
            if len(images) == len(IMAGES) and not torch.equal(images, IMAGES):
                self.calls += 1
                if self.calls == 1:
                    return model(images).roll(1, 1)
            return model(images)

    with pytest.raises(EvaluationError, match="no longer changes its label"):
        evaluate(Moody(), IMAGES, labels, eps=0.01, engine="fast")


def test_warnings_of_engines_are_collected_not_printed(monkeypatch, capfd):
    model = Linear()
    monkeypatch.setitem(ENGINES, "fast", OneAttack(lambda x: x))
    result = evaluate(model, IMAGES, model(IMAGES).argmax(1), eps=0.01, engine="fast")
    assert result.warnings == ("something is odd", *(f"{name} is odd, too" for name in STANDARD_ATTACKS))
    assert "odd" not in capfd.readouterr().err


def a_reference(model, eps, classes):
    settings = AttackSettings(engine="reference", batch_size=12)
    return ReferenceEngine(model, ThreatModel("Linf", eps), settings, num_classes=classes, device=torch.device("cpu"))


def test_autoattacks_checks_see_a_randomized_net_and_probabilities():
    model = build("small_cnn", widths=(4, 8)).eval()
    images, labels = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)

    class Noisy(nn.Module):
        def forward(self, x):
            return model(x) + 0.1 * torch.randn(len(x), 10)

    for net, expected in ((Noisy(), "randomized"), (nn.Sequential(model, nn.Softmax(1)), "probability")):
        engine = a_reference(net, 0.1, 10)
        (found,) = engine.check(images, labels)
        assert expected in found
    engine = a_reference(model, 0.1, 10)
    assert engine.check(images, labels) == ()


@pytest.mark.parametrize("engine", ENGINES)
def test_warnings_are_values_whatever_is_logged(engine):
    net = build("small_cnn", widths=(4, 8)).eval()
    images = torch.rand(6, 1, 8, 8)
    labels = net(images).argmax(1)
    logging.disable(logging.CRITICAL)
    try:
        (warning,) = evaluate(nn.Sequential(net, nn.Softmax(1)), images, labels, eps=0.0, engine=engine).warnings
        assert "probability distribution" in warning
        assert "Square Attack has decreased" in check_square({"apgd-ce": 0.5, "apgd-t": 0.5, "square": 0.4})[0]
        wrapped = nn.Module()
        linear = Linear()
        wrapped.forward = lambda images: linear(FiniteAtCleanImagesOnly.apply(images))
        settings = AttackSettings(engine=engine).limited(iterations=5, queries=20)
        found = evaluate(wrapped, IMAGES, linear(IMAGES).argmax(1), eps=1e-4, settings=settings)
    finally:
        logging.disable(logging.NOTSET)
    assert any("not finite during an attack" in warning for warning in found.warnings)
    assert check_square({"apgd-ce": 0.5, "apgd-t": 0.5, "square": 0.5}) == ()


class FiniteAtCleanImagesOnly(torch.autograd.Function):
    """The identity, with a gradient that is NaN everywhere but at the clean images."""

    @staticmethod
    def forward(ctx, images):
        ctx.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        (images,) = ctx.saved_tensors
        clean = (images[:, None] == IMAGES[None]).flatten(2).all(2).any(1)
        return torch.where(clean.view(-1, 1, 1, 1), gradient, torch.nan)


def test_a_gradient_that_is_lost_during_an_attack_is_warned_of():
    model = Linear()
    labels = model(IMAGES).argmax(1)
    for head, expected in ((FiniteAtCleanImagesOnly.apply, True), (torch.clone, False)):
        wrapped = nn.Module()
        wrapped.forward = lambda images, head=head: model(head(images))
        engine = a_reference(wrapped, 0.01, 4)
        list(engine.attack("apgd-ce", IMAGES, labels))
        assert any("not finite during an attack" in warning for warning in engine.warnings("apgd-ce")) == expected


def test_training_mode_and_trainable_weights_come_back():
    model = build("small_cnn", widths=(4, 8)).train()
    images = torch.rand(4, 1, 8, 8)
    labels = torch.zeros(4, dtype=torch.int64)
    evaluate(model, images, labels, eps=0.0)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_progress_ends_with_nothing_left(engine):
    model = Linear()
    seen = []
    images = IMAGES[:3]
    settings = AttackSettings(engine=engine, batch_size=2).limited(iterations=10, queries=50)
    evaluate(model, images, model(images).argmax(1), eps=0.01, settings=settings, on_progress=seen.append)
    assert list(dict.fromkeys(p.attack for p in seen)) == ["clean", *STANDARD_ATTACKS, "verified"]
    assert seen[0].passes_done == seen[-1].passes_left == 0 < seen[-1].robust
    assert all(b.passes_done >= a.passes_done for a, b in pairwise(seen))
    assert all(p.passes_before == 0 and p.done <= p.total for p in seen)
    assert {p.attack for p in seen if p.done == p.total} >= {"verified"}


LABELS = torch.zeros(12, dtype=torch.int64)
WITH_NAN = IMAGES.clone()
WITH_NAN[3, 0, 0, 0] = float("nan")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES[0]}, "shape"),
        ({"images": (IMAGES * 255).byte()}, "divide 8-bit images by 255"),
        ({"images": IMAGES.double()}, "float32"),
        ({"images": IMAGES * 255}, r"image 0 has values in .* must lie in \[0, 1\]"),
        ({"images": IMAGES - 0.5}, r"must lie in \[0, 1\]"),
        ({"images": WITH_NAN}, "image 3 has a pixel that is NaN"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "no images"),
        ({"labels": LABELS[:5]}, "12 images need labels"),
        ({"labels": LABELS.float()}, "int64"),
        ({"labels": LABELS + 4}, r"label 4 of image 0 is not in 0\.\.3"),
        ({"labels": LABELS - 1}, "label -1"),
        ({"norm": "L1"}, "norm"),
        ({"eps": -0.1}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"batch_size": 0}, "batch size"),
        ({"engine": "magic"}, "unknown engine 'magic'; known: fast, reference"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"device": "meta"}, "not supported"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_a_reason(arguments, message):
    settings = {"images": IMAGES, "labels": LABELS, "eps": 0.1} | arguments
    images, labels = settings.pop("images"), settings.pop("labels")
    with pytest.raises(ValueError, match=message):
        evaluate(Linear(), images, labels, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_is_refused():
    with pytest.raises(ValueError, match="no usable CUDA device"):
        evaluate(Linear(), IMAGES, LABELS, eps=0.1, device="cuda")


@pytest.mark.parametrize(
    ("net", "message"),
    [(Linear(classes=1), "at least 2 classes, got 1"), (nn.Flatten(0), "shape"), (nn.Flatten(1), None)],
)
def test_outputs_that_are_not_logits_are_refused(net, message):
    if message is None:
        evaluate(net, IMAGES, LABELS, eps=0.0)
    else:
        with pytest.raises(EvaluationError, match=message):
            evaluate(net, IMAGES, LABELS, eps=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_weight_that_is_not_float32_is_refused_by_name(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Linear(8, 4))
    model[2].to(dtype)
    with pytest.raises(EvaluationError, match=rf"the weight 2\.weight is {dtype}; load the model in float32"):
        evaluate(model, IMAGES, LABELS, eps=0.1)


def test_a_net_that_gives_nan_is_refused():
    class Broken(nn.Module):
        def forward(self, images):
            return images.flatten(1) * float("nan")

    with pytest.raises(EvaluationError, match="gives NaN"):
        evaluate(Broken(), IMAGES, LABELS, eps=0.0)


class Coarse(nn.Module):
    """A linear net whose logits have a large common part, which costs digits: they vary with the size of the batch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(300, 5)
        with torch.no_grad():
            self.linear.weight += 300 * torch.randn(1, 300)

    def forward(self, images):
        return self.linear(images.flatten(1))


def test_a_verdict_that_only_another_batch_size_changes_stands(tmp_path):
    """A point misclassified up to rounding stays so; a run that resumes with other batches must not blame the model."""
    net = Coarse().eval()
    images = torch.rand(1500, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    labels = net(images).argmax(1)

    def run(batch_size, on_progress=None):
        settings = AttackSettings(attacks=("apgd-ce",), batch_size=batch_size).limited(iterations=5)
        return evaluate(
            net, images, labels, eps=0.02, settings=settings, state=tmp_path / "state", on_progress=on_progress
        )

    def stop(progress):
        if progress.attack == "verified":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(256, stop)
    resumed = run(1)
    assert resumed.deterministic
    assert (
        resumed.robust_accuracy
        == evaluate(
            net,
            images,
            labels,
            eps=0.02,
            settings=AttackSettings(attacks=("apgd-ce",), batch_size=256).limited(iterations=5),
        ).robust_accuracy
    )
    flipped = predict(net, torch.tensor(resumed.adversarials), 1, torch.device("cpu")) == labels
    assert (flipped & torch.tensor(~resumed.robust)).any()  # the case is real: some flip back in batches of one
