"""Experiments on published logs: numbers against direct counts, and what the published logs themselves give."""

import shutil
import tarfile
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure
from scipy.stats import norm

from adaptive_smoothing_zoo.certification import Certificates, read_log
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.experiments import find_experiment
from adaptive_smoothing_zoo.experiments.experiment import Measured, Row, read_table
from adaptive_smoothing_zoo.experiments.published_ablations import LOGS as ABLATIONS
from adaptive_smoothing_zoo.experiments.published_logs import (
    COHEN_LOGS,
    RADII,
    SUMMARIES,
    LogsBench,
    LogsTable,
    PublishedLogs,
    column,
)
from adaptive_smoothing_zoo.experiments.published_mix import PRINTED, certified_by, clean_range
from adaptive_smoothing_zoo.experiments.published_pareto import PublishedParetoTable
from adaptive_smoothing_zoo.experiments.published_tables import HALF, ROWS, acr_leads

LOGS = Path(__file__).parents[2] / "../shared/reference/certlogs/selected.tar.xz"
PAGES = Path(__file__).parents[2] / "eval" / "experiments"
ROW = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


@pytest.fixture
def logs(tmp_path):
    """Four small logs in the places of [CRK19]'s, and an index of another one."""
    for k, path in enumerate(COHEN_LOGS.values()):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        radii = [0.9, 0.3 + 0.1 * k, 0.02, 0.0]
        labels, predictions = [1, 2, 3, 4], [1, 2, 0, -1]
        lines = zip(labels, predictions, radii, strict=True)
        file.write_text(ROW + "".join(f"{i}\t{y}\t{p}\t{r}\t{int(y == p)}\t1.0\n" for i, (y, p, r) in enumerate(lines)))
    head = "path\trows\tACR\tcert0\tcert0.25\tcert0.50\n"
    (tmp_path / "index.tsv").write_text(head + "there/noise_1\t10\t0.5\t0.9\t0.8\t0.1\n")
    return PublishedLogs(tmp_path)


def test_a_log_is_summed_up_as_its_lines_say_and_the_index_serves_where_there_is_none(logs):
    path = COHEN_LOGS["0.25"]
    values = logs.summary(path)
    assert values["acr"] == pytest.approx((0.9 + 0.4) / 4)
    assert [values[column(radius)] for radius in RADII[:4]] == [0.5, 0.5, 0.25, 0.25]
    assert len(values) == 1 + len(RADII)
    assert logs.summary("there/noise_1") == {
        "acr": 0.5,
        "certified_0": 0.9,
        "certified_0.25": 0.8,
        "certified_0.5": 0.1,
    }
    assert logs.matching("there/noise_*") == ["there/noise_1"]
    assert logs.matching("Hadi*/data/*/*/*/*/*/noise_0.25/*/*") == [path]


