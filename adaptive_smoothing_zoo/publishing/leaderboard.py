"""Leaderboards: the entries below folders, ranked, with their records, as an HTML page and as Markdown."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

from adaptive_smoothing_zoo.attacks.settings import STANDARD_PROTOCOL
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve
from adaptive_smoothing_zoo.publishing.evidence import Evidence, read_evidence
from adaptive_smoothing_zoo.publishing.model_info import ModelInfo, published_info, read_model_info
from adaptive_smoothing_zoo.publishing.others import Others
from adaptive_smoothing_zoo.publishing.pages import page, percent
from adaptive_smoothing_zoo.publishing.record import ModelKey
from adaptive_smoothing_zoo.publishing.robustbench_entries import Group, Source, read_robustbench
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.publishing.trade_off_plot import Point, TradeOff
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.zoo.registry import list_models

logger = logging.getLogger(__name__)

_KINDS = (".run", ".curve", ".radii", ".verify", ".adaptive", ".validation", ".model")
_NO_ENTRIES = (*(f"{kind}.json" for kind in _KINDS), "engine_agreement.json")
NO_OTHERS = Others()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model of a leaderboard.

    Attributes:
        ours: whether it is of the folders or of the zoo; the others are RobustBench's.
        published: whether it is of the zoo and its accuracies are the published ones.
        evidence: the records next to its entry; None if there are none, or others evaluated the model.
        problem: why its entry or the records next to it cannot be trusted; such a row has no rank.
        theirs: RobustBench's entry of the same model, which has no row.
        links: files about it, by the text of the link.
    """

    info: ModelInfo
    ours: bool = True
    published: bool = False
    evidence: Evidence | None = None
    problem: str | None = None
    theirs: ModelInfo | None = None
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
        if self.problem is not None:
            return (self.problem,)
        flags = ["AutoAttack is not reliable here, says RobustBench"] if self.info.unreliable else []
        if self.theirs is not None and self.theirs.best < self.best - 0.005:
            flags.append(f"RobustBench knows {self.theirs.best:.2f} % robust accuracy")
        if self.published:
            return (*flags, "published accuracies, not evaluated here")
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

    Of equal ones the others' come first. Those without a rank come last.

    Attributes:
        everyone: the rows without the limits of ``Others``.
        source: RobustBench's files, if they were asked for.
    """

    dataset: str
    threat_model: str
    eps: str
    rows: tuple[Row, ...]
    everyone: tuple[Row, ...]
    curve: ConstantCurve | None = None
    source: Source | None = None

    @property
    def title(self) -> str:
        return f"{self.dataset} {self.threat_model}, eps {self.eps}"

    @property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """Of each of our models that has a rank: this rank, and the one without limits."""
        ours = [row for row in self.rows if row.ours and row.problem is None]
        return {row.info.name: (self.rows.index(row) + 1, self.everyone.index(row) + 1) for row in ours}

    @property
    def counts(self) -> tuple[int, int]:
        """How many models have a rank, and how many without limits."""
        rows, everyone = ([row for row in which if row.problem is None] for which in (self.rows, self.everyone))
        return len(rows), len(everyone)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The names of the models that the limits leave out."""
        return tuple(row.info.name for row in self.everyone if row not in self.rows)

    @property
    def trade_off(self) -> TradeOff:
        """Clean against best known robust accuracy."""
        curve = () if self.curve is None else self.curve.line
        points = tuple(row.point for row in self.rows)
        return TradeOff(points=points, curve=curve, robust="best known robust accuracy, %")


Groups = dict[Group, dict[str, Row]]
"""The rows of each table, by the name of the model."""


def read_tables(
    *folders: Path, others: Others = NO_OTHERS, cards: Sequence[Path] = (), required: bool = True
) -> list[Table]:
    """One table per data set, threat model and eps of the folders, and of the zoo's published triplets if asked for.

    A model has one row in a table: that of the folders, else that of the zoo, else RobustBench's. Entries are of the
    same model if data set, threat model, eps and name agree; the name is that of the entry's file. A row of ours says
    so if RobustBench's entry of the same model has a lower robust accuracy.

    Args:
        folders: of results; a file in an earlier one hides the file of the same name in a later one.
        others: RobustBench's and published entries of the same data sets, threat models and radii. A file of
            RobustBench that is no entry is skipped with a warning.
        cards: folders of model cards; each model is linked to the first card that is found.
        required: whether there must be an entry.

    Raises:
        ResultsError: the folders have no entries though one is required, or a file that is no entry; or
            ``others.model_info`` has no entries; or the limits leave no model of ours.
    """
    groups = _own_groups(folders, cards)
    if others.published:
        _add_published(groups, cards)
    if not groups and not required:
        return []
    if not groups:
        where = " or ".join(map(str, folders))
        raise ResultsError(f"there are no leaderboard entries (<dataset>/<threat model>/<name>.json) in {where}")
    if others.model_info is not None:
        _add_robustbench(groups, others.model_info)
    tables = [_table(folders, list(rows.values()), others) for rows in groups.values()]
    tables = [table for table in tables if any(row.ours for row in table.rows)]
    if not tables:
        raise ResultsError(f"none of our models is left without {' and '.join(others.limits)}")
    return tables


