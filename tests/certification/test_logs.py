"""Logs against the published rows, damaged files, and the certificates of mixes."""

import codecs
import dataclasses
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from adaptive_smoothing_zoo.certification.bounds.sharp import sharp_smoothing_radius
from adaptive_smoothing_zoo.certification.bounds.theorem4 import gaussian_lipschitz, lipschitz_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.logs import Certificates, certificates_of, read_log
from adaptive_smoothing_zoo.certification.mixes import mix_certificates
from adaptive_smoothing_zoo.certification.plots import (
    CertifiedCurve,
    certified_curve,
    plot_certified_curves,
)
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.method.alpha import ConstantAlpha

REFERENCE = Path(__file__).parents[2] / "../shared/reference/certify"
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def reference(name):
    if not (REFERENCE / name).exists():
        pytest.skip(f"the published log {name} is not on this machine")
    return read_log(REFERENCE / name)


@pytest.mark.parametrize(
    ("name", "radius", "row"),
    [
        ("smoothmix_cifar10_noise_0.25.tsv", 0.553, [77.1, 67.9, 57.9, 46.7]),
        ("smoothmix_cifar10_noise_0.25_adv.tsv", 0.548, [74.2, 66.1, 57.4, 47.7]),
    ],
)
def test_published_logs_give_the_published_rows(name, radius, row):
    certificates = reference(name)
    assert len(certificates) == 10_000
    assert round(certificates.average_certified_radius(), 3) == radius
    thousandths = np.floor(1000 * certificates.certified_accuracy([0, 0.25, 0.5, 0.75]) + 0.5)  # 57.85 % is 57.9 %
    assert (thousandths / 10).tolist() == row


@pytest.mark.parametrize("sigma", ["0.25", "0.50"])
def test_logs_of_the_first_authors_are_read(sigma):
    certificates = reference(f"cohen_cifar10_resnet110_sigma_{sigma}.tsv")
    assert len(certificates) == 500
    assert certificates.index[1] == 20
    assert certificates.seconds.min() > 10


def some(radius=(0.5, 0.0, 1.25, 0.75), prediction=(1, -1, 2, 0), label=(1, 1, 2, 2)):
    n = len(radius)
    return certificates_of(
        [(10 * i, label[i], prediction[i], radius[i], prediction[i] == label[i], 61.5 + i) for i in range(n)]
    )


def test_summaries_are_the_definitions():
    certificates = some()
    assert certificates.average_certified_radius() == (0.5 + 1.25) / 4
    np.testing.assert_array_equal(certificates.certified_accuracy([0, 0.5, 0.51, 2]), [0.5, 0.5, 0.25, 0])
    assert certificates.certified_accuracy(0.5) == 0.5
    np.testing.assert_array_equal(certificates.abstained, [False, True, False, False])


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3), st.floats(0, 10)), min_size=1, max_size=20))
def test_certified_accuracy_counts(examples):
    rows = [(i, y, p, r if p >= 0 else 0.0, p == y, 0.0) for i, (p, y, r) in enumerate(examples)]
    certificates = certificates_of(rows)
    for r in [0.0, 1.0, *certificates.radius]:
        expected = sum(row[4] and row[3] >= r for row in rows) / len(rows)
        assert certificates.certified_accuracy(r) == expected


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e6)), max_size=5))
def test_a_log_comes_back_to_the_last_bit(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("log") / "log.tsv"
    written = certificates_of([(i, 3, 3, radius, True, seconds) for i, (radius, seconds) in enumerate(values)])
    written.write(path)
    read = read_log(path)
    np.testing.assert_array_equal(read.radius, written.radius)
    np.testing.assert_allclose(read.seconds, written.seconds, atol=1e-6)
    for name in ("index", "label", "prediction", "correct"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


def write(tmp_path, text, newline="\n"):
    path = tmp_path / "log.tsv"
    path.write_bytes(text.replace("\n", newline).encode())
    return path


def test_formats_found_in_the_wild_are_read(tmp_path):
    rows = "7\t3\t3\t0.505\t1\t0:00:16.602175\n\n9\t1\t-1\t0.0\t0\t15.4\n11\t1\t0\t7.39e-05\t0\t1 day, 1:00:00\n"
    for newline in ("\n", "\r\n"):
        read = read_log(write(tmp_path, f"{HEADER}\n{rows}\n", newline))
        np.testing.assert_array_equal(read.index, [7, 9, 11])
        np.testing.assert_array_equal(read.prediction, [3, -1, 0])
        np.testing.assert_array_equal(read.radius, [0.505, 0.0, 7.39e-05])
        np.testing.assert_allclose(read.seconds, [16.602175, 15.4, 90_000])
    without_time = read_log(write(tmp_path, "correct\tidx\tlabel\tpredict\tradius\tnote\n1\t0\t2\t2\t0.5\tgood"))
    assert without_time.prediction.tolist() == [2]
    assert np.isnan(without_time.seconds).all()


def test_a_byte_order_mark_changes_nothing(tmp_path):
    some().write(tmp_path / "log.tsv")
    content = (tmp_path / "log.tsv").read_bytes()
    (tmp_path / "marked.tsv").write_bytes(codecs.BOM_UTF8 + content)
    equal = dataclasses.asdict(read_log(tmp_path / "log.tsv"))
    for name, values in dataclasses.asdict(read_log(tmp_path / "marked.tsv")).items():
        np.testing.assert_array_equal(values, equal[name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("0\t3\t3\t0.5\t1\t1.0\n", "first line must name"),
        ("idx\tlabel\tpredict\tcorrect\n", "radius missing"),
        (f"{HEADER}\n0\t3\t3\t0.5\t1\t1.0\n1\t3\t3\t0.", "line 3: expected 6 fields, got 4"),
        (f"{HEADER}\n0\t3\t3\tx\t1\t1.0\n", "line 2 is damaged: could not convert"),
        (f"{HEADER}\n0.5\t3\t3\t0.5\t1\t1.0\n", "line 2 is damaged"),
        (f"{HEADER}\n\n0\t3\t3\t-0.5\t1\t1.0\n", "line 3 is damaged: example 0 has a radius that is negative"),
        (f"{HEADER}\n0\t3\t3\tnan\t1\t1.0\n", "radius that is negative or not a number"),
        (f"{HEADER}\n0\t3\t-2\t0.0\t0\t1.0\n", "neither a class nor -1"),
        (f"{HEADER}\n0\t3\t-1\t0.5\t0\t1.0\n", "though nothing was predicted"),
        (f"{HEADER}\n0\t3\t3\t0.5\t0\t1.0\n", "contradicts"),
        (f"{HEADER}\n0\t3\t3\t0.5\t2\t1.0\n", "line 2 is damaged"),
        (f"{HEADER}\n0\t3\t3\t0.5\t1\tsoon\n", "line 2 is damaged"),
        (
            f"{HEADER}\n5\t3\t3\t0.5\t1\t1.0\n6\t3\t3\t0.5\t1\t1\n5\t3\t3\t0.5\t1\t1.0\n",
            r"line 4: .* \(first in line 2\)",
        ),
    ],
)
def test_damaged_logs_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(ResultsError, match=message):
        read_log(write(tmp_path, text))


def test_a_log_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ResultsError, match=r"there is no certification log .*none\.tsv"):
        read_log(tmp_path / "none.tsv")
    with pytest.raises(ResultsError, match="cannot read"):
        read_log(tmp_path)
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match="cannot read"):
        read_log(tmp_path / "binary.tsv")


