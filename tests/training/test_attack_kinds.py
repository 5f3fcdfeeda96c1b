"""Kinds of attacks for training: by name, with pseudo-labels by how an image is attacked, and the door's example."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quadrants import IMAGES, LABELS, a_net

from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork
from adaptive_smoothing_zoo.attacks.losses import cross_entropy
from adaptive_smoothing_zoo.attacks.randomized import Randomization, randomized_pgd
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.storage.bound_state import BINDING
from adaptive_smoothing_zoo.training import attack_kinds
from adaptive_smoothing_zoo.training.composite_loss import CompositeLoss
from adaptive_smoothing_zoo.training.mixing_training import (
    MixingTask,
    MixingTraining,
    TrainingAttack,
    train_mixing_network,
)
from adaptive_smoothing_zoo.training.training_attack import AttackKind, register_kind
from adaptive_smoothing_zoo.training.workers import Workers

DOOR = Path(__file__).parents[2] / "docs" / "doors" / "training_attack.md"
CPU = Workers(torch.device("cpu"))
SHORT = Randomization(steps=3)


def a_mix():
    """Of two nets that are not alike."""
    torch.manual_seed(5)
    rob_model = build("small_cnn", widths=(4, 8), num_classes=4)
    torch.manual_seed(1)
    return MixedClassifier(a_net(), rob_model, AdaptiveAlpha(MixingNetwork(8, 16, (8, 8, 8))))


def settings(setting, **changes):
    attack = {"eps": 0.2, "randomization": SHORT} | changes.pop("attack", {})
    return MixingTraining(epochs=1, batch_size=16, attack=TrainingAttack(setting=setting, **attack), **changes)


def task(setting, **changes):
    return MixingTask(a_mix().eval(), IMAGES, LABELS, settings(setting, **changes), CPU)


def attacked(made):
    batch = made.batch(0)
    return batch, made._attack(batch, made._outputs(batch.images))


def test_an_image_of_t_is_attacked_on_the_mix_with_its_own_alpha_t():
    made = task("T")
    batch, found = attacked(made)
    logits = attack_kinds.alpha_t_logits(made.settings.attack, batch)
    assert bool(((logits >= -8) & (logits <= 16)).all())
    assert logits.std() > 3
    options = {"norm": "Linf", "eps": 0.2, "seed": batch.seed, "settings": replace(SHORT, alpha_weight=None)}
    for i in (0, 7):
        alpha = float(logits[i].double().sigmoid())

        def one(points, alpha=alpha):
            """The mix by its formula."""
            std, rob = (net(points).softmax(1) for net in (made.model.std_model, made.model.rob_model))
            return ((1 - alpha) * std + alpha * rob).log()

        rows = slice(i, i + 1)
        alone = randomized_pgd(one, batch.images[rows], batch.labels[rows], indices=batch.indices[rows], **options)
        torch.testing.assert_close(found.images[rows], alone, atol=1e-5, rtol=0)
    assert torch.equal(found.use_rob, (logits <= 5.72).float())
    assert 0 < found.use_rob.sum() < len(logits)


def test_bt_is_b_or_t_for_each_image():
    made = task("BT")
    batch, found = attacked(made)
    others = {}
    for name in ("B", "T"):
        kind, given = AttackKind.known[name], made
        with_setting = replace(given.settings, attack=replace(given.settings.attack, setting=name))
        others[name] = attacked(MixingTask(a_mix().eval(), IMAGES, LABELS, with_setting, CPU))[1]
        assert kind.runs(with_setting.attack, 4) == 1
    from_b, from_t = (
        torch.isclose(found.images, others[name].images, atol=1e-6).flatten(1).all(dim=1) for name in ("B", "T")
    )
    assert bool((from_b | from_t).all())
    assert 0 < int(from_t.sum()) < len(batch.labels)
    assert torch.equal(found.use_rob[from_b & ~from_t], torch.ones(int((from_b & ~from_t).sum())))
    assert torch.equal(found.use_rob[from_t & ~from_b], others["T"].use_rob[from_t & ~from_b])


@pytest.mark.parametrize("rule", ["attacked", "attack", "better"])
def test_pseudo_labels_are_those_of_the_rule_and_clean_images_stay_with_g(rule):
    made = task("T", pseudo_labels=rule)
    (parts,), _ = made.round(0)
    batch, found = attacked(made)
    (order,) = made._split(batch.seed, "attacked")
    outputs = made._outputs(found.images)
    g, h = (log.argmax(1) == batch.labels for log in (outputs.log_std, outputs.log_rob))
    expected = {
        "attacked": torch.ones(16),
        "attack": found.use_rob,
        "better": torch.tensor([0.0 if a and not b else 1.0 for a, b in zip(g, h, strict=True)]),
    }[rule]
    assert rule == "attacked" or 0 < int(expected.sum()) < 16
    assert torch.equal(parts[0].use_rob, torch.cat([torch.zeros(16), expected[order]]))


def test_attacked_images_have_no_clean_weight_though_alpha_is_told_to_use_g():
    plain, weighted = (task("T", pseudo_labels="attack", loss=CompositeLoss(clean_weight=w)) for w in (1.0, 2.0))
    (parts,), _ = plain.round(0)
    (first, _), (second, _) = (made.losses(plain.learner, parts[0]) for made in (plain, weighted))
    assert bool((parts[0].use_rob[16:] == 0).any())
    torch.testing.assert_close(second / first, torch.cat([torch.full((16,), 2.0), torch.ones(16)]))


def test_rules_and_kinds_that_are_none_are_refused():
    with pytest.raises(ValueError, match="pseudo_labels must be 'attacked', 'attack' or 'better', got 'mine'"):
        settings("T", pseudo_labels="mine")
    with pytest.raises(ValueError, match="there is already a training attack 'B'"):
        register_kind("B")(lambda given, batch: None)


def test_a_training_of_before_these_settings_resumes_and_another_rule_is_another_training(tmp_path):
    model = a_mix()
    train_mixing_network(model, IMAGES, LABELS, settings("B"), folder=tmp_path)
    binding = json.loads((tmp_path / BINDING).read_text())
    for name in ("alpha_t_logits", "rob_until"):
        del binding["settings"]["attack"][name]
    del binding["settings"]["pseudo_labels"]
    (tmp_path / BINDING).write_text(json.dumps(binding))
    rounds = []
    again = a_mix()
    train_mixing_network(again, IMAGES, LABELS, settings("B"), folder=tmp_path, on_progress=rounds.append)
    assert not rounds
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    with pytest.raises(ResultsError, match="pseudo_labels"):
        train_mixing_network(a_mix(), IMAGES, LABELS, settings("B", pseudo_labels="better"), folder=tmp_path)


def test_the_example_of_the_door_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(AttackKind, "known", dict(AttackKind.known))
    (code,) = re.findall(r"```python\n(.*?)```", DOOR.read_text(), re.DOTALL)
    made = {"__name__": "fgsm_kind"}
    exec(code, made)
    with_kind = task("fgsm", pseudo_labels="attack")
    batch, found = attacked(with_kind)
    points = batch.images.clone().requires_grad_()
    loss = cross_entropy(with_kind.model.rob_model(points), batch.labels).sum()
    (gradient,) = torch.autograd.grad(loss, points)
    expected = (batch.images + 0.2 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(found.images, expected)
    assert not bool(found.use_rob.any())
    train_mixing_network(a_mix(), IMAGES, LABELS, settings("fgsm"), folder=tmp_path)
    assert json.loads((tmp_path / BINDING).read_text())["settings"]["attack"]["setting"] == "fgsm"
