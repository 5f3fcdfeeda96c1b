"""Nets of two and three classes: losses that need more step aside, and the record says so."""

import numpy as np
import pytest
import torch
from test_evaluate import IMAGES, Linear

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.attacks.catalogue import fitted
from adaptive_smoothing_zoo.attacks.contract import Entry
from adaptive_smoothing_zoo.attacks.settings import STANDARD, AttackSettings, Plan
from adaptive_smoothing_zoo.errors import EvaluationError
from adaptive_smoothing_zoo.evaluation import evaluate, merge
from adaptive_smoothing_zoo.evaluation.adapt import evaluate_adaptive

STANDS_IN = {
    "fast": ("apgd-ce", "apgd-gap", "fab-t", "square"),
    "reference": ("apgd-ce", "fab-t", "square"),
}


@pytest.mark.parametrize("engine", STANDS_IN)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_rest_of_the_protocol_agrees_with_the_closed_form(classes, norm, engine):
    torch.manual_seed(2)
    model = Linear(classes)
    labels = model(IMAGES).argmax(1)
    distance = model.distance(IMAGES, labels, norm).detach()
    eps = float(distance.median())
    clear = (distance - eps).abs() > 1e-3
    settings = AttackSettings(engine=engine, batch_size=7).limited(iterations=40, queries=50)
    found = evaluate(model, IMAGES, labels, norm=norm, eps=eps, settings=settings)
    np.testing.assert_array_equal(found.robust[clear], (distance > eps)[clear].numpy())
    assert 0 < found.robust.sum() < 12
    assert found.settings.names == tuple(found.accuracy_after)[1:] == STANDS_IN[engine]
    assert found.settings.aside == ("apgd-t",)
    assert not found.settings.is_standard
    assert "without apgd-t, for which the model has too few classes" in found.settings.protocol
    assert not any("DLR" in warning for warning in found.warnings)


def test_what_stands_in_finds_what_the_attack_in_whose_place_it_is_would_find():
    """On four classes, where both run."""
    torch.manual_seed(3)
    model = Linear()
    labels = model(IMAGES).argmax(1)
    eps = float(model.distance(IMAGES, labels, "Linf").detach().median())
    for name in ("apgd-t", "apgd-dlr"):
        theirs, ours = (
            evaluate(model, IMAGES, labels, eps=eps, settings=AttackSettings(attacks=(Plan(attack, iterations=40),)))
            for attack in (name, Entry.known[name].instead)
        )
        assert 0 < theirs.robust.sum() < 12
        np.testing.assert_array_equal(ours.robust, theirs.robust)


def test_numbers_go_along_and_nothing_steps_aside_where_it_need_not():
    short = STANDARD.limited(iterations=7, targets=2, eot=3)
    assert fitted(short, 4) == short
    found = fitted(short, 3)
    assert found.plan("apgd-gap") == Plan("apgd-gap", iterations=7, targets=2, restarts=1, eot=3)
    assert fitted(found, 3) == found
    assert fitted(STANDARD, 10) == STANDARD
    both = AttackSettings(attacks=("apgd-gap", "apgd-t"))
    assert fitted(both, 3).names == ("apgd-gap",)
    dlr = AttackSettings(attacks=("apgd-dlr",))
    assert [fitted(dlr, classes).names for classes in (2, 3)] == [("apgd-cw",), ("apgd-dlr",)]
    with pytest.raises(ValueError, match="the loss of apgd-t needs at least 4 classes, got 3"):
        fitted(AttackSettings(attacks=("apgd-t",), engine="reference"), 3)
    labels, alone = torch.zeros(12, dtype=torch.int64), AttackSettings(attacks=("apgd-t",), engine="reference")
    with pytest.raises(EvaluationError, match="at least 4 classes, got 2"):
        evaluate(Linear(2), IMAGES, labels, eps=0.1, settings=alone)


def test_shards_are_merged_and_adaptive_attacks_have_their_stand_ins(tmp_path):
    torch.manual_seed(1)
    model = MixedClassifier(Linear(3), Linear(3), 0.6).eval()
    labels = model(IMAGES).argmax(1)
    about = {"eps": 0.01, "settings": STANDARD.limited(iterations=3, queries=5)}
    for i in range(2):
        evaluate(model, IMAGES, labels, **about, shard=(i, 2), state=tmp_path / f"{i}")
    whole = merge([tmp_path / "0", tmp_path / "1"], IMAGES, labels, model=model)
    assert whole.settings.aside == ("apgd-t",)
    settings = AttackSettings(attacks=(Plan("apgd-t-pinned", iterations=2), Plan("apgd-p-mix", iterations=2)))
    adapted = evaluate_adaptive(model, IMAGES, labels, whole, eps=0.01, settings=settings)
    assert tuple(adapted.accuracy_after)[1:] == adapted.settings.names == ("apgd-gap-pinned", "apgd-p-mix")
    assert adapted.settings.aside == ("apgd-t-pinned",)