def test_what_cannot_be_read_is_named(logs, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere of published logs; name one with --logs"):
        PublishedLogs(tmp_path / "nowhere")
    for read in (logs.certificates, logs.summary):
        with pytest.raises(ResultsError, match=r"no certification log .*nothing"):
            read("nothing")
    (tmp_path / "index.tsv").write_text("path\tACR\nbroken\tx\n")
    with pytest.raises(ResultsError, match="has no numbers for broken"):
        PublishedLogs(tmp_path).summary("broken")
    (tmp_path / "index.tsv").write_text("way\tACR\nbroken\tx\n")
    with pytest.raises(ResultsError, match=r"cannot read .*index\.tsv"):
        _ = PublishedLogs(tmp_path).index
    found = CliRunner().invoke(asz, ["experiment", "published-cohen"])
    assert "reads published certification logs; name their folder with --logs" in str(found.exception or found.output)


@pytest.mark.parametrize("alpha", [0.76, 0.95])
def test_theorem_4_as_printed_has_half_the_radius_of_the_proven_constant(logs, alpha):
    of_h = logs.certificates(COHEN_LOGS["0.50"])
    printed, proven = (certified_by(of_h, alpha, 0.5, bound).radius for bound in (PRINTED, "theorem4"))
    p = norm.cdf(of_h.radius / 0.5)
    by_hand = (2 * p - 1 - (1 - alpha) / alpha) / (2 * np.sqrt(2 / np.pi) / 0.5)
    np.testing.assert_allclose(printed, np.where(of_h.radius > 0, np.maximum(by_hand, 0), 0), atol=1e-12)
    np.testing.assert_allclose(printed, proven / 2, atol=1e-12)


def test_clean_accuracy_is_bounded_by_what_the_log_tells_of_a_sure_g(logs):
    of_h = logs.certificates(COHEN_LOGS["0.50"])  # p = 0.964, 0.841 (right), 0.516 (wrong), abstention
    assert clean_range(of_h, 1.0, 0.5) == (0.5, 0.5)
    for alpha, least, largest in (
        (0.999, 2, 3),  # h is sure of its mistake; what it says where it abstains is not known
        (0.76, 2, 3 + 0.9725),  # nor who decides at 0.516, where h is wrong
        (0.6, 2 + 2 * 0.9725, 2 + 2 * 0.9725),  # g decides where p is at most 0.4 / 0.6
        (0.55, 1 + 3 * 0.9725, 2 + 2 * 0.9725),  # open at 0.841, where h is right
    ):
        assert clean_range(of_h, alpha, 0.5) == pytest.approx((least / 4, largest / 4))


@pytest.mark.parametrize("alpha", [0.55, 0.6, 0.7, 0.76, 0.9, 0.999])
def test_no_mix_with_a_sure_g_leaves_the_range(alpha):
    """Against mixes computed class by class, of any h with the logged p and any class that g may name."""
    generator, n = np.random.default_rng(0), 20_000
    h = generator.dirichlet([0.6] * 4, size=n)
    p, top, label = h.max(axis=1), h.argmax(axis=1), generator.integers(4, size=n)
    label = np.where(generator.random(n) < 0.6, top, label)
    g = np.where(generator.random(n) < 0.9725, label, (label + generator.integers(1, 4, size=n)) % 4)
    right = ((1 - alpha) * np.eye(4)[g] + alpha * h).argmax(axis=1) == label
    prediction = np.where(p > 0.5, top, -1)
    of_h = Certificates(
        index=np.arange(n),
        label=label,
        prediction=prediction,
        radius=np.where(p > 0.5, 0.5 * norm.ppf(np.maximum(p, 0.5)), 0.0),
        correct=prediction == label,
        seconds=np.zeros(n),
    )
    least, largest = clean_range(of_h, alpha, 0.5)
    assert least - 0.01 <= right.mean() <= largest + 0.01
    assert clean_range(of_h, 0.999, 0.5)[0] <= of_h.correct.mean() + 0.01  # nothing is gained by hardly mixing


def mixed(of_h, sigma):
    """Radii of the mix with alpha = 0.76 by the sharp bound."""
    return of_h.radius - sigma * norm.ppf(1 / (2 * 0.76))


def test_the_figure_of_mixes_is_made_from_logs_alone(logs, tmp_path):
    experiment = find_experiment("published-mix")
    (*_, table) = experiment.run(LogsBench(logs=logs), tmp_path / "out")
    row = table.row(h="1.00", classifier="mix", bound="sharp")
    of_h = read_log(logs.folder / COHEN_LOGS["1.00"])
    assert row["certified_0.25"] == (of_h.correct & (mixed(of_h, 1.0) >= 0.25)).mean()
    page = (tmp_path / "out" / "published-mix" / "published.md").read_text()
    assert "no net ran here" in page
    assert "**Agreement:** " in page


def test_a_point_of_the_frontier_is_what_one_bound_certifies_of_one_mix(logs):
    experiment = find_experiment("published-pareto")
    case = {"noise": "0.50", "alpha": "0.76", "bound": "sharp"}
    assert case in experiment.cases()
    values = experiment.measure(experiment.bench(logs=logs), case)
    of_h = read_log(logs.folder / COHEN_LOGS["0.50"])
    assert values["certified_0"] == (of_h.correct & (mixed(of_h, 0.5) >= 0.25)).mean()
    assert (values["clean"], values["clean_at_most"]) == clean_range(of_h, 0.76, 0.5)


def test_a_row_without_logs_has_no_numbers(logs):
    experiment = find_experiment("published-tables")
    assert experiment.measure(LogsBench(logs=logs), experiment.cases()[0]) == {}


SUMMARIZED = {  # an experiment's case, and a log of it
    "published-tables": (
        {"table": "2", "sigma": "0.25", "row": "Gaussian"},
        "jh-jeong+smoothmix/data/certify/mnist/cohen/noise_0.25_7",
    ),
    "published-ablations": (
        {"varied": "m", "value": "2"},
        "jh-jeong+smoothmix/data/certify/ablation/m/smix_1.0_8_m0/tau_1.0/num_2/0/noise_1.0",
    ),
}


@pytest.mark.parametrize("name", SUMMARIZED)
def test_the_foot_of_a_page_counts_rows_from_summaries_and_says_where_these_end(name, logs):
    experiment, (case, path) = find_experiment(name), SUMMARIZED[name]
    assert case in experiment.cases()
    (logs.folder / "index.tsv").write_text(f"path\tACR\tcert0\tcert0.25\tcert0.50\n{path}\t0.5\t0.9\t0.8\t0.1\n")
    bench = LogsBench(logs=PublishedLogs(logs.folder))
    summarized = experiment.measure(bench, case)
    assert summarized[SUMMARIES] == 1
    there = logs.folder / path
    there.parent.mkdir(parents=True)
    shutil.copy(logs.folder / COHEN_LOGS["0.25"], there)
    read = experiment.measure(bench, case)
    assert read[SUMMARIES] == 0

    def foot(*rows):
        return replace(bench.table(name), rows=tuple(Row(case=case, values=values) for values in rows)).how()

    assert foot(read, read) == "all numbers come from the logs, whose radii have three digits; no net ran here"
    assert foot(read, summarized, summarized) == (
        "rows from the logs, whose radii have three digits: 1; rows from summaries (index.tsv) of logs that are not in "
        "the folder, with four digits and up to radius 0.5: 2; no net ran here"
    )


@pytest.mark.skipif(not LOGS.exists(), reason="the published logs are not there")
@pytest.mark.parametrize(("name", "summaries"), [("published-tables", 27), ("published-ablations", 18)])
def test_recorded_rows_from_summaries_are_those_whose_logs_are_not_in_the_archive(name, summaries, tmp_path):
    with tarfile.open(LOGS) as archive:
        names = set(archive.getnames())
        archive.extract("index.tsv", tmp_path, filter="data")
    known = [line.split("\t")[0] for line in (tmp_path / "index.tsv").read_text().splitlines()[1:]]
    table = read_table(PAGES / name / "published.json", LogsTable)
    for row in table.rows:
        case = row.case
        pattern = ROWS[tuple(case.values())][0] if "table" in case else ABLATIONS[case["varied"]][case["value"]]
        runs = [path for path in known if fnmatch(path, pattern)]
        assert len(runs) == 1 or "table" in case
        assert row[SUMMARIES] == sum(path not in names for path in runs)
    assert sum(row[SUMMARIES] > 0 for row in table.rows) == summaries
    page = (PAGES / name / "published.md").read_text()
    assert f"up to radius 1.5: {summaries};" in page


def tables_with(acr):
    """The table of [JS21] with this ACR in each row, and every row as printed."""
    experiment = find_experiment("published-tables")
    values = {"runs": 1.0, SUMMARIES: 0.0, "off": 0.0}
    rows = tuple(Row(case=case, values=values | {"acr": acr(**case)}) for case in experiment.cases())
    about = {"dataset": "d", "n": 1, "data": "", "data_sha256": "", "device": "", "versions": {}, "commit": None}
    return LogsTable(experiment=experiment.name, rows=rows, **about)


@pytest.mark.parametrize("ahead", ["SmoothMix", "+ one-step adversary"])
@pytest.mark.parametrize("rival", ["SmoothAdv", "Consistency", "Gaussian"])
def test_a_form_of_smoothmix_has_the_largest_acr_or_not(ahead, rival):
    def acr(table, sigma, row):
        if (table, sigma) == ("3", "0.25") and row == rival:
            return 0.75
        return 0.8 if row.startswith(ahead) else 0.5

    experiment = find_experiment("published-tables")
    table = tables_with(acr)
    leads = acr_leads(table)
    assert leads.pop(("3", "0.25")) == pytest.approx(0.05)
    assert list(leads.values()) == pytest.approx([0.3] * 4)
    text = experiment.agreement(table)
    assert text.startswith(
        "yes: all 16 rows of SmoothMix come out of one published run, digit by digit; at every sigma"
    )
    assert "smallest in Table 3 at sigma 0.25: 0.0500" in text
    beaten = tables_with(lambda table, sigma, row: 0.8 if row == rival else acr(table, sigma, row))
    assert "it was not seen that at every sigma a form of SmoothMix has the largest ACR" in experiment.agreement(beaten)
    tied = tables_with(lambda **case: 0.5)
    assert "it was not seen that at every sigma" in experiment.agreement(tied)
    beaten.rows[5].values["off"] = 1.0
    assert experiment.agreement(beaten).startswith("no: ")
    assert "35 of 36 rows" in experiment.agreement(beaten)


@pytest.mark.skipif(not LOGS.exists(), reason="the published logs are not there")
def test_the_published_logs_give_every_row_of_smoothmix_on_mnist_digit_by_digit(tmp_path):
    with tarfile.open(LOGS) as archive:
        archive.extract("index.tsv", tmp_path, filter="data")
    bench, experiment = LogsBench(logs=PublishedLogs(tmp_path)), find_experiment("published-tables")
    ours = [case for case in experiment.cases() if case["table"] == "2" and "eta" in case["row"]]
    off = {tuple(case.values()): experiment.measure(bench, case)["off"] for case in ours}
    assert len(off) == 12
    assert max(off.values()) <= HALF
    case = ours[-1]
    pattern, printed = ROWS[tuple(case.values())]
    changed = {tuple(case.values()): (pattern, [printed[0] + 0.001, *printed[1:]])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ROWS, *next(iter(changed.items())))
        assert experiment.measure(bench, case)["off"] > HALF


def test_ablations_are_judged_by_their_numbers(logs):
    experiment = find_experiment("published-ablations")
    table = LogsBench(logs=logs).table("published-ablations")
    best = {"1": 1.0, "2": 1.1, "4": 1.3, "8": 1.2, "16": 1.15}

    def values(case):
        acr = {"eta": best.get(case["value"], 0.0), "alpha, T": 1.0, "m": 0.5 if case["value"] == "1" else 1.0}
        eps = ("2", "4", "6", "8", "inf").index(case["value"]) if case["varied"] == "eps" else 0
        return {"acr": acr.get(case["varied"], 1.0 + 0.1 * eps), "certified_0": 1.0}

    rows = tuple(Row(case=case, values=values(case)) for case in experiment.cases())
    clean = {"1": 0.99, "2": 0.98, "4": 0.97, "8": 0.96, "16": 0.95}
    for row in rows:
        if row.case["varied"] == "eta":
            row.values["certified_0"] = clean[row.case["value"]]
    text = experiment.agreement(replace(table, rows=rows))
    assert text.startswith("yes: ")
    assert text.endswith("Of eta 1, 2, 4, 8, 16, ACR is largest at 4.")
    rows[0].values["acr"] = 1.25
    assert "in part" in experiment.agreement(replace(table, rows=rows))
    rows[4].values["acr"] = 1.4
    assert experiment.agreement(replace(table, rows=rows)).endswith(" ACR is largest at 16.")


OTHERS = ("published-tables", "published-ablations", "published-cohen", "published-mix", "published-pareto")


@pytest.mark.parametrize(
    "name", [*OTHERS, "certified-pareto", "off-class-confidence", "confidence-path", "mixing-ratios"]
)
def test_there_is_no_verdict_and_a_picture_all_the_same_where_a_number_is_missing(name):
    experiment = find_experiment(name)
    rows = [Row(case=case, values=dict.fromkeys((*experiment.values, "bin_0"), 0.5)) for case in experiment.cases()]
    missing = experiment.values[-1]
    del rows[-1].values[missing]
    about = {"dataset": "d", "n": 1, "data": "", "data_sha256": "", "device": "", "versions": {}, "commit": None}
    kind = PublishedParetoTable if "pareto" in name else Measured
    table = kind(experiment=name, rows=tuple(rows), **about)
    summary, agreement = experiment.findings(table)
    case = ", ".join(f"{key} {text}" for key, text in rows[-1].case.items())
    assert agreement == f"not answered: there is no {missing} for {case}."
    assert "nan" not in summary
    experiment.draw(table, Figure())
