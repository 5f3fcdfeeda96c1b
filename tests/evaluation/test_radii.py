"""Several radii in one run, and examples that come in batches."""

import numpy as np
import pytest
import torch
from test_evaluate import IMAGES, Linear
from torch.utils.data import DataLoader, TensorDataset

from adaptive_smoothing_zoo import ThreatModel
from adaptive_smoothing_zoo.attacks.settings import AttackSettings, Plan
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.evaluation import evaluate, evaluate_radii

SHORT = AttackSettings(attacks=(Plan("apgd-ce", iterations=25), Plan("apgd-t", iterations=25)))


def a_case(norm):
    """A linear net, labels of which one is wrong, how far each point is, and three radii between the points."""
    torch.manual_seed(7)
    model = Linear()
    labels = model(IMAGES).argmax(1)
    labels[0] = (labels[0] + 1) % 4
    distance = model.distance(IMAGES, labels, norm).detach().clamp(min=0.0)
    rising = distance.sort().values
    radii = [float(rising[i : i + 2].mean()) for i in (2, 5, 8)]
    return model, labels, distance, [ThreatModel(norm, radius) for radius in radii]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_each_radius_has_the_closed_form_s_accuracy_and_keeps_smaller_finds(norm):
    model, labels, distance, threats = a_case(norm)
    found = list(evaluate_radii(model, IMAGES, labels, threats=threats[::-1], settings=SHORT))
    assert [one.threat for one in found] == threats
    for one, smaller in zip(found, [None, *found], strict=False):
        clear = (distance - one.eps).abs() > 1e-3
        np.testing.assert_array_equal(one.robust[clear], (distance > one.eps)[clear].numpy())
        alone = evaluate(model, IMAGES, labels, threat=one.threat, settings=SHORT)
        assert not (one.robust & ~alone.robust).any()
        assert one.threat.contains(IMAGES, torch.from_numpy(one.adversarials)).all()
        assert one.clean_accuracy == 11 / 12
        assert one.broken_by[0] == "clean"
        if smaller is None:
            assert one.settings.begun_at is None
            np.testing.assert_array_equal(one.adversarials, alone.adversarials)
        else:
            assert one.settings.begun_at == smaller.eps
            assert f"begun from the adversarial examples of radius {smaller.eps}" in one.settings.protocol
            before = ~smaller.robust
            np.testing.assert_array_equal(one.adversarials[before], smaller.adversarials[before])
            np.testing.assert_array_equal(one.broken_by[before], smaller.broken_by[before])


def test_what_is_broken_is_not_attacked_again():
    model, labels, _, threats = a_case("Linf")
    attacked = []

    def note(progress):
        if progress.attack == "apgd-ce":
            attacked.append(progress.total - progress.done)

    first, _ = evaluate_radii(model, IMAGES, labels, threats=threats[:2], settings=SHORT, on_progress=note)
    assert max(attacked) == 11
    attacked.clear()
    evaluate(model, IMAGES, labels, threat=threats[1], settings=SHORT, smaller=first, on_progress=note)
    assert max(attacked) == int(first.robust.sum())


class Interrupted(BaseException):
    """As Ctrl-C."""


def test_a_run_of_radii_resumes_in_the_middle_of_one(tmp_path):
    model, labels, _, threats = a_case("Linf")
    about = {"threats": threats, "settings": SHORT, "state": tmp_path / "state", "flush_seconds": 0.0}
    whole = list(evaluate_radii(model, IMAGES, labels, **about | {"state": None}))
    begun, calls = [], iter(range(1, 10**6))

    def stop(progress):
        if begun and progress.attack == "apgd-t" and next(calls) == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        begun.extend(one.eps for one in _noted(begun, evaluate_radii(model, IMAGES, labels, **about, on_progress=stop)))
    assert begun
    again = list(evaluate_radii(model, IMAGES, labels, **about))
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one.adversarials, other.adversarials)
        np.testing.assert_array_equal(one.broken_by, other.broken_by)
        assert one.accuracy_after == other.accuracy_after
        assert one.settings == other.settings
    state = tmp_path / "state" / f"Linf-{threats[1].eps!r}"
    with pytest.raises(ResultsError, match="made with"):
        evaluate(model, IMAGES, labels, threat=threats[1], settings=SHORT, state=state)


