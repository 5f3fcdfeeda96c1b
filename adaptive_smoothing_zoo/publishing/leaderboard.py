"""Leaderboards: the entries below folders, ranked, with their records, as an HTML page and as Markdown."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from adaptive_smoothing_zoo.attacks.settings import STANDARD_PROTOCOL
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve
from adaptive_smoothing_zoo.publishing.evidence import Evidence, read_evidence
from adaptive_smoothing_zoo.publishing.model_info import ModelInfo, read_model_info
from adaptive_smoothing_zoo.publishing.pages import page, percent
from adaptive_smoothing_zoo.publishing.record import ModelKey
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.publishing.trade_off_plot import Point, TradeOff
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.threat import parse_eps

logger = logging.getLogger(__name__)

_KINDS = (".run", ".curve", ".radii", ".verify", ".adaptive", ".validation", ".model", "agreement")
_NO_ENTRIES = tuple(f"{kind}.json" for kind in _KINDS)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of a leaderboard.

    Attributes:
        evidence: the records next to its entry; None if there are none, or others evaluated the model.
        problem: why its entry or the records next to it cannot be trusted; such a row has no rank.
        links: files about it, by the text of the link.
    """

    info: ModelInfo
    ours: bool = True
    evidence: Evidence | None = None
    problem: str | None = None
    links: Mapping[str, Path] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """The lowest robust accuracy that is known, in percent."""
        return self.info.best if self.evidence is None else min(self.info.best, 100 * self.evidence.best_known)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of the accuracies that were measured here, fractions, for the choice of images alone."""
        if self.evidence is None:
            return {}
        intervals = self.evidence.intervals
        if percent(self.evidence.best_known) != f"{self.best:.2f}":
            del intervals["best"]
        return intervals

    @property
    def is_whole(self) -> bool:
        """Whether the accuracies are of the whole test set."""
        return self.evidence is None or self.evidence.run.n == self.evidence.run.test_set_size

    @property
    def flags(self) -> tuple[str, ...]:
        """What speaks against the accuracies, one phrase each."""
        flags = ["AutoAttack is not reliable here, says RobustBench"] if self.info.unreliable else []
        if self.problem is not None:
            return (self.problem,)
        if self.evidence is None:
            return (*flags, "no record of the run") if self.ours else tuple(flags)
        run = self.evidence.run
        if not self.is_whole:
            flags.append(f"{run.n} images, {run.part}")
        if run.chosen_among:
            flags.append(f"{run.chosen_among} of the images chose the mix")
        if self.evidence.failed_checks:
            flags.append(f"failed asz validate: {', '.join(self.evidence.failed_checks)}")
        if run.warnings:
            flags.append("the evaluation's checks raised a flag")
        if not run.deterministic:
            flags.append("the model is not deterministic")
        return (*flags, *self.evidence.stale)

    @property
    def point(self) -> Point:
        """Its point in the trade-off plot."""
        n = "" if self.evidence is None else f", {self.evidence.run.n} images"
        return Point(
            label=self.info.name,
            clean=self.info.clean,
            robust=self.best,
            kind="ours" if self.ours else "other",
            key=self.info.key if self.ours else f"robustbench:{self.info.key}",
            note=f"AutoAttack {self.info.autoattack:.2f} %{n}",
            open=bool(self.flags),
        )


@dataclass(frozen=True, kw_only=True)
class Table:
    """The models of one data set, threat model and radius, ranked by the best known robust accuracy.

    Those without a rank come last.
    """

    dataset: str
    threat_model: str
    eps: str
    rows: tuple[Row, ...]
    curve: ConstantCurve | None = None

    @property
    def title(self) -> str:
        return f"{self.dataset} {self.threat_model}, eps {self.eps}"

    @property
    def has_others(self) -> bool:
        """Whether RobustBench's entries are among the rows."""
        return any(not row.ours for row in self.rows)

    @property
    def trade_off(self) -> TradeOff:
        """Clean against best known robust accuracy."""
        curve = () if self.curve is None else self.curve.line
        points = tuple(row.point for row in self.rows)
        return TradeOff(points=points, curve=curve, robust="best known robust accuracy, %")


def read_tables(*folders: Path, model_info: Path | None = None, cards: Sequence[Path] = ()) -> list[Table]:
    """One table per data set, threat model and eps below the folders.

    Args:
        folders: of results; a file in an earlier one hides the file of the same name in a later one.
        model_info: RobustBench's folder of that name; its entries of the same data sets, threat models and radii are
            ranked, too. A file that is no entry is skipped with a warning.
        cards: folders of model cards; each model is linked to the first card that is found.

    Raises:
        ResultsError: the folders have no entries, or a file that is no entry; or ``model_info`` has no entries.
    """
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for folder, path in _first(folders, "*.json"):
        if not path.name.endswith(_NO_ENTRIES):
            row = _own_row(folder, read_model_info(path), cards)
            if row.evidence is None or row.evidence.run.is_standard:
                groups.setdefault(_group(row.info), []).append(row)
    if not groups:
        where = " or ".join(map(str, folders))
        raise ResultsError(f"there are no leaderboard entries (<dataset>/<threat model>/<name>.json) in {where}")
    for row in () if model_info is None else _robustbench(model_info, groups):
        groups[_group(row.info)].append(row)
    return [_table(folders, rows) for rows in groups.values()]