def test_certificates_are_read_only_and_consistent():
    with pytest.raises(ValueError, match="read-only"):
        some().radius[0] = 3.0
    with pytest.raises(ValueError, match="appears twice"):
        certificates_of([(0, 1, 1, 0.5, True, 0.0)] * 2)
    with pytest.raises(ValueError, match="must have shape"):
        Certificates(index=[0, 1], label=[0], prediction=[0], radius=[0.0], correct=[True], seconds=[0.0])
    with pytest.raises(ValueError, match="no certificates"):
        certificates_of([]).average_certified_radius()
    with pytest.raises(ValueError, match="radii must be"):
        some().certified_accuracy([-1.0])


# ---- mixes


@given(st.floats(0.51, 1.0), st.floats(0.05, 2.0), st.floats(0.001, 3.8))
def test_a_mixs_radius_is_the_closed_form_with_the_rest_for_the_runner_up(alpha, sigma, quantile):
    p_top = norm.cdf(quantile)
    h = some(radius=[quantile * sigma], prediction=[1], label=[1])
    expected_radii = {
        "theorem4": lipschitz_radius([p_top, 1 - p_top], alpha, gaussian_lipschitz(sigma)),
        "theorem5": smoothing_radius(p_top, 1 - p_top, alpha, sigma),
        "sharp": sharp_smoothing_radius(p_top, 1 - p_top, alpha, sigma),
    }
    for bound, expected in expected_radii.items():
        mixed = mix_certificates(h, alpha, sigma, bound=bound)
        expected = float(expected)
        assert mixed.radius[0] == pytest.approx(expected, abs=1e-9)
        assert mixed.prediction[0] == (1 if mixed.radius[0] > 0 else -1)


@given(st.floats(0.501, 1.0), st.floats(0.05, 2.0), st.floats(0.001, 8.0))
def test_a_mixs_radius_is_rounded_down(alpha, sigma, quantile):
    """In 40 digits: what remains of h's probability at the radius is still enough."""
    h = some(radius=[quantile * sigma], prediction=[1], label=[1])
    with mpmath.workdps(40):
        a, s, r = mpmath.mpf(alpha), mpmath.mpf(sigma), mpmath.mpf(float(h.radius[0]))
        theorem = mpmath.mpf(float(mix_certificates(h, alpha, sigma, bound="theorem5").radius[0]))
        sharp = mpmath.mpf(float(mix_certificates(h, alpha, sigma, bound="sharp").radius[0]))
        assert theorem == 0 or mpmath.ncdf(theorem / s) <= a * mpmath.ncdf(r / s)
        assert sharp == 0 or mpmath.ncdf((r - sharp) / s) >= 1 / (2 * a)


