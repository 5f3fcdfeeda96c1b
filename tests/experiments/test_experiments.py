"""Experiments: rows against direct computation, tables that outlive an interruption, pages that follow from them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from making import EXAMPLES, MODEL, a_bench, a_table, begun, measuring, of_images
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from adaptive_smoothing_zoo import MixedClassifier, ThreatModel, list_models, load_model
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments import EXPERIMENTS as NAMES
from adaptive_smoothing_zoo.experiments import alpha_sweep, attack_target, find_experiment, trust_options
from adaptive_smoothing_zoo.experiments.bench import Bench, Pgd, Table
from adaptive_smoothing_zoo.experiments.experiment import Row, read_table
from adaptive_smoothing_zoo.experiments.margins import BINS
from adaptive_smoothing_zoo.experiments.published_curves import read_published
from adaptive_smoothing_zoo.method.smoothed_classifier import SPACES, TRUST_OPTIONS
from adaptive_smoothing_zoo.storage.identity import Identity, identity_of
from adaptive_smoothing_zoo.storage.schema import to_json

PAGES = Path(__file__).parents[2] / "eval" / "experiments"
CURVES = Path(__file__).parents[2] / "../shared/reference/adaptive_smoothing_curves"
EXPERIMENTS = {name: find_experiment(name) for name in NAMES}
MARGINS = EXPERIMENTS["margins"]


def accuracy(logits):
    return float((logits.argmax(1) == EXAMPLES.labels).double().mean())


@pytest.mark.parametrize(
    ("norm", "eps", "step"), [("Linf", 8 / 255, 0.0027), ("Linf", 0.2, 0.0860625 * 0.2), ("L2", 0.5, 0.075)]
)
def test_the_papers_attack_starts_at_the_image_and_its_steps_do_not_depend_on_their_number(norm, eps, step):
    expected = EXAMPLES.images.clone()
    for _ in range(3):
        points = expected.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(MODEL(points), EXAMPLES.labels, reduction="sum"), points)
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        move = gradient.sign() if norm == "Linf" else gradient / length
        expected = (points.detach() + step * move).clamp(0, 1)
    bench = a_bench(threat=ThreatModel(norm, eps), pgd=Pgd(3))
    torch.testing.assert_close(bench.attack(MODEL), expected, atol=1e-6, rtol=0)
    assert torch.equal(replace(bench, seed=1).attack(MODEL), bench.attack(MODEL))


@pytest.mark.parametrize(
    ("pgd_name", "norm", "eps", "steps", "words"),
    [
        ("papers", "Linf", "8/255", 20, "20 steps of 0.0027 (0.0861 eps), from the image, no random start"),
        ("papers", "L2", "0.5", 20, "20 steps of 0.075 (0.15 eps), from the image, no random start"),
        ("papers", "Linf", "8/255", 10, "(0.0861 eps), which reach 86% of eps at most, from the image"),
        ("random-start", "Linf", "1/5", 20, "20 steps of 0.025 (0.125 eps), from one random start, seed 3"),
    ],
)
def test_a_page_says_which_attack_was_run(pgd_name, norm, eps, steps, words):
    assert words in a_table("margins", pgd=pgd_name, threat_model=norm, eps=eps, steps=steps, seed=3).how()


def test_the_other_attack_is_pgd_whose_starts_belong_to_examples():
    bench = a_bench(pgd=Pgd(5, "random-start"))
    settings = {"eps": 0.2, "step_size": 0.1, "steps": 5, "random_start": True, "seed": 0}
    expected = pgd(MODEL, EXAMPLES.images, EXAMPLES.labels, **settings)
    torch.testing.assert_close(bench.attack(MODEL), expected)
    torch.testing.assert_close(replace(bench, batch_size=12).attack(MODEL), expected)
    assert not torch.equal(replace(bench, seed=1).attack(MODEL), expected)


@pytest.mark.parametrize(("target", "alpha"), [("clean", "0.5"), ("std", "0.9"), ("rob", "0.2"), ("mix", "0.7")])
def test_a_row_of_the_alpha_sweep_is_the_accuracy_of_that_mix_after_that_attack(target, alpha):
    bench = a_bench()
    measured = EXPERIMENTS["alpha-sweep"].measure(bench, {"target": target, "alpha": alpha})
    attacked = {"clean": None, "std": MODEL.std_model, "rob": MODEL.rob_model, "mix": bench.mix(0.7)}[target]
    points = EXAMPLES.images if attacked is None else bench.attack(attacked)
    assert measured.pop("accuracy") == accuracy(MODEL.sweep(points, [float(alpha)])[0])
    assert list(measured) == (["strongest"] if target == "mix" else [])


class Scripted(nn.Module):
    """A mix of two classes that is right (label 0) where its list of images says so."""

    def __init__(self, right):
        super().__init__()
        self.right = right

    def forward(self, images):
        right = torch.tensor([image.item() in self.right for image in images.flatten(1)[:, 0]])
        return torch.stack([right.double(), (~right).double()], dim=1)


def test_the_strongest_attack_is_the_union_of_the_attacks_example_by_example(monkeypatch):
    """Each attack breaks another example, so that the least of their accuracies is not what is left of all."""
    starts = {"clean": 0.0, "std": 1.0, "rob": 2.0, "mix": 3.0}  # an image is its example's number / 10 + that
    broken = {"clean": 0, "std": 1, "rob": 2, "mix": 3}
    right = {round(i / 10 + start, 1) for name, start in starts.items() for i in range(5) if i != broken[name]}
    images = torch.arange(5, dtype=torch.float64).view(5, 1, 1, 1) / 10
    bench = a_bench(examples=of_images(EXAMPLES, images, torch.zeros(5, dtype=torch.int64)))
    monkeypatch.setattr(Bench, "mix", lambda bench, alpha: (alpha, Scripted(right))[1])
    points = {0.0: "std", 1.0: "rob", 0.7: "mix"}
    monkeypatch.setattr(
        alpha_sweep,
        "_points",
        lambda bench, target: (images + (0.0 if target is None else starts[points[target]])).mul(10).round().div(10),
    )
    measured = EXPERIMENTS["alpha-sweep"].measure(bench, {"target": "mix", "alpha": "0.7"})
    assert measured == {"accuracy": 0.8, "strongest": pytest.approx(0.2)}


def test_g_and_h_alone_are_attacked_once_for_all_alphas(monkeypatch):
    calls = []
    attack = Bench.attack
    monkeypatch.setattr(Bench, "attack", lambda bench, target: calls.append(target) or attack(bench, target))
    bench = a_bench()
    found = {
        (target, alpha): EXPERIMENTS["alpha-sweep"].measure(bench, {"target": target, "alpha": alpha})["accuracy"]
        for target in ("std", "mix", "rob")
        for alpha in ("0", "0.6", "1")
    }
    assert sorted(model.alpha.alpha_min for model in calls) == [0.0, 0.6, 1.0]
    assert found["mix", "0"] == found["std", "0"] != found["mix", "1"] == found["rob", "1"]


def test_at_its_ends_the_attacked_alpha_is_g_alone_and_h_alone():
    for logit, net in (("-inf", MODEL.std_model), ("inf", MODEL.rob_model)):
        points = a_bench().attack(net)
        expected = {"std": accuracy(MODEL.std_model(points)), "rob": accuracy(MODEL.rob_model(points))}
        assert EXPERIMENTS["attack-target"].measure(a_bench(), {"alpha_logit": logit}) == expected


def test_gaps_are_those_of_the_two_largest_probabilities():
    measured = MARGINS.measure(a_bench(), {"net": "rob", "images": "attacked"})
    probabilities = MODEL.rob_model(a_bench().attack(MODEL.rob_model)).double().softmax(1).detach().numpy()
    ordered = np.sort(probabilities, axis=1)
    gap, correct = ordered[:, -1] - ordered[:, -2], probabilities.argmax(1) == EXAMPLES.labels.numpy()
    assert 0 < correct.sum() < 12
    assert (measured["correct"], measured["incorrect"]) == (correct.sum(), (~correct).sum())
    for name, mask in (("correct", correct), ("incorrect", ~correct)):
        np.testing.assert_allclose(measured[f"mean_{name}"], gap[mask].mean(), rtol=1e-5)
        np.testing.assert_allclose(measured[f"median_{name}"], np.median(gap[mask]), rtol=1e-5)


def test_the_attack_on_the_gap_keeps_the_worse_end_and_gaps_are_counted_by_size():
    def lead(net, points):
        """Of the label's probability over the largest other one."""
        probabilities = net(points).double().softmax(1)
        label = probabilities.gather(1, EXAMPLES.labels[:, None]).squeeze(1)
        others = probabilities.scatter(1, EXAMPLES.labels[:, None], -1.0)
        return label - others.amax(1)

    net, points = MODEL.rob_model, EXAMPLES.images
    bench, step = a_bench(), 0.0027 / (8 / 255) * 0.2
    for _ in range(5):
        points = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(lead(net, points).sum(), points)
        points = points.detach() - step * gradient.sign()
        points = points.clamp(EXAMPLES.images - 0.2, EXAMPLES.images + 0.2).clamp(0, 1)
    ends = [points, bench.attack(net)]
    leads = torch.stack([lead(net, end) for end in ends]).detach()
    worse = leads.argmin(dim=0)
    assert len(worse.unique()) == 2  # each end is the worse one somewhere
    chosen = torch.stack(ends)[worse, torch.arange(12)]
    probabilities = net(chosen).double().softmax(1).detach().numpy()
    ordered = np.sort(probabilities, axis=1)
    gap, correct = ordered[:, -1] - ordered[:, -2], probabilities.argmax(1) == EXAMPLES.labels.numpy()
    measured = MARGINS.measure(bench, {"net": "rob", "images": "gap"})
    assert 0 < correct.sum() < 12
    assert (measured["correct"], measured["incorrect"]) == (correct.sum(), (~correct).sum())
    for name, mask in (("correct", correct), ("incorrect", ~correct)):
        np.testing.assert_allclose(measured[f"mean_{name}"], gap[mask].mean(), rtol=1e-4)
        counts = [measured[f"{name}_{i:02}"] for i in range(BINS)]
        np.testing.assert_array_equal(counts, np.histogram(gap[mask], BINS, (0, 1))[0])


