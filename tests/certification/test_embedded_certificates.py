"""The embedded triplets that are certified: no attack inside a radius, on any test point; records of these weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, cw_margin, probability_margin
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification import certify_lipschitz, certify_mix, mix_certificates, read_log
from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.publishing.certification_record import (
    CertificationRecord,
    certification_path,
    read_certification,
)
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.schema import parse, read_json, to_json
from adaptive_smoothing_zoo.zoo.registry import list_models

RESULTS = Path(__file__).parents[2] / "eval" / "results"
CERTIFIED = [
    entry
    for entry in list_models()
    if entry.comes_along and entry.rob_model.architecture in ("lipschitz", "gaussian_smoothed")
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


def test_there_are_two():
    assert {"Demo2026Lipschitz", "Demo2026Smoothed"} <= {entry.name for entry in CERTIFIED}


@pytest.mark.parametrize("entry", CERTIFIED, ids=lambda entry: entry.key)
def test_recorded_certificates_are_of_these_weights(entry):
    triplet = load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model)
    record = read_certification(RESULTS, entry)
    assert record.identity == identity_of(triplet)
    for bound in record.bounds.values():
        log = read_log(certification_path(RESULTS, entry, "x").with_name(bound.log))
        assert log.average_certified_radius() == bound.average_radius
        np.testing.assert_array_equal(log.certified_accuracy(record.radii), bound.certified_accuracy)


@pytest.mark.parametrize("entry", CERTIFIED, ids=lambda entry: entry.key)
def test_the_recorded_attacks_broke_no_certificate_of_these_weights(entry):
    record = read_certification(RESULTS, entry)
    attacked = json.loads(certification_path(RESULTS, entry, "attacked.json").read_text())
    assert attacked["identity"] == to_json(record.identity)
    logs = [read_log(certification_path(RESULTS, entry, "x").with_name(bound.log)) for bound in record.bounds.values()]
    reach = np.max([log.radius for log in logs], axis=0)
    assert attacked["certified"] == (reach > 0).sum()
    by_autoattack = {}
    for one in attacked["attacks"]:
        assert one["broken"] == 0
        if one["attack"].startswith("AutoAttack"):
            by_autoattack[float(one["attack"].split("radius ")[1])] = one["examples"]
        else:
            assert one["attack"].startswith("PGD")
            assert one["examples"] == attacked["certified"]
    assert sum(by_autoattack.values()) == (reach >= min(by_autoattack)).sum() == attacked["certified"]
    assert len(attacked["attacks"]) > len(by_autoattack)


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


@pytest.mark.parametrize("bound", ["theorem4", "sharp"])
def test_certificates_of_the_top_2_are_those_of_their_record(model, examples, bound):
    path = certification_path(RESULTS, model.entry, "certified-top-2.json")
    record = parse(CertificationRecord, read_json(path), str(path))
    assert (record.top_k, record.part, record.identity) == (2, "whole", identity_of(model))
    log = read_log(path.with_name(record.bounds[bound].log))
    found = certify_lipschitz(model, examples.images, examples.labels, bound=bound, top_k=2)
    np.testing.assert_allclose(log.radius, found.radius, atol=1e-9)
    np.testing.assert_array_equal(log.prediction, found.prediction)
    assert log.average_certified_radius() == record.bounds[bound].average_radius
    np.testing.assert_array_equal(log.certified_accuracy(record.radii), record.bounds[bound].certified_accuracy)
    likely = model(examples.images).topk(2, dim=1).indices
    assert (likely == examples.labels[:, None]).any(dim=1).double().mean() == record.clean_accuracy


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


@pytest.fixture(scope="module")
def smoothed():
    return load_model("Demo2026Smoothed", dataset="digits", threat_model="L2")


@pytest.fixture(scope="module")
def recorded(smoothed):
    """The recorded certificates of the mix by the sharp bound, which is never smaller than the others."""
    return read_log(certification_path(RESULTS, smoothed.entry, "certified-sharp.tsv"))


def with_bank(model, num_noises, seed):
    """The mix whose h averages over other noises."""
    h = model.rob_model
    shape = h.noise.shape[1:]
    other = GaussianSmoothed(h.voter, sigma=h.sigma, image_shape=shape, num_noises=num_noises, seed=seed, votes=h.votes)
    return MixedClassifier(model.std_model, other, model.alpha).eval()


def test_certificates_of_the_smoothed_triplet_follow_from_those_of_its_h(smoothed):
    record, h = read_certification(RESULTS, smoothed.entry), smoothed.rob_model
    assert (record.sampling.n, record.sampling.failure_probability, record.n) == (10_000, 0.001, 359)
    of_h = read_log(certification_path(RESULTS, smoothed.entry, f"rob_model.smoothed-{h.sigma:g}-{h.votes}.tsv"))
    for bound in record.bounds:
        expected = mix_certificates(of_h, smoothed.alpha, h.sigma, bound=bound)
        log = read_log(certification_path(RESULTS, smoothed.entry, f"certified-{bound}.tsv"))
        np.testing.assert_array_equal(log.radius, expected.radius)
        np.testing.assert_array_equal(log.prediction, expected.prediction)
    assert record.clean_accuracy > record.bounds["sharp"].certified_accuracy[0]  # the jump at radius 0


def test_certifying_some_examples_again_gives_the_recorded_radii(smoothed, examples, recorded):
    some = [0, 100, 200]
    again = certify_mix(smoothed, examples.images[some], examples.labels[some], bound="sharp", n=10_000, indices=some)
    np.testing.assert_allclose(again.radius, recorded.radius[some], atol=1e-4)  # kernels differ in the last bits
    np.testing.assert_array_equal(again.prediction, recorded.prediction[some])


def assert_pgd_breaks_nothing(attacked_model, judge, examples, certificates, loss, *, least=300, **strength):
    points, labels = attacked(attacked_model, examples, certificates, loss, **strength)
    assert len(labels) > least
    with torch.no_grad():
        judged = torch.cat([judge(batch).argmax(1) for batch in points.split(64)])
    assert (judged == labels).all()


def test_pgd_breaks_no_certified_point_of_the_smoothed_triplet(smoothed, examples, recorded):
    judge = with_bank(smoothed, 500, 11)
    every_third = replace(recorded, radius=np.where(np.arange(len(recorded.radius)) % 3 == 0, recorded.radius, 0.0))
    assert_pgd_breaks_nothing(smoothed, judge, examples, every_third, cross_entropy, steps=10, least=100)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [cross_entropy, cw_margin, probability_margin])
def test_pgd_through_many_noises_breaks_none_either(smoothed, examples, recorded, loss):
    surrogate, judge = with_bank(smoothed, 128, 12), with_bank(smoothed, 10_000, 13)
    assert_pgd_breaks_nothing(surrogate, judge, examples, recorded, loss, steps=40)