def test_mixes_of_a_log():
    h = some()
    assert mix_certificates(h, 1.0, 0.5) is h
    by_theorem4 = mix_certificates(h, 1.0, 0.5, bound="theorem4").radius
    np.testing.assert_allclose(by_theorem4, (norm.cdf(h.radius / 0.5) - 0.5) * 0.5 * np.sqrt(2 * np.pi), atol=1e-12)
    np.testing.assert_array_equal(mix_certificates(h, 0.5, 0.5).prediction, -1)
    mixed = mix_certificates(h, ConstantAlpha(0.8), 0.5)
    np.testing.assert_allclose(mixed.radius, np.maximum(0.5 * norm.ppf(0.8 * norm.cdf(h.radius / 0.5)), 0), rtol=1e-9)
    np.testing.assert_array_equal(mixed.prediction, [1, -1, 2, 0])
    few = mix_certificates(h, 0.59, 0.5)
    np.testing.assert_array_equal(few.prediction, [-1, -1, 2, 0])
    np.testing.assert_array_equal(few.correct, [False, False, True, False])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": [0.8, 0.9], "sigma": 0.5}, "one alpha"),
        ({"alpha": 1.5, "sigma": 0.5}, "alpha must be"),
        ({"alpha": 0.8, "sigma": 0.0}, "sigma must be"),
        ({"alpha": 0.8, "sigma": 0.5, "bound": "best"}, "the bound must be"),
    ],
)
def test_mixes_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        mix_certificates(some(), **arguments)


# ---- figures


def test_the_curve_has_its_corners_where_certificates_end():
    radii, shares = certified_curve(some())
    np.testing.assert_array_equal(radii[:3], [0.0, 0.5, 1.25])
    np.testing.assert_array_equal(shares, [0.5, 0.5, 0.25, 0.0])


def test_certified_curves_are_drawn_with_the_jump_at_zero(tmp_path):
    pytest.importorskip("matplotlib")
    mixed_certificates = mix_certificates(some(), 0.8, 0.5)
    curves = [
        CertifiedCurve(label="h", certificates=some(), baseline=True),
        CertifiedCurve(label="mix", certificates=mixed_certificates, jumps=True, clean_accuracy=0.75),
    ]
    axes = plot_certified_curves(curves)
    h, mixed, limit, clean = axes.lines
    np.testing.assert_array_equal(h.get_ydata(), [0.5, 0.5, 0.25, 0.0])
    assert (h.get_linestyle(), mixed.get_linestyle()) == ("--", "-")
    np.testing.assert_array_equal(mixed.get_xdata()[:-1], [0.0, *np.sort(mixed_certificates.radius[[0, 2]])])
    assert (limit.get_xdata(), limit.get_ydata(), limit.get_markerfacecolor()) == ([0.0], [0.5], "white")
    assert (clean.get_xdata(), clean.get_ydata()) == ([0.0], [0.75])
    assert clean.get_markerfacecolor() == mixed.get_color()
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["h", "mix"]
    axes.figure.savefig(tmp_path / "curves.png")
    assert plot_certified_curves(curves, axes=axes) is axes
    assert axes.get_legend() is not None
    with pytest.raises(ValueError, match="no certified curves"):
        plot_certified_curves([])


def test_the_number_of_examples_is_shown_with_the_curves_it_belongs_to():
    pytest.importorskip("matplotlib")
    one = CertifiedCurve(label="one", certificates=certificates_of([(0, 1, 1, 0.5, True, 0.0)]))
    four = CertifiedCurve(label="four", certificates=some())
    axes = plot_certified_curves([four, four])
    assert axes.get_ylabel() == "certified accuracy (n = 4)"
    axes = plot_certified_curves([one, four])
    assert axes.get_ylabel() == "certified accuracy"
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["one, n = 1", "four, n = 4"]


@pytest.mark.parametrize("count", [1, 4, 12])
def test_the_legend_covers_no_curve_and_no_label(count):
    agg = pytest.importorskip("matplotlib.backends.backend_agg")
    label = r"Demo2026Constant.rob_model.smoothed-0.25-hard, $\alpha$ = 0.9, theorem5"
    axes = plot_certified_curves([CertifiedCurve(label=label, certificates=some())] * count)
    axes.set_title("A title")
    agg.FigureCanvasAgg(axes.figure).draw()
    legend, figure = axes.figure.legends[0].get_window_extent(), axes.figure.bbox
    for other in (axes.bbox, axes.xaxis.get_tightbbox(), axes.title.get_window_extent()):
        assert not legend.overlaps(other)
    assert figure.x0 <= legend.x0
    assert legend.x1 <= figure.x1
    assert figure.y0 <= legend.y0
    assert axes.bbox.height > 0.4 * figure.height or axes.bbox.height > 300
