"""The frontier of a triplet: rows against direct computation, for each kind of h."""

import numpy as np
import pytest
import torch
from making import CPU, EXAMPLES, MODEL, OF_THE_TRIPLET, a_table, settings
from matplotlib.figure import Figure

from adaptive_smoothing_zoo import MixedClassifier, ThreatModel, load_model
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification import certify, certify_lipschitz, mix_certificates
from adaptive_smoothing_zoo.experiments import find_experiment
from adaptive_smoothing_zoo.experiments.certified_pareto import ParetoBench, ParetoTable
from adaptive_smoothing_zoo.experiments.experiment import MisfitError
from adaptive_smoothing_zoo.method.logit_maps import HardMax, Scale

EXPERIMENT = find_experiment("certified-pareto")
BALL = ThreatModel("L2", 0.25)


def a_bench(model, threat=BALL):
    return ParetoBench(**settings(model=model, examples=EXAMPLES.first(5), threat=threat, device=CPU), samples=60)


def right(model, images, labels):
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


@pytest.mark.parametrize("bound", ["theorem5", "sharp"])
def test_a_smoothed_h_gets_other_noise_for_its_votes_and_its_certificates(bound):
    model = load_model("Demo2026Smoothed", dataset="digits", threat_model="L2")
    bench, h = a_bench(model), model.rob_model
    row = EXPERIMENT.measure(bench, {"noise": "0.5", "alpha": "0.8", "bound": bound})
    images, labels = bench.images, bench.labels
    scale = h.logit_scale.scale
    made = GaussianSmoothed(h.base, sigma=0.125, image_shape=(1, 8, 8), num_noises=32, votes="soft", logit_scale=scale)
    assert row["clean"] == right(MixedClassifier(model.std_model, made, 0.8, std_map=model.std_map), images, labels)
    of_h = certify(made.voter, images, labels, sigma=0.125, n=60, votes="soft")
    found = mix_certificates(of_h, 0.8, 0.125, bound=bound)
    expected = [(found.correct & (found.radius >= radius)).mean() for radius in (0.125, 0.25, 0.375, 0.5)]
    assert [row[f"certified_{i}"] for i in range(4)] == expected
    assert (h.sigma, bench.radii, bench.kind) == (0.25, (0.125, 0.25, 0.375, 0.5), "smoothed")


def test_a_lipschitz_h_has_another_scale_for_less_noise():
    model = load_model("Demo2026Lipschitz", dataset="digits", threat_model="L2")
    bench = a_bench(model)
    row = EXPERIMENT.measure(bench, {"noise": "0.5", "alpha": "0.9", "bound": "theorem4"})
    mix = MixedClassifier(
        model.std_model, model.rob_model, 0.9, std_map=model.std_map, rob_map=Scale(2 * model.rob_map.scale)
    )
    found = certify_lipschitz(mix.eval(), bench.images, bench.labels)
    assert row["certified_1"] == (found.correct & (found.radius >= 0.25)).mean()
    assert row["clean"] == right(mix, bench.images, bench.labels)
    of_theorem5 = EXPERIMENT.measure(bench, {"noise": "0.5", "alpha": "0.9", "bound": "theorem5"})
    assert of_theorem5 == {"clean": row["clean"]}  # it is about smoothed nets


def test_another_h_is_smoothed_and_the_page_says_so():
    bench = a_bench(MODEL)
    row = EXPERIMENT.measure(bench, {"noise": "1", "alpha": "1", "bound": "sharp"})
    of_h = certify(bench.mix(1.0), bench.images, bench.labels, sigma=0.25, n=60)
    assert row["certified_0"] == (of_h.correct & (of_h.radius >= 0.125)).mean()
    how = bench.table("certified-pareto").how()
    assert "h is the hard-vote smoothed version of the triplet's robust net" in how
    assert "trained" not in how  # for no noise
    assert np.isfinite(row["clean"])


@pytest.mark.parametrize(
    ("name", "rob_map", "norm", "why"),
    [
        ("Demo2026Smoothed", Scale(2.0), "L2", "smoothed h do not hold behind its rob_map; they need a scale of 1"),
        ("Demo2026Lipschitz", HardMax(), "L2", "need a scale as rob_map, not HardMax"),
        ("Demo2026Lipschitz", None, "Linf", "are in l_2, not in Linf"),
    ],
)
def test_an_h_that_is_not_certified_so_is_refused(name, rob_map, norm, why, tmp_path):
    bench = a_bench(load_model(name, dataset="digits", threat_model="L2"), threat=ThreatModel(norm, 0.25))
    assert (EXPERIMENT.misfit(bench) == "") == (norm == "L2")
    bench.model.rob_map = rob_map or bench.model.rob_map
    with pytest.raises(MisfitError, match=why):
        next(EXPERIMENT.run(bench, tmp_path))


def pareto_table(kind, without=()):
    """A table with the same numbers in every row; the certified accuracies of these bounds are left out."""
    about = {"kind": kind, "sigma": 0.25, "radii": (0.1, 0.2, 0.3, 0.4), "samples": 60, "failure_probability": 0.001}
    certified = {f"certified_{i}": 0.5 for i in range(4)}
    rows = [(case, {"clean": 0.9} | ({} if case["bound"] in without else certified)) for case in EXPERIMENT.cases()]
    return a_table("certified-pareto", *rows, kind=ParetoTable, about={**OF_THE_TRIPLET, **about})


@pytest.mark.parametrize("kind", ["lipschitz", "smoothed", "made"])
@pytest.mark.parametrize("without", [(), ("theorem5",)])
def test_theorem_5_is_spoken_of_and_needed_where_it_applies_alone(kind, without):
    table = pareto_table(kind, without)
    summary, agreement = EXPERIMENT.findings(table)
    EXPERIMENT.draw(table, figure := Figure())
    applies = kind != "lipschitz"
    shown = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert shown == (["theorem4", "theorem5", "sharp"] if applies else ["theorem4", "sharp"])
    if applies and without:
        assert agreement == "not answered: there is no certified_0 for noise 0.5, alpha 0.55, bound theorem5."
        return
    assert ("By theorem5" in summary, "by theorem5" in agreement) == (applies, applies)
    assert ("Theorem 5 is not about a Lipschitz h." in agreement) == (not applies)
    assert summary.count("By theorem4") == summary.count("By sharp") == 1


def test_nothing_is_concluded_where_nothing_is_certified():
    table = pareto_table("smoothed")
    for row in table.rows:
        row.values.update({f"certified_{i}": 0.0 for i in range(4)})
    assert EXPERIMENT.findings(table)[1] == "not answered: no mix has a certificate at any of these radii."


def test_a_lipschitz_h_needs_the_numbers_of_the_other_bounds():
    _, agreement = EXPERIMENT.findings(pareto_table("lipschitz", ("sharp",)))
    assert agreement == "not answered: there is no certified_0 for noise 0.5, alpha 0.55, bound sharp."