def render(
    *folders: Path,
    out: Path | None = None,
    cards: Sequence[Path] = (),
    model_info: Path | None = None,
    date: str | None = None,
) -> tuple[str, str]:
    """An HTML page, which needs no network, and a Markdown text of the tables of ``read_tables``.

    Runs that did not follow the standard protocol are shown in a table of their own, without a rank.

    Args:
        out: the folder of the page, which its links start from; the first of ``folders`` if None.
        cards, model_info: see ``read_tables``.
        date: of the page; today if None.

    Raises:
        ResultsError: see ``read_tables``.
    """
    tables = read_tables(*folders, model_info=model_info, cards=cards)
    about = {"tables": tables, "others": list(_not_standard(folders)), "protocol": STANDARD_PROTOCOL}
    about |= {"date": date or datetime.now(UTC).date().isoformat(), "robustbench": model_info is not None}
    about["link"] = lambda path: _relative(path, out or folders[0])
    return page("leaderboard.html", **about), page("leaderboard.md", **about)


def _group(info: ModelInfo) -> tuple[str, str, float]:
    return info.dataset, info.threat_model, info.eps_value


def _first(folders: Iterable[Path], pattern: str) -> Iterator[tuple[Path, Path]]:
    """Each file that matches, with its folder; of files at the same place in several folders, the first."""
    seen = set()
    for folder in folders:
        for path in sorted(folder.glob(f"*/*/{pattern}")):
            if path.parts[-3:] not in seen:
                seen.add(path.parts[-3:])
                yield folder, path


def _table(folders: Iterable[Path], rows: Sequence[Row]) -> Table:
    first = rows[0].info
    data = {row.evidence.run.data_sha256 for row in rows if row.evidence is not None}
    curves = (ConstantCurve.find(folder, first) for folder in folders)
    fitting = (c for c in curves if c and parse_eps(c.eps) == first.eps_value and c.data_sha256 in data)
    ranked = tuple(sorted(rows, key=lambda row: (row.problem is not None, -row.best)))
    about = {"dataset": first.dataset, "threat_model": first.threat_model, "eps": first.eps}
    return Table(**about, rows=ranked, curve=next(fitting, None))


def _own_row(folder: Path, info: ModelInfo, cards: Sequence[Path]) -> Row:
    links = _links(folder, info, cards)
    if not RunRecord.path(folder, info).exists():
        return Row(info=info, links=links)
    try:
        evidence = read_evidence(folder, info)
    except ResultsError as error:
        return Row(info=info, problem=str(error), links=links)
    problem = _contradiction(info, evidence.run) if evidence.run.is_standard else None
    return Row(info=info, evidence=None if problem else evidence, problem=problem, links=links)


def _contradiction(info: ModelInfo, run: RunRecord) -> str | None:
    """How an entry contradicts the run next to it; None if it does not."""
    said = info.eps_value, f"{info.clean:.2f}", f"{info.autoattack:.2f}"
    measured = percent(run.clean_accuracy), percent(run.robust_accuracy)
    if said == (run.threat.eps, *measured):
        return None
    return f"its run record says {' % and '.join(measured)} % at eps {run.eps}; run asz eval again"


def _links(folder: Path, info: ModelInfo, cards: Sequence[Path]) -> dict[str, Path]:
    """The files about a model that exist, by the text of the link."""
    paths = {
        "card": next(filter(Path.exists, (cards_folder / f"{info.key}.md" for cards_folder in cards)), None),
        "run": RunRecord.path(folder, info),
        "adaptive attacks": AdaptiveRecord.path(folder, info),
        "validation": Validation.path(folder, info).with_suffix(".md"),
    }
    return {name: path for name, path in paths.items() if path is not None and path.exists()}


def _relative(path: Path, start: Path) -> str:
    """A link from a page in the folder ``start``."""
    return quote(Path(os.path.relpath(path, start)).as_posix())


def _robustbench(folder: Path, wanted: Iterable[tuple[str, str, float]]) -> Iterator[Row]:
    """RobustBench's entries for the wanted tables."""
    wanted, found = set(wanted), 0
    for dataset, threat_model in sorted({group[:2] for group in wanted}):
        for path in sorted((folder / dataset / threat_model).glob("*.json")):
            try:
                info = read_model_info(path)
            except ResultsError as error:
                logger.warning("skipped: %s", error)
                continue
            found += 1
            if _group(info) in wanted:
                yield Row(info=info, ours=False)
            else:
                logger.warning("skipped: %s is at another radius, eps %s", path, info.eps)
    if not found:
        kinds = " or ".join(sorted({f"{dataset}/{threat_model}" for dataset, threat_model, _ in wanted}))
        raise ResultsError(
            f"{folder} has no entries for {kinds}; name RobustBench's folder model_info, which holds "
            "<dataset>/<threat model>/<name>.json"
        )


def _not_standard(folders: Iterable[Path]) -> Iterator[tuple[RunRecord, Path]]:
    """Recorded runs that are not of the standard protocol, each with its file."""
    for folder, path in _first(folders, f"*.{RunRecord.KIND}.json"):
        name = path.name.removesuffix(f".{RunRecord.KIND}.json")
        try:
            run = RunRecord.read(folder, ModelKey(name, path.parts[-3], path.parts[-2]))
        except ResultsError as error:
            logger.warning("skipped: %s", error)
            continue
        if not run.is_standard:
            yield run, path
