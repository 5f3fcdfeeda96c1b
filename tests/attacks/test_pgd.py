"""Projected gradient descent against optima known in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adaptive_smoothing_zoo.attacks.losses import LOSSES
from adaptive_smoothing_zoo.attacks.pgd import cross_entropy, pgd

FEW = settings(max_examples=40)
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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("momentum", [0.0, 0.75])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_momentum_reach_the_optimum_of_a_linear_net(loss, momentum, norm):
    net, images = linear_net(4), random_images(low=0.4, high=0.6)
    with torch.no_grad():
        net[1].weight[2:] *= 0.01  # two classes that are out of the race, for the sake of dlr
        net[1].bias[:] = torch.tensor([0.0, 0.0, -9.0, -9.5])
    settings = {"eps": 0.1, "step_size": 0.02, "steps": 60, "norm": norm, "momentum": momentum, "random_start": True}
    found = pgd(net, images, LABELS, loss=LOSSES[loss], seed=0, **settings)
    direction = uphill(net, LABELS)
    unit = direction.sign() if norm == "Linf" else direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    wrong, right = net(found).gather(1, 1 - LABELS[:, None]), net(found).gather(1, LABELS[:, None])
    best = net(images + 0.1 * unit)
    optimum = best.gather(1, 1 - LABELS[:, None]) - best.gather(1, LABELS[:, None])
    torch.testing.assert_close(wrong - right, optimum, rtol=0, atol=2e-3)


def test_momentum_is_the_sum_of_gradients_of_length_1_that_fades():
    net, images = curved_net(), random_images(low=0.4, high=0.6)
    decay = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    found = pgd(net, images, LABELS, eps=1.0, step_size=0.01, steps=4, norm="L2", momentum=decay)
    for i in range(5):
        point, velocity = images[i : i + 1], 0.0
        for _ in range(4):
            here = point.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(here), LABELS[i : i + 1]), here)
            velocity = decay[i] * velocity + gradient / gradient.abs().sum()
            point = point + 0.01 * velocity / velocity.norm()
        torch.testing.assert_close(found[i : i + 1], point)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_any_size_lead_to_the_same_points(norm, momentum, size):
    net, images = linear_net().float(), random_images(low=0.4, high=0.6).float()
    settings = {"eps": 0.1, "step_size": 0.1, "steps": 3, "norm": norm, "momentum": momentum}
    found = pgd(net, images, LABELS, loss=lambda logits, labels: size * cross_entropy(logits, labels), **settings)
    assert found.isfinite().all()
    torch.testing.assert_close(found, pgd(net, images, LABELS, **settings))


class Bumpy(nn.Module):
    """Two logits that rise and fall with every pixel."""

    def forward(self, images):
        height = torch.sin(40 * images).flatten(1).mean(1)
        return torch.stack([0.5 - height, 0 * height], dim=1)


@pytest.mark.parametrize("norm", NORMS)
def test_the_best_point_is_the_best_of_all_that_were_visited(norm):
    visited = []

    class Watched(Bumpy):
        def forward(self, images):
            output = super().forward(images)
            visited.append((images.detach(), output.detach()))
            return output

    images, labels = random_images(), torch.zeros(5, dtype=torch.int64)
    settings = {"eps": 0.3, "step_size": 0.2, "steps": 7, "norm": norm, "random_start": True, "restarts": 3, "seed": 2}
    best = pgd(Watched(), images, labels, keep="best", **settings)
    assert len(visited) == 3 * 8
    losses = torch.stack([cross_entropy(output, labels) for _, output in visited])
    expected = torch.stack([points for points, _ in visited])[losses.argmax(0), torch.arange(5)]
    assert torch.equal(best, expected)
    assert len(losses.argmax(0).unique()) > 1
    assert (losses.argmax(0) % 8 != 7).any()  # not always a last iterate
    visited.clear()
    last = pgd(Watched(), images, labels, **settings)
    ends = [visited[i] for i in (7, 15, 23)]
    losses = torch.stack([cross_entropy(output, labels) for _, output in ends])
    assert torch.equal(last, torch.stack([points for points, _ in ends])[losses.argmax(0), torch.arange(5)])


def test_a_misclassified_point_is_better_than_a_higher_loss():
    def model(points):  # class 0 is lost below 0.7
        pixel = points.flatten(1)
        return torch.cat([pixel - 0.7, 0 * pixel], dim=1)

    images, labels = torch.tensor([0.65, 0.75]).view(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64)
    # A loss that leads away from where the label is lost.
    found = pgd(
        model, images, labels, eps=0.2, step_size=0.1, steps=2, keep="best", loss=lambda logits, _: logits[:, 0]
    )
    torch.testing.assert_close(found.flatten(), torch.tensor([0.65, 0.95]))


@pytest.mark.parametrize("norm", NORMS)
def test_starts_from_a_seed_belong_to_examples_and_fill_the_ball(norm):
    images = torch.full((2000, *SHAPE), 0.5, dtype=torch.float64)
    labels, indices = torch.zeros(2000, dtype=torch.int64), torch.arange(50, 2050)
    settings = {"eps": 0.2, "step_size": 0.1, "steps": 0, "norm": norm, "random_start": True, "seed": 3}
    starts = pgd(linear_net(), images, labels, indices=indices, **settings)
    chosen = torch.randperm(2000)[:100]
    alone = pgd(linear_net(), images[chosen], labels[chosen], indices=indices[chosen], **settings)
    assert torch.equal(alone, starts[chosen])
    assert not torch.equal(pgd(linear_net(), images, labels, indices=indices + 1, **settings), starts)
    assert torch.equal(pgd(linear_net(), images, labels, indices=indices + 1, **settings)[:-1], starts[1:])
    lengths, offsets = distances(starts, images, norm), (starts - images).flatten(1)
    assert lengths.max() <= 0.2 + 1e-12
    assert offsets.mean(dim=0).abs().max() < 0.02
    if norm == "L2":
        assert abs(lengths.mean() - 0.1) < 0.01
    else:
        assert abs(offsets.abs().mean() - 0.1) < 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_with_a_seed_restarts_and_momentum_an_example_s_result_does_not_depend_on_its_batch(norm):
    net, images, indices = curved_net(), random_images(), torch.arange(10, 15)
    options = {"eps": 0.3, "step_size": 0.1, "steps": 5, "norm": norm, "random_start": True, "restarts": 2}
    options |= {"momentum": 0.7, "keep": "best", "seed": 9}
    together = pgd(net, images, LABELS, indices=indices, **options)
    for i in range(5):
        alone = pgd(net, images[i : i + 1], LABELS[i : i + 1], indices=indices[i : i + 1], **options)
        torch.testing.assert_close(alone, together[i : i + 1])


@FEW
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(0, 2),
    relative_step=st.floats(0.01, 3),
    steps=st.integers(0, 4),
    random_start=st.booleans(),
    momentum=st.sampled_from([0.0, 0.9]),
    keep=st.sampled_from(["last", "best"]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_adversarial_examples_stay_in_the_ball_and_the_box(
    norm, eps, relative_step, steps, random_start, momentum, keep, seed, dtype
):
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
        momentum=momentum,
        keep=keep,
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": "first"}, "keep must be 'last' or 'best'"),
        ({"restarts": 2}, "more need random_start=True"),
        ({"restarts": 0, "random_start": True}, "restarts must be at least 1"),
        ({"random_start": True, "seed": 1, "generator": torch.Generator()}, "for random starts, not both"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pgd(linear_net(), random_images(), LABELS, eps=0.1, step_size=0.1, steps=1, **settings)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_run_begins_where_it_is_told_to_inside_the_ball(norm):
    images = torch.full((3, 1, 2, 2), 0.5)
    start = torch.tensor([0.01, 0.05, 0.3]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone()

    def model(points):
        return points.flatten(1)

    labels = torch.zeros(3, dtype=torch.int64)
    begun = pgd(model, images, labels, eps=0.1, step_size=0.0, steps=1, norm=norm, start=start) - images
    if norm == "Linf":
        torch.testing.assert_close(begun, start.clamp(max=0.1))
    else:
        torch.testing.assert_close(begun, torch.tensor([0.01, 0.05, 0.05]).view(3, 1, 1, 1).expand(3, 1, 2, 2))
    with pytest.raises(ValueError, match="not both"):
        pgd(model, images, labels, eps=0.1, step_size=0.0, steps=1, norm=norm, start=start, random_start=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_image_without_a_gradient_stays_where_it_is(dtype):
    """In float16 the smallest length of a gradient must not round to zero."""
    images = torch.full((2, 1, 2, 2), 0.5, dtype=dtype)
    images[1] = 0.25

    def net(points):
        first = points[:, 0, 0, 0] * (points[:, 0, 1, 1].detach() > 0.3)  # constant near the second image
        return torch.stack([first, 0 * first], dim=1)

    found = pgd(net, images, torch.tensor([0, 0]), eps=0.1, step_size=0.05, steps=2, norm="L2")
    assert found.isfinite().all()
    assert found[1].equal(images[1])
    assert not found[0].equal(images[0])
