"""AutoAttack's versions plus and rand, and nets that do not answer the same twice."""

import numpy as np
import pytest
import torch
from test_evaluate import IMAGES, Linear
from torch import nn

from adaptive_smoothing_zoo.attacks.losses import loss_and_gradient, target_gap
from adaptive_smoothing_zoo.attacks.settings import STANDARD, VERSIONS, AttackSettings, Plan
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation import evaluate

PARTS = {"apgd-ce": "apgd", "apgd-dlr": "apgd", "apgd-t": "apgd_targeted", "fab": "fab", "fab-t": "fab"}
NUMBERS = {"iterations": "n_iter", "restarts": "n_restarts", "targets": "n_target_classes", "eot": "eot_iter"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_version_has_the_attacks_and_numbers_of_pyautoattacks(version, norm):
    from pyautoattack import AutoAttack

    theirs = AutoAttack(Linear(10), norm=norm, eps=0.1, version=version)
    settings = AttackSettings.version(version, seed=3)
    assert list(settings.names) == theirs.attacks_to_run
    for plan in settings.attacks:
        if plan.name == "square":
            assert plan.numbers == {"queries": theirs.square.n_queries}
            continue
        part = getattr(theirs, PARTS[plan.name])
        numbers = {"iterations", "restarts", *({"targets"} if plan.name.endswith("-t") else set())}
        numbers |= {"eot"} if plan.name.startswith("apgd") else set()
        expected = {name: getattr(part, NUMBERS[name]) for name in numbers}
        if plan.name == "fab-t":  # whose restarts pyautoattack sets to one when it runs
            del expected["restarts"]
        assert plan.numbers == expected
    assert settings.is_standard == (version == "standard")
    assert settings.protocol.startswith({"standard": ""}.get(version, "not standard: ") + f"AutoAttack {version}")
    assert "custom" not in settings.protocol


def test_an_unknown_version_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="unknown version 'fast'; known: standard, plus, rand"):
        AttackSettings.version("fast")


def test_verdicts_of_plus_equal_pyautoattacks_own_run():
    from pyautoattack import AutoAttack

    torch.manual_seed(5)
    model = Linear(5).requires_grad_(False)
    images = IMAGES[:6]
    labels = model(images).argmax(1)
    eps = float(model.distance(images, labels, "L2").median())
    settings = AttackSettings.version("plus", engine="reference", seed=7, batch_size=4)
    ours = evaluate(model, images, labels, norm="L2", eps=eps, settings=settings.limited(iterations=12, queries=30))
    attack = AutoAttack(model, norm="L2", eps=eps, seed=7, version="plus", device="cpu")
    attack.square.n_queries = 30
    for part in (attack.apgd, attack.apgd_targeted, attack.fab):
        part.n_iter = 12
    for part in (attack.apgd, attack.apgd_targeted):
        part.n_iter_2, part.n_iter_min, part.size_decr, part.n_target_classes = 2, 1, 1, 4
    attack.fab.n_target_classes = 4
    adversarials, _ = attack.run_standard_evaluation(images, labels, batch_size=4)
    theirs = (model(adversarials).argmax(1) == labels).numpy()
    assert 0 < theirs.sum() < len(theirs)
    np.testing.assert_array_equal(ours.robust, theirs)
    np.testing.assert_array_equal(ours.adversarials, adversarials.numpy())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_plus_agrees_with_the_closed_form_on_a_linear_net_attack_by_attack(norm):
    torch.manual_seed(4)
    model = Linear(5)
    labels = model(IMAGES).argmax(1)
    distance = model.distance(IMAGES, labels, norm).detach()
    eps = float(distance.median())
    clear = (distance - eps).abs() > 1e-3
    for plan in AttackSettings.version("plus").limited(iterations=40, restarts=2).attacks:
        if plan.name not in ("apgd-dlr", "fab"):  # the others have their tests
            continue
        found = evaluate(model, IMAGES, labels, norm=norm, eps=eps, settings=AttackSettings(attacks=(plan,)))
        np.testing.assert_array_equal(found.robust[clear], (distance > eps)[clear].numpy())
        other = evaluate(
            model, IMAGES, labels, norm=norm, eps=eps, settings=AttackSettings(attacks=(plan,), batch_size=5)
        )
        np.testing.assert_array_equal(found.robust, other.robust)


