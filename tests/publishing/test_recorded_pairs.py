"""What the page on mixing says of pairs of nets is what their records say, example by example."""

import json
import re
from pathlib import Path

import pytest

from adaptive_smoothing_zoo.publishing.comparison import compare
from adaptive_smoothing_zoo.tuning.front import Candidate, Front
from adaptive_smoothing_zoo.tuning.fronts_table import side_by_side

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mix-your-own.md").read_text()
PAIRS = {
    "CIFAR-10, l_inf 8/255": ("results/cifar10/Linf", "Demo2026MixedNUTS", "Demo2026Constant"),
    "CIFAR-10, l_inf 2/255": ("pairs/resnet56/cifar10/Linf", "TunedResNet56", "ConstantResNet56"),
    "MNIST, l_inf 0.3": ("pairs/lenet/mnist/Linf", "TunedLeNet", "ConstantLeNet"),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_page_has_the_numbers_of_the_records(pair):
    folder, *names = PAIRS[pair]
    found = compare(*(ROOT / "eval" / folder / f"{name}.run.json" for name in names))
    section = PAGE.split(f"**{pair}.**")[1].split("\n**")[0]
    told = set(re.findall(r"\d+(?:\.\d+)?", section))
    for paired in (found.clean, found.run, found.best):
        assert {f"{100 * share:.2f}" for share in paired.shares} <= told
    for paired in (found.run, found.best):
        assert {f"{100 * abs(value):.2f}" for value in (paired.difference, *paired.interval)} <= told
        assert {str(paired.first), str(paired.second)} <= told
        assert f"p = {paired.p_value:.1g}" in section
    assert str(found.run.n) in told


def _front(candidates):
    kept = ({**each, "std_map": None, "rob_map": None} for each in candidates)
    return Front(candidates=tuple(Candidate(**each) for each in kept), looked_at=0)


@pytest.mark.parametrize("folder", ["resnet18/cifar10/Linf", "resnet56/cifar10/Linf", "lenet/mnist/Linf"])
def test_its_tables_are_those_of_the_recorded_fronts(folder):
    record = json.loads((ROOT / "eval" / "pairs" / folder / "tuning.json").read_text())
    fronts = {form: _front(candidates) for form, candidates in record["fronts"].items()}
    assert side_by_side(fronts, record["rob_accuracy"]) in PAGE
