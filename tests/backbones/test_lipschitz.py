"""The constant that a net of orthogonal layers proves for itself, against everything that could exceed it."""

import pytest
import torch
from torch import nn

from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet, PairSort, Patches, spectral_norm_bound

SHAPES = {
    "perceptron": ({"widths": (32, 24), "patch": 4, "num_classes": 5}, (1, 4, 4)),
    "patches": (
        {"widths": (12, 16), "patch": 2, "halve": True, "num_classes": 5, "mean": (0.1, 0.4), "std": (0.5, 0.8)},
        (2, 8, 8),
    ),
}


def random_net(name, seed=0, scale=1.0):
    """A net with weights that are orthogonal times ``scale``, and biases that are not zero, in float64."""
    torch.manual_seed(seed)
    arguments, shape = SHAPES[name]
    net = LipschitzNet(**arguments).double()
    with torch.no_grad():
        for layer in net.linear_layers():
            layer.bias.normal_(0.0, 0.3)
            layer.weight *= scale
    return net, shape


@pytest.mark.parametrize("name", SHAPES)
def test_the_constant_is_1_over_the_standard_deviation(name):
    net, _ = random_net(name)
    assert net.lipschitz == pytest.approx(1.0 / float(net.std.min()), rel=1e-5)
    assert net.lipschitz >= 1.0 / float(net.std.min())
    with torch.no_grad():
        next(net.linear_layers()).weight *= 3.0
    assert net.lipschitz >= 3.0 / float(net.std.min())


def test_the_bound_allows_for_the_rounding_of_long_sums():
    """A sum of n products of float64 numbers rounds by up to n units of 2^-53 of the product of the norms."""
    rows = torch.eye(2, 2**20)
    assert spectral_norm_bound(rows) ** 2 >= 1.0 + 2 * 2**20 * 2.0**-53
    assert spectral_norm_bound(rows.T) == spectral_norm_bound(rows)
    assert spectral_norm_bound(torch.eye(3)) == (1.0 + 1e-10) ** 0.5


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_no_pair_of_images_is_moved_farther_apart(name, scale):
    net, shape = random_net(name, scale=scale)
    images = torch.rand(120, *shape, dtype=torch.float64)
    images[60:] = images[:60] + 1e-3 * torch.randn(60, *shape, dtype=torch.float64)
    logits = net(images).detach()
    # Not by products, in which small distances drown.
    apart, moved = (torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in (images.flatten(1), logits))
    assert (moved <= net.lipschitz * apart + 1e-12).all()


@pytest.mark.parametrize("name", SHAPES)
def test_by_power_iteration_the_jacobian_is_within_the_constant_and_a_perceptrons_reaches_it(name):
    net, shape = random_net(name)
    largest = 0.0
    for seed in range(5):
        image = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x)[0], image).reshape(5, -1)
        vector = torch.randn(jacobian.shape[1], dtype=torch.float64)
        for _ in range(200):
            vector = jacobian.T @ (jacobian @ vector)
            vector /= vector.norm()
        norm = float((jacobian @ vector).norm())
        assert norm == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-3)
        assert norm <= net.lipschitz
        largest = max(largest, norm)
    if name == "perceptron":  # its matrices first widen, then narrow: some direction passes through all of them
        assert largest > 0.5


@pytest.mark.parametrize("name", SHAPES)
def test_an_attack_on_the_constant_itself_does_not_exceed_it(name):
    net, shape = random_net(name)
    images = torch.rand(8, *shape, dtype=torch.float64)
    before, eps = net(images).detach(), 0.2

    def moved(output, labels):
        return (output - before).norm(dim=1)

    labels = torch.full((8,), -1)
    points = pgd(
        net, images, labels, eps=eps, step_size=0.05, steps=60, norm="L2", random_start=True, loss=moved, seed=0
    )
    lengths = (points - images).flatten(1).norm(dim=1)
    distances = (net(points) - before).norm(dim=1).detach()
    assert (distances <= net.lipschitz * lengths + 1e-12).all()
    assert (distances > 0.05 * eps).all()