def test_gaps_of_no_predictions_are_left_out():
    measured = MARGINS.measure(a_bench(pgd=Pgd(20)), {"net": "std", "images": "attacked"})
    assert measured["correct"] == 0.0
    assert "mean_correct" not in measured
    table = a_table("margins", *((case, measured) for case in MARGINS.cases()))
    assert "| g, after PGD | 0 | 12," in MARGINS.summary(table)
    assert "right on 0 images, with a mean gap of none" in MARGINS.summary(table)


def test_r_of_1_with_probabilities_is_the_mix_with_the_same_odds():
    measure = EXPERIMENTS["trust-options"].measure
    found = measure(a_bench(), {"trust": "one", "space": "probabilities", "odds": "3"})
    assert found["ratio"] == 3.0
    mix = a_bench().mix(0.75)
    assert found["clean"] == accuracy(mix(EXAMPLES.images))
    assert found["attacked"] == accuracy(mix(a_bench().attack(mix)))


@pytest.mark.parametrize("trust", TRUST_OPTIONS)
@pytest.mark.parametrize("space", SPACES)
def test_without_odds_every_form_is_g_and_with_great_odds_every_form_is_nearly_h(trust, space):
    bench = a_bench(examples=EXAMPLES.first(4), pgd=Pgd(2))
    measure = EXPERIMENTS["trust-options"].measure
    case = {"trust": trust, "space": space}
    g = measure(bench, {**case, "odds": "0"})
    assert g == {"ratio": 0.0, "clean": bench.accuracy(bench.mix(0.0), bench.images), "attacked": g["attacked"]}
    assert g["attacked"] == bench.accuracy(bench.mix(0.0), bench.attack(bench.mix(0.0)))
    h = measure(bench, {**case, "odds": "1e9"})
    assert h["clean"] == bench.accuracy(bench.mix(1.0), bench.images)


