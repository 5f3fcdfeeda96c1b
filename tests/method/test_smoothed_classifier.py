"""Eq. (1) to (3) of [BAKS24], with gradients in closed form and by automatic differentiation."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.smoothed_classifier import SPACES, TRUST_OPTIONS, SmoothedClassifier

N, C, PIXELS = 4, 3, (1, 2, 3)
NORMS = ("Linf", "L2")


class Linear(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.layer = nn.Linear(math.prod(PIXELS), C).double()
        with torch.no_grad():
            self.layer.weight.mul_(gain)

    def forward(self, images):
        return self.layer(images.flatten(1))

    def numpy(self, images):
        """Logits (N, C) and the gradient of each with respect to the pixels (N, C, P)."""
        weight, bias = (parameter.detach().numpy() for parameter in self.layer.parameters())
        return images.numpy().reshape(N, -1) @ weight.T + bias, np.stack([weight] * N)


class Smooth(Linear):
    """Logits that are infinitely often differentiable and not linear."""

    def forward(self, images):
        return torch.tanh(2.0 * self.layer(images.flatten(1))) * 2.0


def random_images():
    return torch.rand(N, *PIXELS, dtype=torch.float64)


def in_space(logits, gradients, space):
    """Values and gradients of logits, or of their softmax by the quotient rule."""
    if space == "logits":
        return logits, gradients
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return p, p[:, :, None] * (gradients - np.einsum("nc,ncp->np", p, gradients)[:, None])


def dual_norm(gradients, norm):
    return np.abs(gradients).sum(axis=-1) if norm == "Linf" else np.sqrt((gradients**2).sum(axis=-1))


def trust_of(option, g, g_gradients, h_gradients, norm):
    """R_i, (N, C) or (N, 1)."""
    g_norms, h_norms = dual_norm(g_gradients, norm), dual_norm(h_gradients, norm)
    return {
        "one": np.ones_like(g),
        "std_gradient": g_norms,
        "max_gradient": g_norms[np.arange(len(g)), g.argmax(axis=1)][:, None],
        "gradient_ratio": g_norms / h_norms,
    }[option]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("trust", TRUST_OPTIONS)
def test_linear_nets_give_the_formula_with_their_closed_form_gradients(trust, space, norm, normalize):
    g_net, h_net, images = Linear(), Linear(3.0), random_images()
    (g, g_gradients), (h, h_gradients) = (in_space(*net.numpy(images), space) for net in (g_net, h_net))
    weight = 1.7 * trust_of(trust, g, g_gradients, h_gradients, norm)
    expected = g + weight * h
    if normalize:
        expected = expected / (1 + weight)
    model = SmoothedClassifier(g_net, h_net, trust=trust, ratio=1.7, space=space, norm=norm, normalize=normalize)
    found = model(images).detach().numpy()
    np.testing.assert_allclose(np.exp(found) if space == "probabilities" else found, expected, rtol=1e-9)


@pytest.mark.parametrize(("normalize", "equation"), [(False, 1), (True, 2)])
@pytest.mark.parametrize(("norm", "order"), [("Linf", 1), ("L2", 2)])
def test_equations_1_and_2_hold_literally_image_by_image_and_class_by_class(normalize, equation, norm, order):
    g_net, h_net, images, r = Smooth(), Smooth(), random_images(), 0.6
    model = SmoothedClassifier(
        g_net, h_net, trust="std_gradient", ratio=r, space="logits", norm=norm, normalize=normalize
    )
    found = model(images)
    for n in range(N):
        for i in range(C):
            image = images[n : n + 1].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(g_net(image)[0, i], image)
            g_i, h_i = g_net(image)[0, i].item(), h_net(image)[0, i].item()
            length = np.linalg.norm(gradient.numpy().ravel(), order)
            expected = g_i + r * h_i * length
            if equation == 2:
                expected /= 1 + r * length
            assert found[n, i].item() == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0, 9.0])
def test_a_trust_of_one_with_probabilities_is_the_mixed_classifier(ratio):
    g_net, h_net, images = Linear(), Linear(3.0), random_images()
    smoothed = SmoothedClassifier(g_net, h_net, trust="one", ratio=ratio)
    mixed = MixedClassifier(g_net, h_net, ratio / (1 + ratio))
    torch.testing.assert_close(smoothed(images), mixed(images))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("trust", TRUST_OPTIONS)
def test_a_ratio_of_0_is_the_standard_net_and_a_huge_one_the_robust_net(trust, space):
    g_net, h_net, images = Smooth(), Smooth(), random_images()
    for ratio, net in ((0.0, g_net), (1e12, h_net)):
        expected = net(images)
        if space == "probabilities":
            expected = expected.log_softmax(dim=1)
        found = SmoothedClassifier(g_net, h_net, trust=trust, ratio=ratio, space=space)(images)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("trust", TRUST_OPTIONS)
def test_a_ratio_of_0_is_the_standard_net_even_where_it_is_certain(trust):
    g_net, h_net, images = Linear(3000.0).float(), Linear().float(), random_images().float()
    expected = g_net(images).log_softmax(dim=1)
    assert expected.min() < -200  # the probability is zero in float32
    torch.testing.assert_close(SmoothedClassifier(g_net, h_net, trust=trust, ratio=0.0)(images), expected)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("trust", TRUST_OPTIONS)
def test_values_are_the_same_without_gradients(trust, space):
    model = SmoothedClassifier(Smooth(), Smooth(), trust=trust, space=space)
    images = random_images()
    expected = model(images)
    with torch.no_grad():
        found = model(images)
        also_found = model(images.clone().requires_grad_())
    assert expected.requires_grad
    assert not found.requires_grad
    assert not also_found.requires_grad
    assert torch.equal(found, expected)
    assert torch.equal(also_found, expected)
    assert not images.requires_grad
    with torch.inference_mode():
        made_there = images + 0.0
        assert torch.equal(model(made_there), expected)
        assert torch.equal(model.trust_of(made_there), model.trust_of(images))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("trust", TRUST_OPTIONS)
def test_gradients_pass_through_the_gradient_norms(trust, space, norm, normalize):
    model = SmoothedClassifier(Smooth(), Smooth(), trust=trust, ratio=0.7, space=space, norm=norm, normalize=normalize)
    images = random_images()[:2].requires_grad_()
    assert torch.autograd.gradcheck(model, images)


@pytest.mark.parametrize("trust", TRUST_OPTIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_nets_so_certain_that_gradients_vanish_still_give_finite_output_and_gradient(trust, norm):
    model = SmoothedClassifier(Linear(3000.0).float(), Linear(3000.0).float(), trust=trust, norm=norm)
    images = random_images().float().requires_grad_()
    output = model(images)
    (gradient,) = torch.autograd.grad(output.sum(), images)
    assert output.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trust": "two"}, "trust must be one of one, std_gradient, max_gradient, gradient_ratio, got 'two'"),
        ({"space": "odds"}, "space must be one of probabilities, logits"),
        ({"norm": "linf"}, "norm must be 'Linf' or 'L2', got 'linf'"),
        ({"ratio": -0.1}, "trust ratio must be a finite number >= 0"),
        ({"ratio": float("nan")}, "trust ratio"),
        ({"ratio": float("inf")}, "trust ratio"),
    ],
)
def test_options_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SmoothedClassifier(Linear(), Linear(), **arguments)


@pytest.mark.parametrize("images", [torch.rand(1, 2, 3), torch.zeros(1, 1, 2, 3, dtype=torch.uint8)])
def test_what_is_no_batch_of_float_images_is_refused(images):
    with pytest.raises(ValueError, match="images must"):
        SmoothedClassifier(Linear(), Linear())(images)


class Opposite(nn.Module):
    """Two classes with logits (-g, g)."""

    def __init__(self, g):
        super().__init__()
        self.g = g

    def forward(self, images):
        g = self.g(images.flatten(1))
        return torch.stack([-g, g], dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_of_two_classes_eq_1_is_locally_biased_smoothing_with_the_nearest_neighbor(norm):
    known, signs, images = torch.rand(9, 6), torch.arange(9) % 2 * 2.0 - 1.0, torch.rand(N, *PIXELS)
    weight, ratio = torch.randn(6), 0.7
    g = Opposite(lambda x: torch.sin(x @ weight))
    oracle = Opposite(lambda x: signs[torch.cdist(x, known).argmin(dim=1)])
    form = SmoothedClassifier(g, oracle, trust="std_gradient", ratio=ratio, space="logits", norm=norm, normalize=False)
    pixels = images.flatten(1).numpy().astype(np.float64)
    of_g = pixels @ weight.numpy()
    nearest = np.square(pixels[:, None] - known.numpy()[None]).sum(axis=2).argmin(axis=1)
    length = np.abs(weight.numpy()).sum() if norm == "Linf" else np.linalg.norm(weight.numpy())
    biased = np.sin(of_g) + ratio * signs.numpy()[nearest] * np.abs(np.cos(of_g)) * length
    np.testing.assert_allclose(form(images).detach().numpy(), np.stack([-biased, biased], axis=1), rtol=1e-5, atol=1e-5)
