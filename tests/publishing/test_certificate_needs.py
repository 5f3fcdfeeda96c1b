"""What a card says of certificates without weights, against the formulas of the papers."""

import re
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest

from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.certificate_needs import needs_section
from adaptive_smoothing_zoo.zoo.entry import ConstantAlphaConfig
from adaptive_smoothing_zoo.zoo.registry import find_entry, list_models

CARDS = Path(__file__).parents[2] / "model_cards"
PUBLISHED = [entry for entry in list_models() if entry.published is not None]
STATED = {  # alpha_min; gap, probability and ceiling (sigma 0.25) as [BAS24] gives them for it
    ("Bai2023Improving_edm", "cifar10"): (0.96, 0.0417, 0.521, 0.438),
    ("Bai2023Improving_edm", "cifar100"): (0.84, 0.1905, 0.595, 0.249),
    ("Bai2023Improving_trades", "cifar100"): (0.815, 0.2270, 0.6135, 0.224),
    ("Bai2024MixedNUTS", "cifar10"): (0.9987500602493457, 0.00125, 0.5006, 0.756),
    ("Bai2024MixedNUTS", "cifar100"): (0.9860300534207915, 0.0142, 0.5071, 0.550),
    ("Bai2024MixedNUTS", "imagenet"): (0.9971266414518896, 0.0028816, 0.501441, 0.6905),
}


def numbers(pattern, text):
    (found,) = re.findall(pattern, text)
    return float(found)


@pytest.mark.parametrize("entry", PUBLISHED, ids=[entry.key for entry in PUBLISHED])
def test_the_card_of_a_published_triplet_says_what_a_certificate_needs(entry):
    alpha, gap, probability, ceiling = STATED[entry.name, entry.dataset]
    text = model_card(entry, None)
    shown = (
        numbers(r"\(1 - alpha_min\) / alpha_min = ([\d.]+)\. ", text),
        numbers(r"1 / \(2 alpha_min\) = ([\d.]+)\.\n", text),
        numbers(r"sigma Phi\^-1\(alpha_min\) = ([\d.]+), its", text),
    )
    exact = ((1 - alpha) / alpha, 1 / (2 * alpha), 0.25 * NormalDist().inv_cdf(alpha))
    assert shown == pytest.approx(exact, rel=2e-3)
    assert shown == pytest.approx((gap, probability, ceiling), rel=3e-3)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| [\d.]+ \| [\d.]+ \|", line)]
    assert [row[0] for row in rows] == ["0.25", "0.5", "0.75", "1"]
    for row in rows:
        m, *radii, largest = map(float, row)
        expected = [(m - exact[0]) / (2 * constant) for constant in (1, 4, 16)]
        assert [*radii, largest] == pytest.approx([*expected, (m - exact[0]) / (2 * entry.eps_value)], rel=5e-3)


@pytest.mark.parametrize("entry", PUBLISHED, ids=[entry.key for entry in PUBLISHED])
def test_the_shipped_cards_of_published_triplets_are_up_to_date(entry):
    assert (CARDS / f"{entry.key}.md").read_text() == model_card(entry, None)


@pytest.mark.parametrize("name", ["edm", "trades"])
def test_the_card_names_the_adapted_attack_that_the_papers_ran(name):
    text = model_card(find_entry(f"Bai2023Improving_{name}", "cifar100", "Linf"), None)
    assert "setting D of [BAKS24 v1, Tables 1 and 2]" in text
    assert "32.94 to 32.80 %" in text


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_an_alpha_of_one_half_or_less_lets_g_decide(alpha):
    entry = replace(PUBLISHED[0], alpha=ConstantAlphaConfig(value=alpha))
    assert needs_section(entry).startswith(f"None: alpha_min = {alpha:g} is not above 1/2")


def test_h_alone_needs_no_gap_and_has_no_ceiling():
    text = needs_section(replace(PUBLISHED[0], alpha=ConstantAlphaConfig(value=1.0)))
    assert "(1 - alpha_min) / alpha_min = 0. " in text
    assert "1 / (2 alpha_min) = 0.5000" in text
    assert "Theorem 5" not in text
    assert "inf" not in text.replace("l_inf", "")


def test_a_radius_of_zero_allows_any_constant():
    text = needs_section(replace(PUBLISHED[0], eps="0"))
    assert "| 1 | 0.479 | 0.12 | 0.0299 | inf |" in text