class Steep(nn.Module):
    """Two logits whose gradient has a known l_1 norm."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, images):
        mean = images.flatten(1).mean(1)
        return torch.stack([self.slope * mean, 0 * mean], dim=1)


def test_the_ratio_is_the_odds_over_the_median_trust():
    two_classes = of_images(EXAMPLES, EXAMPLES.images, EXAMPLES.labels % 2)
    bench = a_bench(model=MixedClassifier(Steep(4.0), Steep(2.0), 0.5).eval(), examples=two_classes)
    measure = EXPERIMENTS["trust-options"].measure
    for trust, median in (("std_gradient", 4.0), ("max_gradient", 4.0), ("gradient_ratio", 2.0)):
        found = measure(bench, {"trust": trust, "space": "logits", "odds": "3"})
        assert found["ratio"] == pytest.approx(3.0 / median, rel=1e-5)


def test_the_area_is_the_mean_of_a_staircase():
    def rows(trust, space, points):
        return [({"trust": trust, "space": space, "odds": str(i)}, values) for i, values in enumerate(points)]

    ends = {"clean": 1.0, "attacked": 0.0}, {"clean": 0.8, "attacked": 0.5}
    corner = {"clean": 0.9, "attacked": 0.4}
    table = a_table(
        "trust-options",
        *rows("one", "probabilities", [ends[0], corner, ends[1]]),
        *(
            row
            for trust in TRUST_OPTIONS
            for space in SPACES
            for row in rows(trust, space, ends)
            if (trust, space) != ("one", "probabilities")
        ),
    )
    grid = np.linspace(0.8, 1.0, 101)
    expected = np.where(grid <= 0.8, 0.5, np.where(grid <= 0.9, 0.4, 0.0)).mean() / 0.5
    assert trust_options.area(table, "one", "probabilities") == pytest.approx(expected, abs=0.01)
    assert trust_options.area(table, "one", "logits") < 0.02
    assert trust_options.undefined(table) == ""
    assert trust_options.EXPERIMENT.agreement(table).startswith("yes")
    assert "The best is R_i = one with probabilities." in trust_options.EXPERIMENT.summary(table)
    for row in table.rows:
        row.values.update(ends[int(row.case["odds"]) > 0])
    assert "The best is R_i = one with probabilities." in trust_options.EXPERIMENT.summary(table)  # of equal ones


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ({"mix": (0.0, 0.0, 0.3, 0.5), "std": (0, 0, 0.6, 0.7), "rob": (0.9, 0.9, 0.9, 0.5)}, "yes"),
        ({"mix": (0.0, 0.0, 0.1, 0.5), "std": (0, 0, 0, 0.7), "rob": (0.9, 0.9, 0.9, 0.5)}, "in part"),
        ({"mix": (0.0, 0.0, 0.3, 0.5), "std": (0.3, 0, 0.6, 0.1), "rob": (0.9, 0.9, 0.9, 0.5)}, "in part"),
        ({"mix": (0.0, 0.0, 0.3, 0.5), "std": (0, 0, 0.6, 0.7), "rob": (0.2, 0.9, 0.9, 0.5)}, "in part"),
        ({"mix": (0.0, 0.0, 0.1, 0.5), "std": (0.3, 0, 0, 0.1), "rob": (0.2, 0.9, 0.9, 0.5)}, "no"),
        ({"mix": (0.0, 0.25, 0.25, 0.5), "std": (0, 0, 0.3, 0.7), "rob": (0.9, 0.9, 0.9, 0.5)}, "yes"),
        ({"mix": (0.0, 0.0, 0.3, 0.5), "std": (0, 0, 0.1, 0.7), "rob": (0.9, 0.9, 0.9, 0.5)}, "in part"),
        ({"mix": (0.5, 0.0, 0.3, 0.5), "std": (0.5, 0, 0, 0.7), "rob": (0.9, 0.9, 0.9, 0.5)}, "not answered"),
        # Equal ends, or one example the other way, are neither a rise nor a fall.
        ({"mix": (0.0, 0.0, 0.3, 0.5), "std": (0, 0, 0.6, 0.7), "rob": (0.5, 0.9, 0.9, 0.5)}, "in part"),
        ({"mix": (0.0, 0.0, 0.3, 0.5), "std": (0.7, 0, 0.6, 0.69), "rob": (0.9, 0.9, 0.9, 0.5)}, "in part"),
    ],
)
def test_the_sweep_s_agreement_follows_from_its_curves(accuracies, verdict):
    accuracies = {**accuracies, "clean": (0.9, 0.9, 0.8, 0.7)}
    rows = [
        ({"target": target, "alpha": alpha}, {"accuracy": float(value)})
        for target, values in accuracies.items()
        for alpha, value in zip(("0", "0.45", "0.55", "1"), values, strict=True)
    ]
    table = a_table("alpha-sweep", *rows)
    assert alpha_sweep.EXPERIMENT.agreement(table).startswith(f"{verdict}:")
    assert "90.0% at 0, 80.0% at 0.55 and 70.0% at 1" in alpha_sweep.EXPERIMENT.summary(table)
    curves = (accuracies[target] for target in ("std", "rob", "mix"))
    outdone = [
        alpha
        for alpha, std, rob, mix in zip(("0", "0.45", "0.55", "1"), *curves, strict=True)
        if min(std, rob) < mix - 0.01
    ]
    said = f"At alpha {', '.join(outdone)} the STD or the ROB attack leaves" if outdone else "is a weak attack there"
    assert (said in alpha_sweep.EXPERIMENT.summary(table)) == bool(outdone)


def test_the_sweep_says_nothing_of_attacks_on_one_net_that_are_ahead_by_one_example():
    rows = [  # 0.06 < 0.07 - 0.01 in floating point
        ({"target": target, "alpha": alpha}, {"accuracy": 0.06 if target == "std" else 0.07})
        for target in ("clean", "std", "rob", "mix")
        for alpha in ("0", "0.45", "0.55", "1")
    ]
    assert "is a weak attack there" not in alpha_sweep.EXPERIMENT.summary(a_table("alpha-sweep", *rows))


@pytest.mark.parametrize(
    ("against_g", "against_h", "verdict"),
    [((0.0, 0.8), (0.9, 0.5), "yes"), ((0.0, 0.8), (0.4, 0.5), "in part"), ((0.1, 0.1), (0.9, 0.5), "no")],
)
def test_the_targets_agreement_follows_from_its_ends(against_g, against_h, verdict):
    rows = [("-inf", against_g), ("0", (0.2, 0.6)), ("inf", against_h)]
    table = a_table("attack-target", *(({"alpha_logit": a}, {"std": g, "rob": h}) for a, (g, h) in rows))
    assert attack_target.EXPERIMENT.agreement(table).startswith(f"{verdict}:")


TARGETED = ("-inf", "0", "6", "inf")


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        ((False, False, True, True), "from logit(alpha_t) = 6 on (alpha_t 0.99753)"),
        ((True, False, False, True), "only at logit(alpha_t) = -inf, inf"),
        ((False, True, False, False), "only at logit(alpha_t) = 0"),
        ((False,) * 4, "h is at least as accurate as g whatever alpha_t is attacked"),
    ],
)
def test_g_is_ahead_from_a_target_on_only_if_it_stays_so(ahead, said):
    rows = [({"alpha_logit": a}, {"std": 0.6 if g else 0.4, "rob": 0.5}) for a, g in zip(TARGETED, ahead, strict=True)]
    assert f"{said}." in attack_target.EXPERIMENT.summary(a_table("attack-target", *rows))


def test_an_interrupted_experiment_measures_only_what_is_missing(tmp_path):
    calls = []
    experiment = measuring(MARGINS, lambda bench, case: calls.append(case) or MARGINS.measure(bench, case))
    path = experiment.file(tmp_path, MODEL.entry.key)
    begun(experiment, a_bench(), tmp_path, rows=2)
    assert len(json.loads(path.read_text())["rows"]) == 2
    with pytest.raises(ResultsError, match="does not hold all rows"):
        experiment.publish(path)
    for _ in range(2):
        list(experiment.run(a_bench(), tmp_path))
        assert calls == MARGINS.cases()
    page = path.with_suffix(".md").read_text()
    assert "**Agreement:** " in page
    assert "The first 12 examples of scikit-learn" in page


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pgd": Pgd(6)}, "steps 5, not 6"),
        ({"pgd": Pgd(5, "random-start")}, "pgd papers, not random-start"),
        ({"seed": 3}, "seed 0, not 3"),
    ],
)
def test_a_file_of_other_settings_is_not_resumed(changes, named, tmp_path):
    begun(MARGINS, a_bench(), tmp_path, rows=1)
    with pytest.raises(ResultsError, match=f"was measured with {named}; name another --out"):
        list(MARGINS.run(a_bench(**changes), tmp_path))


@pytest.mark.parametrize(
    "changes", [None, {"eps": "x"}, {"steps": 0}, {"n": 0}, {"threat_model": "L1"}, {"pgd": "other"}]
)
def test_damaged_files_and_settings_that_no_page_can_describe_are_refused(changes, tmp_path):
    path = MARGINS.file(tmp_path, MODEL.entry.key)
    path.parent.mkdir()
    path.write_text('{"rows": ' if changes is None else json.dumps({**to_json(a_table("margins")), **changes}))
    with pytest.raises(ResultsError, match="does not hold an experiment's data"):
        list(MARGINS.run(a_bench(), tmp_path))


@pytest.mark.parametrize(("chosen", "words"), [((), "from the image"), (("--pgd", "random-start"), "random start")])
def test_the_command_writes_data_picture_and_page(chosen, words, tmp_path):
    arguments = ["experiment", "attack-target", "margins", "--n", "8", "--steps", "2", "--device", "cpu", *chosen]
    result = CliRunner().invoke(asz, [*arguments, "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    for name in ("attack-target", "margins"):
        path = EXPERIMENTS[name].file(tmp_path, MODEL.entry.key)
        page = path.with_suffix(".md")
        assert str(page) in result.output
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert f"({path.with_suffix('.png').name})" in page.read_text()
        assert words in page.read_text()


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PAGES.glob("*/*.md")) if path.parent.name in EXPERIMENTS],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_recorded_pages_are_drawn_again_from_the_recorded_data(path, tmp_path):
    experiment, published = EXPERIMENTS[path.parent.name], None
    if experiment.compares and "**Published curves:** left out" not in path.read_text():
        if not CURVES.exists():
            pytest.skip("the authors' curves are not here")
        published = read_published(CURVES)
    copied = shutil.copy(path.with_suffix(".json"), tmp_path)
    experiment.publish(Path(copied), published)
    assert (tmp_path / path.name).read_text() == path.read_text()
    assert (tmp_path / path.name).with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def recorded_by_triplet():
    """The data files of experiments on triplets that come along, by triplet."""
    entries = {entry.key: entry for entry in list_models() if entry.comes_along}
    files = {key: [] for key in entries}
    for path in sorted(PAGES.glob("*/*.json")):
        key = path.stem.partition("-under-")[0]
        if key in files:
            files[key].append(path)
    return [pytest.param(entries[key], paths, id=key) for key, paths in files.items() if paths]


@pytest.mark.parametrize(("entry", "paths"), recorded_by_triplet())
def test_recorded_pages_are_of_the_triplets_that_come_along(entry, paths):
    model = load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model)
    identity = identity_of(model, entry.image_shape)
    strange = [path for path in paths if Identity.from_json(json.loads(path.read_text())["identity"]) != identity]
    assert not strange


def rows_of(experiment, values):
    """All rows of an experiment, every one with the same numbers."""
    return tuple(Row(case=case, values=dict(values)) for case in experiment.cases())


OF_A_TRIPLET = [name for name in NAMES if issubclass(EXPERIMENTS[name].table, Table) and name != "certified-pareto"]
WITH_NUMBERS = [(name, value) for name in OF_A_TRIPLET for value in EXPERIMENTS[name].values]


@pytest.mark.parametrize(("name", "value"), WITH_NUMBERS)
@pytest.mark.parametrize("number", [None, float("nan"), float("inf")])
def test_no_experiment_has_a_verdict_where_a_number_is_missing(name, value, number):
    experiment = EXPERIMENTS[name]
    rows = rows_of(experiment, dict.fromkeys(experiment.values, 0.5))
    del rows[-1].values[value]
    if number is not None:
        rows[-1].values[value] = number
    table = replace(a_table(name), rows=rows)
    summary, agreement = experiment.findings(table)
    case = ", ".join(f"{key} {text}" for key, text in rows[-1].case.items())
    assert agreement == f"not answered: there is no {value} for {case}."
    assert "nan" not in summary
    experiment.draw(table, Figure())


@pytest.mark.parametrize(
    ("clean", "attacked", "why"),
    [(1.0, 0.5, "g is no more accurate than h on the 100 clean images"), (None, 0.0, "h is right on none of the 100")],
)
def test_trust_options_without_areas_have_no_verdict(clean, attacked, why):
    experiment = EXPERIMENTS["trust-options"]
    rows = rows_of(experiment, {"ratio": 1.0, "clean": 1.0, "attacked": attacked})
    for row in rows:
        if clean is None:
            row.values["clean"] = 1.0 if row.case["odds"] == "0" else 0.9
    summary, agreement = experiment.findings(replace(a_table("trust-options"), rows=rows))
    assert agreement.startswith(f"not answered: {why}")
    assert why in summary
    assert "nan" not in summary
    assert "The best is" not in summary


@pytest.mark.parametrize(
    ("right", "least", "word"), [(0.6, 0.5, "yes"), (0.44, 0.5, "in part"), (0.5, 0.44, "in part"), (0.4, 0.44, "no")]
)
def test_margins_agree_where_both_attacks_leave_h_more_confident_than_it_is_wrong(right, least, word):
    values = {"correct": 9.0, "incorrect": 1.0, "mean_incorrect": 0.45}
    means = {"attacked": right, "gap": least}
    rows = [(case, {**values, "mean_correct": means.get(case["images"], 0.9)}) for case in MARGINS.cases()]
    table = a_table("margins", *rows)
    assert MARGINS.agreement(table).startswith(f"{word}: ")


def test_margins_without_right_or_without_wrong_predictions_have_no_verdict():
    rows = rows_of(MARGINS, {"correct": 0.0, "incorrect": 100.0, "mean_incorrect": 0.3, "median_incorrect": 0.2})
    _, agreement = MARGINS.findings(replace(a_table("margins"), rows=rows))
    assert agreement.startswith("not answered: a mean gap is missing; h is right on 0 images after PGD, on 0 after")
    assert "and wrong on 100 clean ones" in agreement


def test_numbers_that_cannot_be_had_are_left_out_of_the_file_and_the_page_says_so(tmp_path):
    experiment = measuring(MARGINS, lambda bench, case: {"correct": 12.0, "incorrect": float("nan")})
    list(experiment.run(a_bench(), tmp_path))
    path = experiment.file(tmp_path, MODEL.entry.key)
    assert json.loads(path.read_text())["rows"][0]["values"] == {"correct": 12.0}
    page = path.with_suffix(".md").read_text()
    assert "**Agreement:** not answered: there is no incorrect for net std, images clean." in page


def test_data_without_a_named_attack_were_measured_from_a_random_start(tmp_path):
    path = tmp_path / "table.json"
    data = to_json(a_table("margins"))
    del data["pgd"]
    path.write_text(json.dumps(data))
    assert "5 steps of 0.1 (0.5 eps), from one random start, seed 0" in read_table(path, Table).how()