def _noted(begun, evaluations):
    for one in evaluations:
        begun.append(one.eps)
        yield one


def test_radii_that_cannot_be_meant_are_refused():
    model, labels, _, threats = a_case("Linf")
    for wrong in ([], [threats[0], threats[0]], [threats[0], ThreatModel("L2", 0.5)]):
        with pytest.raises(ValueError, match="different radii of one norm"):
            evaluate_radii(model, IMAGES, labels, threats=wrong)
    with pytest.raises(TypeError, match="threats must be ThreatModels, as"):
        evaluate_radii(model, IMAGES, labels, threats=["0.1", "0.2"])
    with pytest.raises(TypeError, match="must be an Evaluation returned by evaluate, got float"):
        evaluate(model, IMAGES, labels, eps=0.1, smaller=0.05)
    with pytest.raises(ValueError, match="run one radius at a time"):
        evaluate_radii(model, IMAGES, labels, threats=threats, settings=AttackSettings(individual=True))
    first = evaluate(model, IMAGES, labels, eps=0.05, settings=SHORT)
    other = AttackSettings(attacks=(Plan("apgd-dlr", iterations=1),))
    with pytest.raises(ResultsError, match="belongs to an attack that this evaluation does not have"):
        evaluate(model, IMAGES, labels, eps=0.1, smaller=first, settings=other)
    single = evaluate(model, IMAGES, labels, eps=0.0)
    for threat in (ThreatModel("L2", 0.1), ThreatModel("Linf", 0.0)):
        with pytest.raises(ValueError, match="must be smaller than that of"):
            evaluate(model, IMAGES, labels, threat=threat, smaller=single)


@pytest.mark.parametrize("batch_size", [5, 12])
def test_a_loader_is_as_good_as_its_tensors(batch_size):
    model, labels, _, threats = a_case("Linf")
    expected = evaluate(model, IMAGES, labels, threat=threats[1], settings=SHORT)
    loader = DataLoader(TensorDataset(IMAGES, labels), batch_size=batch_size)
    plain = [[images.clone(), classes.clone()] for images, classes in loader]
    for batches in (loader, plain, iter(plain)):
        found = evaluate(model, batches, threat=threats[1], settings=SHORT)
        np.testing.assert_array_equal(found.adversarials, expected.adversarials)
        np.testing.assert_array_equal(found.broken_by, expected.broken_by)
    assert torch.equal(plain[0][0], IMAGES[:batch_size])


def test_a_loader_that_shuffles_is_read_once_and_refused_where_a_state_must_resume(tmp_path):
    model, labels, distance, threats = a_case("Linf")
    loader = DataLoader(TensorDataset(IMAGES, labels), batch_size=5, shuffle=True)
    found = evaluate(model, loader, threat=threats[1], settings=SHORT)
    assert found.robust.sum() == (distance > threats[1].eps).sum()
    with pytest.raises(ValueError, match="give a loader with shuffle=False"):
        evaluate(model, loader, threat=threats[1], state=tmp_path / "state")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (TensorDataset(IMAGES, torch.zeros(12).long()), r"not a TensorDataset; a dataset becomes one by DataLoader"),
        (3, "not a int"),
        ((IMAGES, torch.zeros(12).long()), r"batch 0 is a tensor \(12, 1, 6, 6\)"),
        ([(IMAGES[0], torch.zeros(1).long())], r"batch 0 is a tuple of 2: \(1, 6, 6\), \(1,\)"),
        ([(IMAGES, torch.zeros(12).long()), (IMAGES, [0] * 12)], r"batch 1 is a tuple of 2: \(12, 1, 6, 6\), list"),
        ([{"image": IMAGES}], "batch 0 is a dict"),
        (["ab"], "batch 0 is a str"),
    ],
)
def test_what_is_neither_tensors_nor_batches_is_refused(examples, message):
    with pytest.raises(TypeError, match=message):
        evaluate(Linear(), examples, eps=0.1)


def test_batches_are_checked_as_tensors_are():
    with pytest.raises(ValueError, match="no images"):
        evaluate(Linear(), [], eps=0.1)
    with pytest.raises(ValueError, match="divide images of 0 to 255"):
        evaluate(Linear(), [(255 * IMAGES, torch.zeros(12).long())], eps=0.1)
