"""Each loss against its equation, written down once more with numpy and loops; gradients by finite differences."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from adaptive_smoothing_zoo.training.smoothed_losses import (
    ConsistencyLoss,
    GaussianLoss,
    MacerLoss,
    NoisyBatch,
    SmoothAdvLoss,
    SmoothMixLoss,
    StabilityLoss,
    decoupled_search,
    into_ball,
    unit,
)

N, M, C, SIDE, HIDDEN = 6, 3, 4, 3, 5
SIGMA = 0.3


def a_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, C)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2.0)
    return net


def a_batch(**changes):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    images = draw(N, 1, SIDE, SIDE)
    noise = SIGMA * torch.randn((N, M, 1, SIDE, SIDE), generator=generator, dtype=torch.float64)
    values = {
        "images": images,
        "labels": a_net()(images).argmax(1),  # some of these will be wrong under noise, the last is wrong in any case
        "noise": noise,
        "mixing": draw(N) / 2,
        "sigma": SIGMA,
        "strength": 0.7,
        "start": images,
        "adversary": draw(N, 1, SIDE, SIDE),
    }
    values["labels"][-1] = (values["labels"][-1] + 1) % C
    return NoisyBatch(**(values | changes))


def probabilities(parameters, x, temperature=1.0):
    """The net's, at one image, from the vector of all its parameters."""
    first, rest = np.split(parameters, [HIDDEN * SIDE * SIDE])
    bias, rest = np.split(rest, [HIDDEN])
    second, last = np.split(rest, [C * HIDDEN])
    hidden = np.tanh(first.reshape(HIDDEN, -1) @ np.ravel(x) + bias)
    scores = np.exp((second.reshape(C, HIDDEN) @ hidden + last) / temperature)
    return scores / scores.sum()


def cross_entropy(found, expected):
    return -sum(expected[c] * np.log(found[c]) for c in range(C))


def one_hot(label):
    return np.array([float(c == label) for c in range(C)])


def gaussian(parameters, x, y, deltas, **_):
    return sum(cross_entropy(probabilities(parameters, x + delta), one_hot(y)) for delta in deltas) / M


def stability(parameters, x, y, deltas, **_):
    clean = probabilities(parameters, x)
    total = cross_entropy(clean, one_hot(y))
    for delta in deltas:
        total += 2.0 * cross_entropy(probabilities(parameters, x + delta), clean) / M
    return total


def macer(parameters, x, y, deltas, strength, **_):
    smoothed = sum(probabilities(parameters, x + delta) for delta in deltas) / M
    sharp = sum(probabilities(parameters, x + delta, temperature=1 / 4.0) for delta in deltas) / M
    total = -np.log(smoothed[y])
    if sharp[y] == max(sharp):
        other = max(sharp[c] for c in range(C) if c != y)
        xi = norm.ppf(sharp[y]) - norm.ppf(other)
        total += strength * 16.0 * SIGMA / 2 * max(1.0 - xi, 0.0)
    return total


def consistency(parameters, x, y, deltas, **_):
    each = [probabilities(parameters, x + delta) for delta in deltas]
    smoothed = sum(each) / M
    entropy = cross_entropy(smoothed, smoothed)
    total = sum(cross_entropy(one, one_hot(y)) for one in each) / M
    total += 7.0 * sum(cross_entropy(one, smoothed) - entropy for one in each) / M
    return total + 0.5 * entropy


def smoothmix(parameters, x, y, deltas, mixing, adversary, strength, **_):
    smoothed = sum(probabilities(parameters, x + delta) for delta in deltas) / M
    x_mix = (1 - mixing) * x + mixing * adversary
    y_mix = (1 - mixing) * smoothed + mixing * np.ones(C) / C
    of_mix = sum(cross_entropy(probabilities(parameters, x_mix + delta), y_mix) for delta in deltas) / M
    divergence = of_mix - cross_entropy(y_mix, y_mix)
    total = gaussian(parameters, x, y, deltas)
    return total + strength * 5.0 * divergence * (smoothed[y] == max(smoothed))


def printed_smoothmix(parameters, x, y, deltas, mixing, adversary, strength, **_):
    """[JS21, eq. 9 to 11] as printed, but for the warm-up."""
    smoothed = sum(probabilities(parameters, x + delta) for delta in deltas) / M
    x_mix, y_mix = (1 - mixing) * x + mixing * adversary, (1 - mixing) * smoothed + mixing * np.ones(C) / C
    of_mix = sum(cross_entropy(probabilities(parameters, x_mix + delta), y_mix) for delta in deltas) / M
    return gaussian(parameters, x, y, deltas) + strength * 5.0 * of_mix


CASES = {
    "gaussian": (GaussianLoss(), gaussian),
    "stability": (StabilityLoss(), stability),
    "smoothadv": (SmoothAdvLoss(), gaussian),
    "macer": (MacerLoss(inverse_temperature=4.0, margin=1.0), macer),
    "consistency": (ConsistencyLoss(weight=7.0), consistency),
    "smoothmix": (SmoothMixLoss(), smoothmix),
    "smoothmix as printed": (SmoothMixLoss(printed=True), printed_smoothmix),
}


