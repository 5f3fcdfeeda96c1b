"""Two recorded models on the same examples."""

import json
import shutil
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from command_line import run
from hypothesis import given
from hypothesis import strategies as st
from recorded import ENTRY, EXAMPLES, MODEL, add_adaptive, an_evaluation
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.comparison import PairedShares, compare
from adaptive_smoothing_zoo.publishing.run_record import RunRecord, make_record, write_results


def score(ahead, behind, n, difference):
    """Of the test, with the likeliest share of examples behind found by search instead of in closed form."""
    rest = n - ahead - behind

    def unlikely(share):
        shares = np.clip([share + difference, share, 1 - 2 * share - difference], 1e-300, None)
        return -float(np.dot([ahead, behind, rest], np.log(shares)))

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    return (ahead - behind - n * difference) / np.sqrt(n * (2 * share + difference * (1 - difference)))


@pytest.mark.parametrize(("both", "first", "second", "n"), [(36, 12, 2, 50), (70, 23, 1, 128), (200, 8, 9, 359)])
def test_the_interval_ends_where_the_score_test_rejects(both, first, second, n):
    low, high = PairedShares(n=n, both=both, first=first, second=second).interval
    quantile = norm.ppf(0.975)
    assert score(first, second, n, low) == pytest.approx(quantile, abs=1e-4)
    assert score(first, second, n, high) == pytest.approx(-quantile, abs=1e-4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_of_any_verdicts_the_interval_holds_the_difference_and_turns_with_the_order(verdicts):
    a, b = np.array(verdicts).T
    paired, turned = PairedShares.of(a, b), PairedShares.of(b, a)
    assert paired.shares == (a.mean(), b.mean())
    assert paired.difference == pytest.approx(a.mean() - b.mean())
    low, high = paired.interval
    assert -1 <= low <= paired.difference <= high <= 1
    assert turned.interval == pytest.approx((-high, -low))
    assert turned.p_value == pytest.approx(paired.p_value)


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    generator, true = np.random.default_rng(0), 0.12
    counts = generator.multinomial(128, [0.15, 0.03, 0.5, 0.32], size=300)
    intervals = [PairedShares(n=128, both=both, first=a, second=b).interval for a, b, both, _ in counts.tolist()]
    assert 0.92 < np.mean([low <= true <= high for low, high in intervals]) < 0.99


def test_extremes():
    assert PairedShares(n=9, both=0, first=9, second=0).interval == (
        pytest.approx(0.402, abs=1e-3),
        1.0,
    )  # 1 - Wilson's
    assert PairedShares(n=9, both=0, first=0, second=9).interval[0] == -1.0
    agree = PairedShares(n=50, both=20, first=0, second=0)
    z = norm.ppf(0.975) ** 2
    assert agree.interval == (pytest.approx(-z / (50 + z)), pytest.approx(z / (50 + z)))
    assert agree.p_value == 1.0


def test_the_sign_test_is_exact():
    paired = PairedShares(n=100, both=10, first=30, second=10)
    assert paired.p_value == pytest.approx(2 * sum(comb(40, k) for k in range(11)) / 2**40)


def recorded(folder, name, robust, **changes):
    """A run record of a model, and its path."""
    robust = np.isin(np.arange(8), robust)
    clean = np.arange(8) < 7
    after = dict.fromkeys(("clean", "apgd-ce"), 0.875) | dict.fromkeys(("apgd-t", "fab-t", "square"), robust.mean())
    broken_by = np.where(robust, "", np.where(clean, "apgd-t", "clean"))
    evaluation = an_evaluation(robust=robust, broken_by=broken_by, accuracy_after=after)
    entry, examples = replace(ENTRY, name=name), changes.pop("examples", EXAMPLES)
    record = replace(make_record(entry, evaluation, examples, MODEL), **changes)
    write_results(folder, entry, evaluation, examples, record)
    return RunRecord.path(folder, entry)


def test_two_records_are_compared_after_all_that_each_has_met(tmp_path, capsys):
    first = recorded(tmp_path / "a", ENTRY.name, [0, 1, 2, 3])
    add_adaptive(tmp_path / "a", 3)
    second = recorded(tmp_path / "b", "Other", [3, 4])
    found = compare(first, second)
    assert (found.clean.first, found.clean.second, found.clean.both) == (0, 0, 7)
    assert (found.run.first, found.run.second, found.run.both) == (3, 1, 1)
    assert (found.best.first, found.best.second, found.best.both) == (3, 2, 0)
    assert found.attacks == ("AutoAttack standard; adaptive AutoAttack", "AutoAttack standard")
    code, out, _ = run(capsys, "compare", str(first), str(second))
    assert code == 0
    assert "all attacks          37.50   25.00  +12.50 (" in out
    assert "all attacks on the second: AutoAttack standard\n" in out


def test_what_cannot_be_compared_is_refused(tmp_path):
    first = recorded(tmp_path / "a", "One", [0])
    others = replace(EXAMPLES, labels=EXAMPLES.labels.roll(1))
    with pytest.raises(ResultsError, match="not about the same examples"):
        compare(first, recorded(tmp_path / "b", "Two", [0], examples=others))
    with pytest.raises(ResultsError, match="not about the same examples"):
        compare(first, recorded(tmp_path / "c", "Two", [0], data_sha256="0" * 64))
    with pytest.raises(ResultsError, match="with the same radius"):
        compare(first, recorded(tmp_path / "d", "Two", [0], eps="1/10"))
    with pytest.raises(
        ResultsError, match=r"is no run record; asz eval writes OUT/DATASET/THREAT_MODEL/NAME\.run\.json"
    ):
        compare(first, first.with_name("One.json"))
    moved = tmp_path / "elsewhere" / "Linf" / first.name
    moved.parent.mkdir(parents=True)
    shutil.copy(first, moved)
    with pytest.raises(ResultsError, match=r"records .One-digits-Linf., not One-elsewhere-Linf"):
        compare(first, moved)
    assert json.loads(first.read_text())["model"] == "One"
