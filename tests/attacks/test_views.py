"""What attacks differentiate: values, and which gradients are there and which are not."""

import copy

import pytest
import torch
from linear_mixes import adaptive
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.losses import alpha_loss, lowering_alpha
from adaptive_smoothing_zoo.attacks.pgd import cross_entropy, pgd
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.attacks.surrogates import SURROGATES
from adaptive_smoothing_zoo.attacks.views import VIEWS, GrayBox, WithAlphaLoss, pin_alpha, stop_flat_gradients
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.method.logit_maps import HardMax
from adaptive_smoothing_zoo.threat import ThreatModel

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def a_mix(alpha=None, **settings):
    std, rob = (build("small_cnn", widths=(4, 6), num_classes=4) for _ in range(2))
    alpha = AdaptiveAlpha(MixingNetwork(8, 12, (4, 4, 4)), **settings) if alpha is None else alpha
    model = MixedClassifier(std, rob, alpha, std_map=2.0, rob_map=0.7).double().requires_grad_(False)
    for module in model.modules():  # a fresh net has no batch statistics, and hardly reacts to its input
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(IMAGES)
    return model.eval()


def gradient(output_of, images=IMAGES):
    images = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(output_of(images).sum(), images)
    return found


def chosen(view):
    return lambda images: view(images).gather(1, LABELS[:, None])


@pytest.mark.parametrize("settings", [{}, {"alpha_min": 0.3, "alpha_max": 0.9}, {"alpha": 0.6}])
def test_the_gray_box_gives_the_model_s_logits_bit_for_bit(settings):
    model = a_mix(**settings)
    assert torch.equal(GrayBox(model)(IMAGES), model(IMAGES))


def test_the_gray_box_has_exactly_no_gradient_through_the_mixing_network():
    model = a_mix()
    alpha = model.alpha_of(IMAGES)[:, None]

    def with_alpha_as_a_number(images):
        std = (2.0 * model.std_model(images)).softmax(1)
        rob = (0.7 * model.rob_model(images)).softmax(1)
        return ((1 - alpha) * std + alpha * rob).log()

    gray = gradient(chosen(GrayBox(model)))
    torch.testing.assert_close(gray, gradient(chosen(with_alpha_as_a_number)))
    assert (gradient(chosen(model)) - gray).abs().max() > 1e-3 * gray.abs().max()  # which the white box has
    # Not a small gradient but none: even one that is not finite leaves no trace.
    alpha_logit = model.alpha.norm.register_forward_hook(lambda _, inputs, output: output + (0 * inputs[0]).sqrt())
    assert not gradient(chosen(model)).isfinite().all()
    assert torch.equal(gradient(chosen(GrayBox(model))), gray)
    alpha_logit.remove()
    model.alpha.requires_grad_(True)
    assert model(IMAGES).requires_grad
    assert not GrayBox(model)(IMAGES).requires_grad


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mix", lambda model: model(IMAGES)),
        ("gray_box", lambda model: model(IMAGES)),
        ("pinned", lambda model: model.sweep(IMAGES, [0.3])[0]),
        ("raw", lambda model: 0.7 * model.std_model(IMAGES) + 0.3 * model.rob_model(IMAGES)),
        ("std", lambda model: (2.0 * model.std_model(IMAGES)).log_softmax(1)),
        ("rob", lambda model: (0.7 * model.rob_model(IMAGES)).log_softmax(1)),
    ],
)
def test_a_named_view_is_its_formula(name, expected):
    model = a_mix(alpha_min=0.3)
    view = VIEWS[name](model)
    torch.testing.assert_close(view(IMAGES), expected(model))
    assert all(not module.training for module in view.eval().modules())


def test_a_pinned_mix_shares_the_nets_and_has_the_alpha_asked_for():
    model = a_mix()
    pinned = pin_alpha(model, 0.4)
    assert pinned.std_model is model.std_model
    torch.testing.assert_close(pinned(IMAGES), model.sweep(IMAGES, [0.4])[0])
    with pytest.raises(ValueError, match="alpha must be in"):
        pin_alpha(model, 1.5)


