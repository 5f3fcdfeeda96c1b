"""The authors' curves: read, drawn next to ours, and left out where they are not given."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from making import a_table
from matplotlib.figure import Figure

from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments import alpha_sweep, trust_options
from adaptive_smoothing_zoo.experiments.published_curves import FILE, read_published

FOLDER = Path(__file__).parents[2] / "../shared/reference/adaptive_smoothing_curves"


def a_run(title="Use SoftMax but no GradNorm ", norm="l_inf", softmax=True, **curves):
    curves = {"Clean": [90.0, 80.0], "STD": [0.0, 70.0], "ADV": [80.0, 50.0], "Comp": [0.0, 40.0, 50.0], **curves}
    flags = f'{{ "use_gradnorm_std": False, "use_gradnorm_adv": False, "use_sm": {softmax}, "attack_type": pgd_type }}'
    settings = {
        "title": title,
        "pgd_type": norm,
        "comp_model_setting": flags,
        "alpha_setting": '{ "min": -1, "max": 1, "num": {"Clean": 2} }',
    }
    base = {"STD_Clean": 90.0, "STD_Attacked": 0.0, "ADV_Clean": 80.0, "ADV_Attacked": 50.0}
    return {"section": "## A net", "settings": settings, "n_test_images": 2000, "base": base, "curves": curves}


def written(folder, *runs):
    (folder / FILE).write_text(json.dumps(runs))
    return folder


def test_accuracies_are_read_against_the_odds_and_against_alpha(tmp_path):
    (run,) = read_published(written(tmp_path, a_run()))
    assert run.is_mix
    assert (run.norm, run.nets, run.g, run.h) == ("Linf", "A net", (0.9, 0.0), (0.8, 0.5))
    assert run.curves["mix"] == ([-1.0, 0.0, 1.0], [0.0, 0.4, 0.5])
    alphas, accuracies = run.by_alpha("mix")
    np.testing.assert_allclose(alphas, [1 / 11, 1 / 2, 10 / 11])
    assert accuracies == [0.0, 0.4, 0.5]
    np.testing.assert_allclose(run.trade_off(), [(0.9, 0.0), (0.85, 0.4), (0.8, 0.5)])


def test_of_two_runs_of_one_form_the_later_one_counts_and_logits_are_no_mix(tmp_path):
    later = a_run(Comp=[0.0, 30.0, 50.0])
    runs = read_published(written(tmp_path, a_run(), later, a_run("Use neither", softmax=False)))
    assert [run.is_mix for run in runs] == [True, False]
    assert runs[0].curves["mix"][1] == [0.0, 0.3, 0.5]


@pytest.mark.parametrize("content", [[{}], {"a": 1}, [1], [{**a_run(), "curves": {"Other": [1.0]}}]])
def test_what_holds_no_curves_is_refused(content, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="does not hold the authors' curves"):
        read_published(tmp_path)
    with pytest.raises(ResultsError, match="--published names the folder"):
        read_published(tmp_path / "absent")


def swept(**about):
    rows = [
        ({"target": target, "alpha": f"{alpha:g}"}, {"accuracy": 0.5})
        for target in alpha_sweep.TARGETS
        for alpha in alpha_sweep.ALPHAS
    ]
    return a_table("alpha-sweep", *rows, **about)


def forms():
    rows = [
        ({"trust": trust, "space": space, "odds": odds}, {"clean": clean, "attacked": 1 - clean})
        for trust in trust_options.TRUST_OPTIONS
        for space in trust_options.SPACES
        for odds, clean in (("0", 0.9), ("1000", 0.8))
    ]
    return a_table("trust-options", *rows)


def test_pages_have_the_curves_of_their_norm_or_say_that_they_are_left_out(tmp_path):
    curves = read_published(written(tmp_path, a_run(), a_run(norm="l_2", Comp=[0.0, 10.0, 20.0])))
    for experiment, table in ((alpha_sweep.EXPERIMENT, swept()), (trust_options.EXPERIMENT, forms())):
        figure = Figure()
        experiment.draw(table, figure)
        before = len(figure.axes[0].get_lines())
        assert "left out; --published FOLDER adds them" in experiment._compared(table, figure, None)
        assert len(figure.axes[0].get_lines()) == before
        (first, *others) = table.rows
        lacking = replace(table, rows=(replace(first, values={}), *others))
        assert experiment._compared(lacking, figure, curves) == ""  # --published would not help
        text = experiment._compared(table, figure, curves)
        assert len(figure.axes[0].get_lines()) == before + (4 if experiment is alpha_sweep.EXPERIMENT else 1)
        assert "CIFAR-10, A net, PGD, the first 2000 test images" in text
        assert experiment._compared(table, figure, curves[1:]).startswith("**Published curves:** the file has none")


def test_published_areas_and_jumps_are_those_of_the_curves(tmp_path):
    curves = read_published(written(tmp_path, a_run()))
    text = trust_options.EXPERIMENT.compare(forms(), _drawn(trust_options.EXPERIMENT, forms()), curves)
    levels = np.linspace(0.8, 0.9, 101)
    area = np.where(levels <= 0.8, 0.5, np.where(levels <= 0.85, 0.4, 0.0)).mean() / 0.5
    points = [(0.9, 0.0), (0.85, 0.4), (0.8, 0.5)]
    assert trust_options.area_under(points, (0.8, 0.9), 0.5) == pytest.approx(area, abs=0.01)
    own = trust_options.area_under(curves[0].trade_off(), (0.8, 0.9), 0.5)
    assert own == pytest.approx(area, abs=0.01)
    assert f"| Use SoftMax but no GradNorm | {own:.2f} | 0.0% |" in text
    text = alpha_sweep.EXPERIMENT.compare(swept(), _drawn(alpha_sweep.EXPERIMENT, swept()), curves)
    low, high = (np.interp(alpha, [1 / 11, 1 / 2, 10 / 11], [0.0, 0.4, 0.5]) for alpha in (0.45, 0.55))
    assert f"leaves {low:.1%} at alpha 0.45, {high:.1%} at 0.55 and 50.0% with h alone" in text


def _drawn(experiment, table):
    figure = Figure()
    experiment.draw(table, figure)
    return figure


@pytest.mark.skipif(not FOLDER.exists(), reason="the authors' curves are not here")
def test_the_authors_best_form_is_r_of_1_with_probabilities():
    runs = read_published(FOLDER)
    assert len(runs) == 8  # nine, of which two are one form
    for norm, best, others in (("Linf", 0.541, 0.40), ("L2", 0.663, 0.54)):
        at_90 = {run.title: trust_options._at_90(run) for run in runs if run.norm == norm}
        (mix,) = (run.title for run in runs if run.norm == norm and run.is_mix)
        assert at_90.pop(mix) == pytest.approx(best, abs=0.011)
        assert max(at_90.values()) < others


def test_the_command_takes_the_folder(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(alpha_sweep.AlphaSweep, "run", lambda self, bench, out, curves: given.append(curves) or [])
    arguments = ["experiment", "alpha-sweep", "--n", "2", "--device", "cpu", "--out", str(tmp_path)]
    assert CliRunner().invoke(asz, arguments, catch_exceptions=False).exit_code == 0
    folder = str(written(tmp_path, a_run()))
    assert CliRunner().invoke(asz, [*arguments, "--published", folder], catch_exceptions=False).exit_code == 0
    assert given[0] is None
    assert [run.title for run in given[1]] == ["Use SoftMax but no GradNorm"]