def literal(slow, parameters, batch):
    return np.array(
        [
            slow(
                parameters,
                batch.start[i].numpy(),
                int(batch.labels[i]),
                batch.noise[i].numpy(),
                mixing=float(batch.mixing[i]),
                adversary=batch.adversary[i].numpy(),
                strength=batch.strength,
            )
            for i in range(len(batch.labels))
        ]
    )


def vector(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).numpy()


def gradient_of(function, point, step=1e-6):
    columns = []
    for i in range(len(point)):
        moved = np.zeros_like(point)
        moved[i] = step
        columns.append((function(point + moved) - function(point - moved)) / (2 * step))
    return np.array(columns)


@pytest.mark.parametrize("name", CASES)
def test_a_loss_and_its_gradient_are_those_of_its_equation(name):
    loss, slow = CASES[name]
    net, batch = a_net(), a_batch()
    found = loss.losses(net, batch)
    np.testing.assert_allclose(found.detach().numpy(), literal(slow, vector(net), batch), rtol=1e-10)
    weights = torch.linspace(0.5, 2.0, N, dtype=torch.float64)  # so that no example's error hides in the mean
    gradients = torch.autograd.grad((weights * found).sum(), list(net.parameters()))
    expected = gradient_of(lambda parameters: weights.numpy() @ literal(slow, parameters, batch), vector(net))
    np.testing.assert_allclose(torch.cat([g.flatten() for g in gradients]).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_the_batch_of_that_test_has_what_the_cases_of_the_equations_need():
    net, batch = a_net(), a_batch()
    logits = net((batch.images[:, None] + batch.noise).flatten(0, 1)).unflatten(0, (N, M))
    for temperature in (1.0, 0.25):
        votes = (logits / temperature).softmax(2).mean(1)
        assert 0 < (votes.argmax(1) == batch.labels).sum() < N
    sharp = votes.detach().numpy()
    correct = sharp.argmax(1) == batch.labels.numpy()
    ordered = np.sort(sharp[correct], axis=1)
    xi = norm.ppf(ordered[:, -1]) - norm.ppf(ordered[:, -2])
    assert (xi < 1.0).any()
    assert (xi > 1.0).any()


def test_macer_and_smoothmix_without_strength_are_their_first_terms():
    net, batch = a_net(), a_batch(strength=0.0)
    first = SmoothMixLoss().losses(net, batch)
    torch.testing.assert_close(first, GaussianLoss().losses(net, batch))
    np.testing.assert_allclose(
        MacerLoss().losses(net, batch).detach().numpy(), literal(macer, vector(net), batch), rtol=1e-10
    )


@pytest.mark.parametrize("name", CASES)
def test_certain_nets_give_finite_losses_and_gradients(name):
    net = a_net().float()
    with torch.no_grad():
        net[-1].weight.mul_(1e4)
    batch = a_batch()
    changes = {key: getattr(batch, key).float() for key in ("images", "noise", "start", "adversary")}
    loss = CASES[name][0].losses(net, a_batch(**changes))
    assert loss.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss.mean(), list(net.parameters())))


def walk(parameters, x, y, deltas, step_size, eps, steps):
    """[JS21, eq. 8], its gradient by finite differences; with the ball of eq. 6."""
    points = [np.ravel(x)]
    for _ in range(steps):

        def objective(flat):
            return -np.log(sum(probabilities(parameters, flat + np.ravel(d))[y] for d in deltas) / M)

        gradient = gradient_of(objective, points[-1])
        new = np.clip(points[-1] + step_size * gradient / np.sqrt((gradient**2).sum()), 0, 1)
        away = new - points[0]
        length = np.sqrt((away**2).sum())
        points.append(points[0] + away * min(1.0, eps / length))
    return points[1:]


def walks(batch, step_size, eps, steps):
    parts = zip(batch.images.numpy(), batch.labels.tolist(), batch.noise.numpy(), strict=True)
    return [walk(vector(a_net()), x, y, deltas, step_size, eps, steps) for x, y, deltas in parts]


def assert_images(found, expected):
    np.testing.assert_allclose(found.flatten(1).detach().numpy(), np.array(expected), atol=1e-6)


def test_smoothadv_s_attack_is_that_of_its_equation_with_a_radius_that_warms_up():
    batch = a_batch(adversary=None)
    SmoothAdvLoss(eps=0.5, steps=4).attack(a_net(), batch)
    eps = 0.7 * 0.5
    assert_images(batch.start, [points[-1] for points in walks(batch, 2 * eps / 4, eps, 4)])
    assert ((batch.start - batch.images).flatten(1).norm(dim=1) > 0.99 * eps).any()
    assert batch.adversary is None


