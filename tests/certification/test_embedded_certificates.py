"""The embedded triplets that are certified: no attack inside a radius, on any test point; records of these weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.objectives import cross_entropy, cw_margin, probability_margin
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification import certify_lipschitz, margin_needed, read_log
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.publishing.certification import certification_path, read_certification
from adaptive_smoothing_zoo.publishing.results import tensors_sha256
from adaptive_smoothing_zoo.zoo.registry import list_models

RESULTS = Path(__file__).parents[2] / "eval" / "results"
CERTIFIED = [
    entry
    for entry in list_models()
    if entry.weights.embedded and entry.rob_model.architecture in ("lipschitz", "gaussian_smoothed")
]


@pytest.fixture(scope="module")
def model():
    return load_model("Demo2026Lipschitz", dataset="digits", threat_model="L2")


@pytest.fixture(scope="module")
def examples():
    return load_data("digits")


@pytest.fixture(scope="module")
def certificates(model, examples):
    return certify_lipschitz(model, examples.images, examples.labels, bound="sharp")


def test_there_is_one():
    assert "Demo2026Lipschitz" in [entry.name for entry in CERTIFIED]


@pytest.mark.parametrize("entry", CERTIFIED, ids=lambda entry: entry.key)
def test_recorded_certificates_are_of_these_weights(entry):
    triplet = load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model)
    record = read_certification(RESULTS, entry)
    assert record.weights_sha256 == tensors_sha256(triplet.state_dict())
    for bound in record.bounds.values():
        log = read_log(certification_path(RESULTS, entry, "x").with_name(bound.log))
        assert log.average_certified_radius() == bound.average_radius
        np.testing.assert_array_equal(log.certified_accuracy(record.radii), bound.certified_accuracy)


def test_the_net_is_1_lipschitz_and_no_pair_of_test_images_says_otherwise(model, examples):
    net = model.rob_model
    assert isinstance(net, LipschitzNet)
    assert net.lipschitz == pytest.approx(1.0, abs=1e-5)
    images = examples.images.double()
    layers = list(net.linear_layers())
    for layer in layers:  # against a singular value decomposition
        assert float(torch.linalg.matrix_norm(layer.weight.double(), 2)) <= net.lipschitz
    exact = load_model("Demo2026Lipschitz", dataset="digits", threat_model="L2").rob_model.double()
    with torch.no_grad():
        logits = exact(images)
    distances = (torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") for x in (images.flatten(1), logits))
    apart, moved = distances
    assert (moved <= net.lipschitz * apart + 1e-12).all()
    assert (moved / apart.clamp(min=1e-9)).max() > 0.8  # the constant is not far from what is reached


def test_certificates_are_those_of_the_record(certificates):
    record = read_certification(RESULTS, next(entry for entry in CERTIFIED if entry.name == "Demo2026Lipschitz"))
    log = read_log(RESULTS / "digits" / "L2" / "certificates" / record.bounds["sharp"].log)
    np.testing.assert_allclose(log.radius, certificates.radius, atol=1e-9)
    np.testing.assert_array_equal(log.prediction, certificates.prediction)
    assert record.clean_accuracy > 0.97


def test_theorem_4_certifies_no_more(model, examples, certificates):
    theorem = certify_lipschitz(model, examples.images, examples.labels, bound="theorem4")
    assert (theorem.radius <= certificates.radius).all()
    assert (theorem.radius > 0).mean() > 0.9


def attacked(net, examples, certificates, loss, *, share=1.0, steps=25, restarts=1):
    """The points that PGD finds within a share of each certified example's radius, and the certified labels."""
    chosen = torch.from_numpy(np.flatnonzero(certificates.radius > 0))
    labels = torch.tensor(certificates.prediction)[chosen]
    eps = torch.tensor(certificates.radius)[chosen].float() * share
    points = pgd(
        net,
        examples.images[chosen],
        labels,
        eps=eps,
        step_size=eps * 2.5 / steps,
        steps=steps,
        norm="L2",
        random_start=True,
        restarts=restarts,
        loss=loss,
        keep="best",
        seed=0,
    )
    return points, labels


@pytest.mark.parametrize("loss", [cross_entropy, cw_margin])
def test_pgd_breaks_no_certified_test_point_inside_its_radius(model, examples, certificates, loss):
    points, labels = attacked(model, examples, certificates, loss)
    assert len(labels) > 300
    assert (model(points).argmax(1) == labels).all()


@pytest.mark.slow
@pytest.mark.parametrize("loss", [cross_entropy, cw_margin, probability_margin])
def test_pgd_of_many_steps_breaks_none_either(model, examples, certificates, loss):
    points, labels = attacked(model, examples, certificates, loss, steps=200, restarts=5)
    assert (model(points).argmax(1) == labels).all()


def test_inside_the_radius_h_keeps_the_margin_that_makes_g_powerless_and_outside_it_need_not(
    model, examples, certificates
):
    h = torch.nn.Sequential(model.rob_model, model.rob_map)
    needed = float(margin_needed(model.alpha))
    with torch.no_grad():
        inside, labels = attacked(h, examples, certificates, probability_margin)
        assert (-probability_margin(h(inside), labels) >= needed - 1e-5).all()
        beyond, labels = attacked(h, examples, certificates, probability_margin, share=1.6)
        assert (-probability_margin(h(beyond), labels) < needed).double().mean() > 0.2