class Louder(nn.Module):
    """A linear net times 1, 2, 3, ... from pass to pass."""

    def __init__(self, net):
        super().__init__()
        self.net, self.passes = net, 0

    def forward(self, images):
        self.passes += 1
        return self.passes * self.net(images)


def test_the_mean_of_gradients_is_the_closed_form_s():
    net = Linear().requires_grad_(False)
    weight, labels = net.layer.weight, torch.zeros(12, dtype=torch.int64)
    targets = torch.arange(12) % 3 + 1
    expected = (weight[targets] - weight[labels]).view(12, 1, 6, 6)

    def loss(logits):
        return target_gap(logits, labels, targets)

    logits, losses, gradient = loss_and_gradient(Louder(net), IMAGES, loss, passes=4)
    torch.testing.assert_close(gradient, 2.5 * expected)
    torch.testing.assert_close(logits, 4 * net(IMAGES))  # of the last pass, as in AutoAttack
    torch.testing.assert_close(losses, loss(logits))
    torch.testing.assert_close(loss_and_gradient(Louder(net), IMAGES, loss)[2], expected)


class Doubtful(nn.Module):
    """A linear net that is sure of the clean images, and elsewhere says something wrong in half of its passes."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        logits = self.net(images)
        clean = (images[:, None] == IMAGES[None]).flatten(2).all(2).any(1)
        wrong = (torch.rand(len(images)) < 0.5) & ~clean
        return torch.where(wrong[:, None], -logits, logits) + 1e-3 * torch.rand(len(images), 1)


RAND = AttackSettings.version("rand").limited(iterations=8, eot=3)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_randomized_net_is_judged_by_one_pass_under_rand(engine):
    torch.manual_seed(0)
    net = Linear()
    model, labels = Doubtful(net), net(IMAGES).argmax(1)
    settings = AttackSettings(attacks=RAND.attacks, engine=engine)
    found = evaluate(model, IMAGES, labels, eps=1e-3, settings=settings)
    assert 0 < found.robust.sum() < 12  # a half of a half, by one pass after each of two attacks
    assert not found.deterministic
    assert not any("randomized" in warning for warning in found.warnings)
    assert found.settings.protocol.endswith("; eot 3, judged by one pass")
    assert not found.settings.is_standard
    broken = torch.from_numpy(~found.robust)
    assert (torch.from_numpy(found.adversarials) != IMAGES).flatten(1).any(1).equal(broken)


def test_under_standard_it_is_warned_of_with_the_way_out_and_refused_where_it_would_be_no_number():
    net = Linear()
    labels = net(IMAGES).argmax(1)

    class Noisy(nn.Module):
        def forward(self, images):
            return net(images) + 0.01 * torch.randn(len(images), 4)

    seen = []
    found = evaluate(Noisy(), IMAGES, labels, eps=0.0, on_progress=seen.append)
    assert any("randomized" in text and "asz eval --version rand" in text for text in found.warnings)
    assert not seen[0].warnings
    assert seen[-1].warnings == found.warnings
    torch.manual_seed(0)
    with pytest.raises(EvaluationError, match=r"for a randomized net use .*asz eval --version rand"):
        evaluate(Doubtful(net), IMAGES, labels, eps=1e-3, settings=STANDARD.limited(iterations=8, queries=4))


def test_a_run_of_means_lasts_to_its_end_and_keeps_its_last_find():
    """A lucky pass at the beginning is no find that lasts."""
    net = Linear()
    labels = net(IMAGES).argmax(1)
    eps = float(net.distance(IMAGES, labels, "Linf").detach().max()) * 1.5
    settings = AttackSettings(attacks=(Plan("apgd-ce", iterations=10),))
    first = evaluate(net, IMAGES, labels, eps=eps, settings=settings)
    last = evaluate(net, IMAGES, labels, eps=eps, settings=settings.limited(eot=2))
    assert not first.robust.any()
    assert not last.robust.any()
    margins = [net.distance(torch.from_numpy(found.adversarials), labels, "Linf") for found in (first, last)]
    assert margins[1].mean() < margins[0].mean() - 0.01