def test_smoothmix_s_attack_is_that_of_its_equation():
    batch = a_batch(adversary=None)
    SmoothMixLoss(step_size=0.3, steps=4).attack(a_net(), batch)
    expected = walks(batch, 0.3, np.inf, 4)
    assert_images(batch.adversary, [points[-1] for points in expected])
    assert batch.start is batch.images
    one_step = a_batch(adversary=None)
    SmoothMixLoss(step_size=0.3, steps=4, one_step=True).attack(a_net(), one_step)
    assert_images(one_step.adversary, [points[-1] for points in expected])
    x = batch.images.flatten(1).numpy()
    away = np.array([points[0] for points in expected]) - x
    length = np.linalg.norm(away, axis=1, keepdims=True)
    assert_images(one_step.start, x + away * np.minimum(1.0, 0.7 * 0.3 / length))


def test_smoothmix_s_search_keeps_to_a_ball_if_it_is_told_to():
    batch = a_batch(adversary=None)
    SmoothMixLoss(step_size=0.3, steps=4, max_norm=0.4).attack(a_net(), batch)
    assert_images(batch.adversary, [points[-1] for points in walks(batch, 0.3, 0.4, 4)])
    far = (batch.adversary - batch.images).flatten(1).norm(dim=1)
    assert far.max() == pytest.approx(0.4)


def decoupled(parameters, x, y, deltas, steps):
    """Rony et al. 2019, Algorithm 1, of the smoothed net; what was visited, and which of it is misclassified."""
    x = np.ravel(x)

    def smoothed(flat):
        return sum(probabilities(parameters, flat + np.ravel(d)) for d in deltas) / M

    points, epsilon = [x], 1.0
    for k in range(steps):
        gradient = gradient_of(lambda flat: -np.log(smoothed(flat)[y]), points[-1])
        alpha = 0.01 + 0.99 * (1 + np.cos(np.pi * k / steps)) / 2
        delta = points[-1] - x + alpha * gradient / np.linalg.norm(gradient)
        epsilon *= 0.95 if smoothed(points[-1]).argmax() != y else 1.05
        points.append(np.clip(x + epsilon * delta / np.linalg.norm(delta), 0, 1))
    return points, [smoothed(point).argmax() != y for point in points]


@pytest.mark.parametrize("steps", [1, 6])
def test_ddn_finds_the_nearest_misclassified_image_that_it_visits(steps):
    batch = a_batch(adversary=None)
    found = decoupled_search(a_net(), batch, steps)
    parts = zip(batch.images.numpy(), batch.labels.tolist(), batch.noise.numpy(), strict=True)
    expected, kinds = [], set()
    for x, y, deltas in parts:
        points, wrong = decoupled(vector(a_net()), x, y, deltas, steps)
        far = [
            np.linalg.norm(point - points[0]) if is_wrong else np.inf
            for point, is_wrong in zip(points, wrong, strict=True)
        ]
        expected.append(points[-1] if not any(wrong) else points[int(np.argmin(far))])
        kinds.add("itself" if wrong[0] else "found" if any(wrong) else "none")
    assert_images(found, expected)
    assert len(kinds) > 1
    SmoothAdvLoss(eps=0.2, steps=steps, search="ddn").attack(a_net(), batch)
    x = batch.images.flatten(1).numpy()
    away = np.array(expected) - x
    shorter = np.minimum(1.0, 0.7 * 0.2 / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9))
    assert_images(batch.start, x + shorter * away)


def test_the_clean_losses_attack_nothing():
    for loss in (GaussianLoss(), StabilityLoss(), MacerLoss(), ConsistencyLoss()):
        batch = a_batch(adversary=None)
        loss.attack(a_net(), batch)
        assert batch.start is batch.images
        assert batch.adversary is None


def test_the_warm_ups():
    assert [SmoothAdvLoss(warm_up=4).strength(epoch) for epoch in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert [SmoothMixLoss(warm_up=0).strength(epoch) for epoch in (0, 1)] == [1.0, 1.0]
    assert [MacerLoss(deferred=2).strength(epoch) for epoch in (0, 1, 2)] == [0.0, 0.0, 1.0]
    # The authors' code leaves the second term out where epoch <= 30, counted from 0.
    assert [MacerLoss().strength(epoch) for epoch in range(90)] == [float(not epoch <= 30) for epoch in range(90)]
    assert GaussianLoss().strength(0) == 1.0


def test_a_direction_has_length_one_however_small_the_gradient():
    gradient = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    for scale in (1.0, 1e-30, 1e30):
        torch.testing.assert_close(unit(scale * gradient).flatten(), torch.tensor([0.6, 0.8]))
    assert torch.equal(unit(0.0 * gradient), 0.0 * gradient)


def test_points_in_the_ball_stay():
    center, point = torch.zeros(1, 1, 1, 2), torch.tensor([0.3, 0.4]).view(1, 1, 1, 2)
    assert torch.equal(into_ball(point, center, 0.6), point)
    torch.testing.assert_close(into_ball(point, center, 0.25), 0.5 * point)
    assert torch.equal(into_ball(point, center, 0.0), center)