def test_the_view_with_alphas_loss_is_the_model_and_its_alpha_from_one_pass():
    model = a_mix(alpha_min=0.2)
    calls = []
    model.std_model.register_forward_hook(lambda *_: calls.append(1))
    output = WithAlphaLoss(model)(IMAGES)
    torch.testing.assert_close(output[:, :-1], model(IMAGES))
    torch.testing.assert_close(alpha_loss(output), -torch.sigmoid(model.alpha_logit_of(IMAGES)).log())
    through_view = gradient(lambda images: alpha_loss(WithAlphaLoss(model)(images)))
    torch.testing.assert_close(
        through_view, gradient(lambda images: -nn.functional.logsigmoid(model.alpha_logit_of(images)))
    )


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_with_weight_1_alpha_and_nothing_else_is_brought_down(norm):
    model = a_mix()
    settings = {"eps": 0.02 if norm == "Linf" else 0.15, "steps": 30, "norm": norm}
    settings["step_size"] = settings["eps"] / 10
    lowered = pgd(WithAlphaLoss(model), IMAGES, LABELS, loss=lowering_alpha(cross_entropy, 1.0), **settings)
    directly = pgd(
        lambda x: torch.stack([0 * model.alpha_logit_of(x), -model.alpha_logit_of(x)], 1),
        IMAGES,
        0 * LABELS,
        loss=lambda output, labels: output[:, 1],
        **settings,
    )
    torch.testing.assert_close(lowered, directly, rtol=0, atol=1e-6)  # the same path, whatever the labels
    assert (model.alpha_of(lowered) < model.alpha_of(IMAGES)).all()
    plain = pgd(model, IMAGES, LABELS, **settings)
    assert model.alpha_of(lowered).mean() < model.alpha_of(plain).mean()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_with_weight_1_a_linear_alpha_reaches_the_least_that_the_ball_holds(norm):
    weight = torch.randn(36, dtype=torch.float64)
    model = adaptive(nn.Linear(36, 4), nn.Linear(36, 4), weight, 0.8).double()
    images = 0.4 + 0.2 * torch.rand(5, 1, 6, 6, dtype=torch.float64)
    settings = {"eps": 0.1, "step_size": 0.02, "steps": 40, "norm": norm, "random_start": True, "seed": 1}
    found = pgd(WithAlphaLoss(model), images, LABELS[:5], loss=lowering_alpha(cross_entropy, 1.0), **settings)
    size = weight.abs().sum() if norm == "Linf" else weight.norm()
    least = model.alpha_logit_of(images) - 0.1 * size / (1 + 1e-5) ** 0.5  # the batch norm's epsilon
    torch.testing.assert_close(model.alpha_logit_of(found), least, rtol=0, atol=1e-3)


def test_what_a_constant_alpha_or_a_replaced_mix_cannot_give_is_refused():
    with pytest.raises(TypeError, match="constant alpha"):
        WithAlphaLoss(a_mix(alpha=0.5))
    model = a_mix(alpha=0.5)
    model.reset_classifier(3)
    for view in (GrayBox, WithAlphaLoss, pin_alpha):
        with pytest.raises(ValueError, match="reset_classifier has replaced"):
            view(model)


class TestFlatGradients:
    """Through HardMax g has no gradient; a prepared copy does not compute that."""

    @staticmethod
    def mixed_nuts(alpha=0.9):
        mix = a_mix(alpha)
        mix.std_map = HardMax()
        return mix

    @pytest.mark.parametrize("view", ["mix", "gray_box", "pinned"])
    def test_the_gradient_stays_the_same_bit_for_bit_and_none_is_computed_in_g(self, view):
        model = VIEWS[view](self.mixed_nuts())
        expected = gradient(model)
        copied = copy.deepcopy(model)
        stop_flat_gradients(copied)
        assert torch.equal(gradient(copied), expected)
        assert torch.equal(copied(IMAGES), model(IMAGES))
        mix = copied if view != "gray_box" else copied.model
        outputs = mix.base_outputs(IMAGES.clone().requires_grad_())
        assert (outputs.log_std.requires_grad, outputs.log_rob.requires_grad) == (False, True)

    @pytest.mark.parametrize(
        "model",
        [
            lambda mix: SURROGATES["mixednuts"](mix, 0.9),  # has a smooth map
            lambda mix: pin_alpha(mix, 0.0),  # g alone
            lambda mix: MixedClassifier(mix.std_model, mix.rob_model, 0.9),
            lambda mix: MixedClassifier(
                mix.std_model, mix.rob_model, a_mix().alpha, std_map=HardMax()
            ),  # whose alpha reads g
            lambda mix: mix.std_model,
        ],
    )
    def test_other_models_stay_as_they_are(self, model):
        made = model(self.mixed_nuts())
        stop_flat_gradients(made)
        assert not any(module._forward_pre_hooks for module in made.modules())

    def test_a_search_does_so_in_its_copy_alone(self):
        mix = self.mixed_nuts().float()
        search = Search(
            mix,
            ThreatModel("Linf", 0.1),
            complete(AttackSettings(attacks=("apgd-ce",))),
            num_classes=4,
            device=torch.device("cpu"),
        )
        prepared = search.prepare(IMAGES.float())
        assert prepared.model.std_model._forward_pre_hooks
        assert not mix.std_model._forward_pre_hooks
