"""Projected gradient descent against optima known in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adaptive_smoothing_zoo.attacks.pgd import cross_entropy, pgd

FEW = settings(max_examples=40, deadline=None)
SHAPE = (2, 3, 3)
NORMS = ("Linf", "L2")


def linear_net(classes=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SHAPE)), classes)).double()


def curved_net():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)).double()


def uphill(net, labels):
    """The direction in which a linear net of two classes loses its label, of any length."""
    weight = net[1].weight.detach()
    return (weight[1 - labels] - weight[labels]).view(-1, *SHAPE)


def random_images(n=5, low=0.0, high=1.0):
    return low + (high - low) * torch.rand(n, *SHAPE, dtype=torch.float64)


def distances(adversarials, images, norm):
    difference = (adversarials - images).flatten(1)
    return difference.abs().amax(dim=1) if norm == "Linf" else difference.norm(dim=1)


LABELS = torch.tensor([0, 1, 1, 0, 1])


@pytest.mark.parametrize("random_start", [False, True])
def test_a_linear_net_s_optimum_in_an_l_inf_ball_and_the_box_is_reached(random_start):
    net, images = linear_net(), random_images()
    found = pgd(net, images, LABELS, eps=0.2, step_size=0.1, steps=6, random_start=random_start)
    expected = (images + 0.2 * uphill(net, LABELS).sign()).clamp(0, 1)
    torch.testing.assert_close(found, expected)
    assert (expected == 1).any()  # the box cuts some of it off


@pytest.mark.parametrize("random_start", [False, True])
def test_a_linear_net_s_optimum_in_an_l_2_ball_is_reached(random_start):
    net, images = linear_net(), random_images(low=0.4, high=0.6)
    found = pgd(net, images, LABELS, eps=0.3, step_size=0.3, steps=60, norm="L2", random_start=random_start)
    direction = uphill(net, LABELS)
    expected = images + 0.3 * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_one_step_of_each_norm_has_the_length_asked_for_and_follows_the_gradient():
    net, images = curved_net(), random_images(low=0.4, high=0.6)
    points = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(points), LABELS, reduction="sum"), points)
    l_inf = pgd(net, images, LABELS, eps=1.0, step_size=0.05, steps=1)
    torch.testing.assert_close(l_inf, images + 0.05 * gradient.sign())
    l_2 = pgd(net, images, LABELS, eps=1.0, step_size=0.05, steps=1, norm="L2")
    lengths = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(l_2, images + 0.05 * gradient / lengths)


@FEW
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(0, 2),
    relative_step=st.floats(0.01, 3),
    steps=st.integers(0, 4),
    random_start=st.booleans(),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_adversarial_examples_stay_in_the_ball_and_the_box(norm, eps, relative_step, steps, random_start, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, *SHAPE, generator=generator).round(decimals=1).to(dtype)  # with pixels at 0 and 1
    net = curved_net().to(dtype)
    found = pgd(
        net,
        images,
        LABELS[:4],
        eps=eps,
        step_size=relative_step * eps,
        steps=steps,
        norm=norm,
        random_start=random_start,
        generator=generator,
    )
    assert found.shape == images.shape
    assert found.dtype == dtype
    assert found.min() >= 0
    assert found.max() <= 1
    assert (distances(found.double(), images.double(), norm) <= eps + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_every_example_may_have_its_own_radius_and_step(norm):
    net, images = linear_net(), random_images(low=0.4, high=0.6)
    eps = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.3], dtype=torch.float64)
    found = pgd(net, images, LABELS, eps=eps, step_size=eps / 2, steps=40, norm=norm)
    torch.testing.assert_close(distances(found, images, norm), eps)
    for i in range(5):
        alone = pgd(
            net,
            images[i : i + 1],
            LABELS[i : i + 1],
            eps=eps[i].item(),
            step_size=eps[i].item() / 2,
            steps=40,
            norm=norm,
        )
        torch.testing.assert_close(found[i : i + 1], alone)


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_s_result_does_not_depend_on_its_batch(norm):
    net, images = curved_net(), random_images()
    options = {"eps": 0.3, "step_size": 0.1, "steps": 5, "norm": norm}
    together = pgd(net, images, LABELS, **options)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(pgd(net, images[order], LABELS[order], **options), together[order])
    alone = [pgd(net, images[i : i + 1], LABELS[i : i + 1], **options) for i in range(5)]
    torch.testing.assert_close(torch.cat(alone), together)


@pytest.mark.parametrize("norm", NORMS)
def test_the_loss_rises(norm):
    net, images = curved_net(), random_images()
    found = pgd(net, images, LABELS, eps=0.3, step_size=0.05, steps=10, norm=norm)
    with torch.no_grad():
        assert (cross_entropy(net(found), LABELS) > cross_entropy(net(images), LABELS)).all()


def test_another_loss_is_the_one_increased():
    net, images = linear_net(), random_images()
    toward = pgd(net, images, LABELS, eps=0.1, step_size=0.1, steps=2, loss=lambda *args: -cross_entropy(*args))
    torch.testing.assert_close(toward, (images - 0.1 * uphill(net, LABELS).sign()).clamp(0, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_is_inside_the_ball_and_repeated_by_its_generator(norm):
    images = torch.full((2000, *SHAPE), 0.5, dtype=torch.float64)
    labels = torch.zeros(2000, dtype=torch.int64)

    def start(seed):
        generator = torch.Generator().manual_seed(seed)
        return pgd(
            linear_net(),
            images,
            labels,
            eps=0.2,
            step_size=0.1,
            steps=0,
            norm=norm,
            random_start=True,
            generator=generator,
        )

    first = start(1)
    assert torch.equal(first, start(1))
    assert not torch.equal(first, start(2))
    lengths = distances(first, images, norm)
    assert lengths.max() <= 0.2 + 1e-12
    offsets = (first - images).flatten(1)
    assert offsets.mean(dim=0).abs().max() < 0.02  # no preferred direction
    if norm == "L2":
        assert abs(lengths.mean() - 0.1) < 0.01  # uniform in the radius
    else:
        assert abs(offsets.abs().mean() - 0.1) < 0.01  # uniform in each pixel


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_step_and_a_random_start_nothing_changes(norm):
    images = random_images()
    assert torch.equal(pgd(linear_net(), images, LABELS, eps=0.1, step_size=0.1, steps=0, norm=norm), images)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gradient_of_zero_leaves_the_image_where_it_is(norm):
    def flat(images):
        return 0.0 * images.flatten(1)[:, :2]

    images = random_images()
    found = pgd(flat, images, torch.zeros(5, dtype=torch.int64), eps=0.1, step_size=0.1, steps=3, norm=norm)
    torch.testing.assert_close(found, images)


@pytest.mark.parametrize("grad_enabled", [True, False])
def test_neither_the_parameters_gradients_nor_the_images_are_touched(grad_enabled):
    net, images = curved_net(), random_images()
    before = images.clone()
    parameters = list(net.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    with torch.set_grad_enabled(grad_enabled):
        found = pgd(net, images, LABELS, eps=0.3, step_size=0.1, steps=3)
    assert (parameters[0].grad == 1).all()
    assert all(parameter.grad is None for parameter in parameters[1:])
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert not found.requires_grad
    assert not torch.equal(found, images)


def test_cross_entropy_is_one_number_per_example():
    logits = torch.randn(5, 3, dtype=torch.float64)
    exponentials = np.exp(logits.numpy())
    expected = -np.log(exponentials / exponentials.sum(axis=1, keepdims=True))[range(5), LABELS]
    np.testing.assert_allclose(cross_entropy(logits, LABELS), expected)


@pytest.mark.parametrize("norm", ["linf", "L1", ""])
def test_an_unknown_norm_is_refused(norm):
    with pytest.raises(ValueError, match="the norm must be 'Linf' or 'L2'"):
        pgd(linear_net(), random_images(), LABELS, eps=0.1, step_size=0.1, steps=1, norm=norm)
