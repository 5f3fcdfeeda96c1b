"""The experiment on trainings for smoothing: rows against direct computation, pages that follow from the data."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from making import ABOUT, CPU, a_table, begun

from adaptive_smoothing_zoo.certification import read_log
from adaptive_smoothing_zoo.certification.journal import read_settings
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments import smoothed_mnist
from adaptive_smoothing_zoo.experiments.published_tables import printed_rows
from adaptive_smoothing_zoo.experiments.smoothed_methods import (
    EXPERIMENT,
    METHODS,
    PAPER,
    RADII,
    SIGMAS,
    MethodsBench,
    MethodsTable,
    SmoothedMethods,
)
from adaptive_smoothing_zoo.training.recipe import RECIPES

CASE = {"method": "gaussian", "sigma": "0.25", "seed": "1"}


@pytest.fixture
def bench(tmp_path):
    """Recipes that train for one epoch, and few samples."""
    for method in METHODS:
        for sigma in SIGMAS:
            text = f"""
                kind = "smoothed_net"
                data = {{ dataset = "digits" }}
                net = {{ architecture = "small_cnn", arguments = {{ widths = [2, 4], mean = [0.3], std = [0.37] }} }}
                training = {{ sigma = {sigma}, epochs = 1, batch_size = 1024 }}
            """
            (tmp_path / f"digits_{method}_{sigma}.toml").write_text(text)
    return MethodsBench(
        experiment=EXPERIMENT, recipes=tmp_path, trained=tmp_path / "trained", n=8, samples=20, device=CPU
    )


def methods_table(acr):
    """A table whose ACR is acr(method, sigma) + 0.001 times the seed."""
    rows = []
    for case in EXPERIMENT.cases():
        values = {f"certified_{radius:g}": 0.5 for radius in RADII}
        values["acr"] = acr(case["method"], case["sigma"]) + 0.001 * int(case["seed"])
        rows.append((case, values))
    about = {**ABOUT, "samples": 1000, "failure_probability": 0.001, "recipes_sha256": "0"}
    return a_table("smoothed-methods", *rows, kind=MethodsTable, about=about)


def test_a_row_is_what_the_log_of_its_certificates_says(bench):
    values = EXPERIMENT.measure(bench, CASE)
    (log,) = bench.trained.rglob("certificates.tsv")
    certificates = read_log(log)
    radius = np.where(certificates.prediction == certificates.label, certificates.radius, -1.0)
    assert len(radius) == 8
    assert values["acr"] == pytest.approx(np.maximum(radius, 0).mean())
    assert [values[f"certified_{r:g}"] for r in RADII] == [(radius >= 0.25 * r).mean() for r in RADII]
    assert bench.recipe(CASE).training.seed == 1
    assert EXPERIMENT.measure(bench, CASE) == values  # from what is there


def test_the_seed_is_that_of_the_certificates_noise_and_the_net_is_the_same(bench):
    other = replace(bench, seed=3)
    assert EXPERIMENT.measure(other, CASE) is not None
    assert EXPERIMENT.measure(bench, CASE) == EXPERIMENT.measure(replace(bench, seed=0), CASE)
    logs = {log.name: read_settings(log) for log in bench.trained.rglob("*.tsv")}
    assert {name: settings["seed"] for name, settings in logs.items()} == {
        "certificates.tsv": 0,
        "certificates-seed-3.tsv": 3,
    }
    assert len({str(settings["model"]) for settings in logs.values()}) == 1
    table = other.table("smoothed-methods")
    assert (table.seed, bench.table("smoothed-methods").seed) == (3, 0)
    assert "seed 3 of the noise" in table.how()
    options = SimpleNamespace(recipes=None, n=5, samples=9, seed=7, device=CPU, data_dir=None, train_data_dir=None)
    assert MethodsBench.of(options, 1, print).seed == 7


def test_an_interrupted_run_resumes_and_other_recipes_are_refused(bench, tmp_path):
    begun(EXPERIMENT, bench, tmp_path, rows=2)
    path, cases = EXPERIMENT.file(tmp_path, bench.key), EXPERIMENT.cases()
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == cases[:2]
    begun(EXPERIMENT, bench, tmp_path, rows=1)
    assert [row["case"] for row in json.loads(path.read_text())["rows"]] == cases[:3]
    recipe = tmp_path / "digits_macer_0.5.toml"
    recipe.write_text(recipe.read_text().replace("epochs = 1", "epochs = 2"))
    with pytest.raises(ResultsError, match="was measured with recipes_sha256"):
        next(EXPERIMENT.run(bench, tmp_path))


def test_a_recipe_of_another_sigma_is_refused(bench):
    path = bench.recipes / "digits_gaussian_0.25.toml"
    path.write_text(path.read_text().replace("sigma = 0.25", "sigma = 0.5"))
    with pytest.raises(ResultsError, match=r"not the recipe of a net that will be smoothed with sigma 0\.25"):
        EXPERIMENT.measure(bench, CASE)


def test_the_paper_s_order_is_agreed_with():
    text = EXPERIMENT.agreement(methods_table(lambda method, sigma: PAPER[sigma][method]))
    assert "sigma = 0.125: 20 of 20 pairs in the paper's order." in text  # two methods tie there
    assert "sigma = 0.5: 21 of 21 pairs in the paper's order." in text
    assert "Reversed" not in text


@pytest.mark.parametrize(("name", "number"), [("acr", None), ("acr", float("nan")), ("certified_0.5", None)])
def test_there_is_no_verdict_where_a_number_is_missing(name, number):
    table = methods_table(lambda method, sigma: PAPER[sigma][method])
    del table.rows[2].values[name]
    if number is not None:
        table.rows[2].values[name] = number
    text = EXPERIMENT.page(table, "x.png")
    assert f"not answered: there is no {name} for method smoothadv, sigma 0.125, seed 0." in text
    assert "Numbers are missing." in text


def test_a_reversed_pair_is_named_with_its_spread():
    def acr(method, sigma):
        changed = {("macer", "0.25"): 1.5695, ("gaussian", "0.5"): 1.7}
        return changed.get((method, sigma), PAPER[sigma][method])

    lines = [line for line in EXPERIMENT.agreement(methods_table(acr)).splitlines() if line.startswith("- ")]
    assert "Reversed" not in lines[0]
    assert lines[1].endswith(
        "20 of 21 pairs in the paper's order. Reversed here: Stability over MACER (1.5710 to 1.5705, within the "
        "spread)."
    )
    assert lines[2].endswith(
        "20 of 21 pairs in the paper's order. Reversed here: Gaussian over Stability (1.7010 to 1.6350)."
    )


def test_equal_nets_are_in_no_order():
    lines = EXPERIMENT.agreement(methods_table(lambda method, sigma: 0.5)).splitlines()
    assert any(
        "sigma = 0.125: 0 of 20 pairs in the paper's order. Equal here: Gaussian and Stability;" in x for x in lines
    )
    assert all("Reversed" not in line for line in lines)


def test_the_summary_has_means_and_deviations():
    text = EXPERIMENT.summary(methods_table(lambda method, sigma: PAPER[sigma][method]))
    assert "| SmoothAdv | 1.6880 (0.0010) | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 1.687 |" in text
    assert "| method | ACR (sd) | 0 | 0.25 | 0.5 | 0.75 | 1 | paper's ACR, MNIST, sigma 1 |" in text


def test_the_command_writes_data_picture_and_page(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SmoothedMethods, "sigmas", ("0.25",))
    monkeypatch.setattr(SmoothedMethods, "methods", {"gaussian": "Gaussian", "macer": "MACER"})
    arguments = ["experiment", "smoothed-methods", "--recipes", str(bench.recipes), "--n", "4", "--samples", "5"]
    result = CliRunner().invoke(asz, [*arguments, "--device", "cpu", "--out", "out"], catch_exceptions=False)
    assert result.exit_code == 0
    path = EXPERIMENT.file(Path("out"), "digits")
    assert str(path.with_suffix(".md")) in result.output
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "mean of 3 seeds" in path.with_suffix(".md").read_text()


def test_certificates_of_no_samples_are_refused_before_nets_are_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(asz, ["experiment", "smoothed-methods", "--samples", "0"])
    assert "0 is not in the range x>=1" in refused.output
    assert not list(tmp_path.iterdir())


def mnist_table(acr):
    rows = [
        (case, {**{f"certified_{radius:g}": 0.5 for radius in RADII}, "acr": acr(case["method"], case["sigma"])})
        for case in smoothed_mnist.EXPERIMENT.cases()
    ]
    about = {**ABOUT, "samples": 1000, "failure_probability": 0.001, "recipes_sha256": "0"}
    return a_table("smoothed-mnist", *rows, kind=MethodsTable, about=about)


def test_mnist_has_all_rows_of_the_paper_s_table_and_one_seed_has_no_spread():
    experiment = smoothed_mnist.EXPERIMENT
    table = mnist_table(lambda method, sigma: experiment.published[sigma][method])
    assert len(table.rows) == 9 * len(experiment.sigmas)
    for sigma, acr in experiment.published.items():
        printed = [row[1][0] for (number, at, _), row in printed_rows().items() if (number, at) == ("2", sigma)]
        assert list(acr.values()) == printed
    assert "| SmoothMix (eta = 1) | 1.6780 | 50.0 |" in experiment.summary(table)
    text = experiment.agreement(table)
    assert "- sigma = 0.5: 35 of 35 pairs in the paper's order." in text  # two rows tie
    assert "spread" not in text
    worse = mnist_table(lambda method, sigma: -experiment.published[sigma][method])
    assert "SmoothAdv over SmoothMix (eta = 5) (-1.6870 to -1.6940)" in experiment.agreement(worse)


def test_nets_that_certify_the_same_share_at_every_radius_are_named():
    experiment = smoothed_mnist.EXPERIMENT
    table = mnist_table(lambda method, sigma: 1.0)
    everywhere = "so presumably one class for every image: Gaussian, Stability,"
    assert experiment.summary(table).count(everywhere) == len(experiment.sigmas)
    for row in table.rows[1:]:
        row.values[f"certified_{RADII[-1]:g}"] = 0.4
    assert experiment.summary(table).count("so presumably one class for every image: Gaussian.") == 1
    assert experiment.summary(table).count("so presumably") == 1


@pytest.mark.parametrize("sigma", ["0.25", "0.5", "1"])
@pytest.mark.parametrize("method", ["smoothmix", "smoothmix_eta1", "smoothmix_eta1_one_step", "smoothadv"])
def test_mnist_s_short_form_keeps_the_length_of_all_steps_together(method, sigma):
    bench = smoothed_mnist.MnistBench(
        experiment=smoothed_mnist.EXPERIMENT, recipes=RECIPES / "smoothed", trained=Path(), device=CPU
    )
    loss = bench.recipe({"method": method, "sigma": sigma, "seed": "0"}).training.loss
    if method == "smoothadv":
        assert loss.eps == 1.0
    else:  # steps of 1 in the authors' commands, which name their logs
        length = {"0.25": 3 if "eta1" in method else 2, "0.5": 4, "1": 8}[sigma]
        assert loss.steps * loss.step_size == length