def render(
    *folders: Path,
    out: Path | None = None,
    cards: Sequence[Path] = (),
    others: Others = NO_OTHERS,
    date: str | None = None,
) -> tuple[str, str]:
    """An HTML page, which needs no network, and a Markdown text of the tables of ``read_tables``.

    Runs that did not follow the standard protocol are shown in a table of their own, without a rank.

    Args:
        out: the folder of the page, which its links start from; the first of ``folders`` if None.
        cards, others: see ``read_tables``.
        date: of the page; today if None.

    Raises:
        ResultsError: see ``read_tables``.
    """
    unranked = list(_not_standard(folders))
    tables = read_tables(*folders, others=others, cards=cards, required=not unranked)
    about = {"tables": tables, "others": unranked, "protocol": STANDARD_PROTOCOL}
    about |= {"date": date or datetime.now(UTC).date().isoformat(), "limits": others.limits}
    about |= {"robustbench": others.model_info is not None, "published": others.published}
    about["version"] = metadata.version("adaptive-smoothing-zoo")
    start = out or next(iter(folders), Path())
    about["link"] = lambda path: _relative(path, start)
    return page("leaderboard.html", **about), page("leaderboard.md", **about)


def _own_groups(folders: Sequence[Path], cards: Sequence[Path]) -> Groups:
    """The rows of the folders' entries."""
    groups: Groups = {}
    for folder, path in _first(folders, "*.json"):
        if not path.name.endswith(_NO_ENTRIES):
            row = _own_row(folder, read_model_info(path), cards)
            if row.evidence is None or row.evidence.run.is_standard:
                groups.setdefault(row.info.group, {})[row.info.name] = row
    return groups


def _add_published(groups: Groups, cards: Sequence[Path]) -> None:
    """Add the zoo's triplets with published accuracies; those that have a row keep it."""
    for info in filter(None, map(published_info, list_models())):
        row = Row(info=info, published=True, links=_existing({"card": _card(info, cards)}))
        groups.setdefault(info.group, {}).setdefault(info.name, row)


def _add_robustbench(groups: Groups, model_info: Path) -> None:
    """Add RobustBench's entries; of a model that has a row, to this row."""
    for info in read_robustbench(model_info, groups.keys()):
        rows = groups[info.group]
        own = rows.get(info.name)
        rows[info.name] = Row(info=info, ours=False) if own is None else replace(own, theirs=info)


def _first(folders: Iterable[Path], pattern: str) -> Iterator[tuple[Path, Path]]:
    """Each file that matches, with its folder; of files at the same place in several folders, the first."""
    seen = set()
    for folder in folders:
        for path in sorted(folder.glob(f"*/*/{pattern}")):
            if path.parts[-3:] not in seen:
                seen.add(path.parts[-3:])
                yield folder, path


def _table(folders: Iterable[Path], rows: Sequence[Row], others: Others) -> Table:
    first = rows[0].info
    data = {row.evidence.run.data_sha256 for row in rows if row.evidence is not None}
    curves = (ConstantCurve.find(folder, first) for folder in folders)
    fitting = (c for c in curves if c and parse_eps(c.eps) == first.eps_value and c.data_sha256 in data)
    ranked = tuple(sorted(rows, key=lambda row: (row.problem is not None, -row.best, row.ours)))
    source = None if others.model_info is None else Source.of(others.model_info / first.dataset / first.threat_model)
    return Table(
        dataset=first.dataset,
        threat_model=first.threat_model,
        eps=first.eps,
        rows=tuple(_within_limits(ranked, others)),
        everyone=ranked,
        curve=next(fitting, None),
        source=source,
    )


def _within_limits(ranked: Iterable[Row], others: Others) -> Iterator[Row]:
    """The rows that the limits leave: all of the folders, of the others those in time, the best one of each paper."""
    papers = set()
    for row in ranked:
        is_limited = row.published or not row.ours
        is_late = others.known_by is not None and row.info.date > others.known_by
        is_another = others.best_per_paper and row.info.paper in papers
        if not (is_limited and (is_late or is_another)):
            papers.add(row.info.paper)
            yield row


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
        "card": _card(info, cards),
        "run": RunRecord.path(folder, info),
        "adaptive attacks": AdaptiveRecord.path(folder, info),
        "validation": Validation.path(folder, info).with_suffix(".md"),
    }
    return _existing(paths)


def _card(info: ModelInfo, cards: Sequence[Path]) -> Path | None:
    return next(filter(Path.exists, (folder / f"{info.key}.md" for folder in cards)), None)


def _existing(paths: Mapping[str, Path | None]) -> dict[str, Path]:
    return {name: path for name, path in paths.items() if path is not None and path.exists()}


def _relative(path: Path, start: Path) -> str:
    """A link from a page in the folder ``start``."""
    return quote(Path(os.path.relpath(path, start)).as_posix())


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