def test_sorting_pairs_is_a_permutation_and_no_farther_apart():
    sort = PairSort()
    features = torch.randn(50, 6, 2, 3, dtype=torch.float64)
    out = sort(features)
    torch.testing.assert_close(out.sort(dim=1).values, features.sort(dim=1).values)
    assert (out[:, :3] >= out[:, 3:]).all()
    other = torch.randn(50, 6, 2, 3, dtype=torch.float64)
    assert ((sort(other) - out).flatten(1).norm(dim=1) <= (other - features).flatten(1).norm(dim=1) + 1e-12).all()


@pytest.mark.parametrize("shape", [(5, 5), (3, 9), (9, 3)])
def test_the_bound_of_a_matrix_holds_for_every_matrix_and_is_close_for_an_orthogonal_one(shape):
    generator = torch.Generator().manual_seed(1)
    for size in (0.0, 1e-6, 0.1, 3.0):
        matrix = nn.init.orthogonal_(torch.empty(shape), generator=generator)
        matrix += size * torch.randn(shape, generator=generator)
        exact = float(torch.linalg.matrix_norm(matrix.double(), 2))
        assert exact <= spectral_norm_bound(matrix)
        if size < 1e-3:
            assert spectral_norm_bound(matrix) == pytest.approx(exact, abs=1e-5)


def test_parametrized_weights_are_orthogonal_in_training_and_plain_ones_afterwards():
    torch.manual_seed(0)
    net = LipschitzNet(widths=(16, 12), patch=4, num_classes=5)
    keys, images = list(net.state_dict()), torch.rand(6, 1, 4, 4)
    before = net(images)
    assert net.parametrize() is net
    torch.testing.assert_close(net(images), before, atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(10 * net(images), torch.tensor([0, 1, 2, 3, 4, 0])).backward()
        optimizer.step()
        assert net.lipschitz == pytest.approx(1.0, abs=1e-4)
    trained = net(images)
    assert (trained - before).abs().max() > 0.05
    assert net.freeze() is net
    torch.testing.assert_close(net(images), trained, atol=1e-5, rtol=1e-5)
    assert sorted(net.state_dict()) == sorted(keys)
    assert net.lipschitz == pytest.approx(1.0, abs=1e-5)
    assert type(next(net.linear_layers()).weight) is nn.Parameter


def test_without_a_head_the_features_keep_the_constant():
    net, shape = random_net("perceptron")
    net.reset_classifier(0)
    assert net.lipschitz == pytest.approx(1.0, rel=1e-5)
    assert net(torch.rand(2, *shape, dtype=torch.float64)).shape == (2, 24)


def test_patches_are_those_of_pixel_unshuffle_also_of_no_images():
    features = torch.rand(2, 3, 8, 12)
    for side in (1, 2, 4):
        assert torch.equal(Patches(side)(features), nn.PixelUnshuffle(side)(features))
    assert Patches(4)(features[:0]).shape == (0, 48, 2, 3)
    with pytest.raises(ValueError, match="8 x 12 cannot be cut into patches of 5 x 5"):
        Patches(5)(features)


class Doubled(LipschitzNet):
    def forward_head(self, features, pre_logits=False):
        return 2 * super().forward_head(features, pre_logits)


def changed_nets():
    arguments, _ = SHAPES["patches"]
    yield Doubled(**arguments)
    for name, layer in (
        ("stem", nn.Sequential(Patches(2), nn.Linear(4, 4))),
        ("final", nn.Linear(4, 4)),
        ("head", nn.Sequential(nn.Linear(16, 5), nn.Linear(5, 5))),
    ):
        net = LipschitzNet(**arguments)
        setattr(net, name, layer)
        yield net
    net = LipschitzNet(**arguments)
    net.stages[0].append(nn.BatchNorm2d(12))
    yield net
    net = LipschitzNet(**arguments)
    net.stages[0].register_forward_hook(lambda module, inputs, output: 3 * output)
    yield net
    net = LipschitzNet(**arguments)
    net.forward_features = lambda images: 3 * LipschitzNet.forward_features(net, images)
    yield net


@pytest.mark.parametrize(
    "net", list(changed_nets()), ids=["subclass", "stem", "final", "head", "stage", "hook", "method"]
)
def test_a_net_that_was_changed_proves_nothing(net):
    with pytest.raises(ValueError, match="no constant is proven"):
        _ = net.lipschitz
