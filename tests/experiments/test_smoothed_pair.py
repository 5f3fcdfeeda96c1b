"""Confidence of two smoothed nets: against direct counts, with nets whose votes are known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from making import ABOUT, CPU, EXAMPLES, a_table, begun
from torch import nn

from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments import find_experiment
from adaptive_smoothing_zoo.experiments.confidence_path import RATIOS, column
from adaptive_smoothing_zoo.experiments.mixing_ratios import first_changes
from adaptive_smoothing_zoo.experiments.smoothed_methods import EXPERIMENT, MethodsBench
from adaptive_smoothing_zoo.experiments.smoothed_pair import METHODS, PairBench, PairTable, paths, true_and_off
from adaptive_smoothing_zoo.training.recipe import RECIPES

TABLE = {**ABOUT, "sigma": 0.25, "votes": 8, "steps": 5, "recipes_sha256": "0"}


class Brightness(nn.Module):
    """Ten classes, by how bright an image is; that of a true class only near its example."""

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1, keepdim=True)
        return -((10 * mean - torch.arange(10) - 0.5) ** 2)


@pytest.fixture
def bench():
    methods = MethodsBench(experiment=EXPERIMENT, recipes=RECIPES / "smoothed", trained=Path(), n=6, device=CPU)
    made = PairBench(methods=methods, votes=8, steps=5)
    made._nets.update(dict.fromkeys(METHODS, Brightness()))
    return made


def test_confidence_is_the_share_of_votes_under_the_same_noise(bench):
    images = EXAMPLES.images[:6]
    found = bench.confidence("gaussian", images)
    assert found.shape == (6, 10)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(found[2:3], bench.confidence("gaussian", images[2:3]))
    many = PairBench(methods=bench.methods, votes=1000, steps=5)
    many._nets.update(bench._nets)
    # The mean of 64 pixels' noise has the standard deviation 0.25 / 8.
    mean = images[:1].flatten(1).mean(dim=1)
    edges = torch.arange(11) / 10
    expected = torch.special.ndtr((edges - mean) / (0.25 / 8)).diff()
    torch.testing.assert_close(many.confidence("gaussian", images[:1])[0].float(), expected, atol=0.06, rtol=0)


def test_the_search_stays_in_its_ball_and_lowers_the_true_class(bench):
    bench._nets["gaussian"] = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    ends = bench.adversarial("gaussian", 0.5)
    away = (ends - bench.examples.images).flatten(1).norm(dim=1)
    assert away.max() <= 0.5 + 1e-5
    assert away.min() > 0.2
    net, labels = bench.net("gaussian"), bench.examples.labels
    before, after = (net(images).log_softmax(1).gather(1, labels[:, None]) for images in (bench.examples.images, ends))
    assert (after < before).all()


def test_true_and_off_class_confidences():
    confidence = torch.tensor([[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]])
    true, off = true_and_off(confidence, torch.tensor([1, 2]))
    torch.testing.assert_close(true, torch.tensor([0.5, 0.1]))
    torch.testing.assert_close(off, torch.tensor([0.3, 0.7]))


def test_ratios_are_where_the_class_is_lost_first():
    ratios = torch.tensor([0.0, 0.5, 1.0])
    classes = torch.tensor([[1, 1, 0, 2], [1, 2, 0, 1], [0, 1, 0, 1]])
    first, right = first_changes(classes, torch.tensor([1, 1, 0, 1]), ratios)
    assert first.tolist() == [1.0, 0.5, torch.inf, torch.inf]
    assert right == 3
    way = paths(torch.zeros(1, 2), torch.ones(1, 2), ratios)
    torch.testing.assert_close(way[:, 0, 0], ratios)


@pytest.mark.parametrize("name", ["off-class-confidence", "confidence-path", "mixing-ratios"])
def test_rows_are_measured_and_a_page_follows(bench, tmp_path, name):
    experiment = find_experiment(name)
    (*_, table) = experiment.run(bench, tmp_path)
    assert [row.case for row in table.rows] == experiment.cases()
    page = (tmp_path / name / "digits.md").read_text()
    assert "shares of 8 hard votes; adversarial examples by 5 gradient steps" in page
    assert "with 4 noise samples, seed 0; each net was trained once" in page
    if name == "off-class-confidence":
        true, off = true_and_off(bench.confidence("gaussian", bench.examples.images), bench.examples.labels)
        row = table.row(method="gaussian", radius="0")
        assert (row["true"], row["off"]) == (pytest.approx(float(true.mean())), pytest.approx(float(off.mean())))


def test_a_file_of_another_seed_is_not_resumed(bench, tmp_path):
    experiment = find_experiment("off-class-confidence")
    begun(experiment, bench, tmp_path, rows=1)
    with pytest.raises(ResultsError, match="was measured with seed 0, not 1; name another --out"):
        next(experiment.run(replace(bench, seed=1), tmp_path))


def test_verdicts_follow_from_the_numbers():
    ratios = find_experiment("mixing-ratios")

    def table(gaussian, smoothmix):
        rows = [({"method": m}, {"mean": v}) for m, v in zip(METHODS, (gaussian, smoothmix), strict=True)]
        return a_table("mixing-ratios", *rows, kind=PairTable, about=TABLE)

    assert ratios.agreement(table(0.2, 0.3)).startswith("yes")
    assert ratios.agreement(table(0.3, 0.2)).startswith("no")
    way = find_experiment("confidence-path")
    for end, word in ((0.9, "yes"), (0.5, "no")):
        values = {column(kind, ratio): 0.6 for kind in ("true", "adversarial") for ratio in RATIOS}
        values[column("adversarial", 1.0)] = end
        rows = [(case, values) for case in way.cases()]
        assert way.agreement(a_table(way.name, *rows, kind=PairTable, about=TABLE)).startswith(word)
    off = find_experiment("off-class-confidence")
    for last, word in ((0.9, "yes"), (0.1, "in part")):
        rows = [
            (case, {"true": 0.7 - 0.05 * float(case["radius"]), "off": last if case["radius"] == "10" else 0.2})
            for case in off.cases()
        ]
        assert off.agreement(a_table(off.name, *rows, kind=PairTable, about=TABLE)).startswith(word)


def test_data_without_recipes_are_refused():
    found = CliRunner().invoke(asz, ["experiment", "mixing-ratios", "--dataset", "cifar10"])
    assert "recipes of both nets for digits and mnist alone, not for cifar10" in str(found.exception or found.output)
