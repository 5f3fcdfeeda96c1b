"""From an experiment and a triplet to its files: data, picture, page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.experiments.experiment import AnyBench, AnyTable, Experiment, findings
from adaptive_smoothing_zoo.experiments.table import Row, complete, read_measured
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.storage.files import write_text, write_with
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.zoo.entry import Entry


@dataclass(frozen=True)
class ExperimentFiles:
    """Where the files of an experiment on a triplet stand."""

    data: Path
    picture: Path
    page: Path


def files_of(experiment: Experiment[Any, Any], entry: Entry, out: Path) -> ExperimentFiles:
    """``<out>/<experiment>/<entry>.json``, ``.png`` and ``.md``."""
    folder = out / experiment.name
    return ExperimentFiles(*(folder / f"{entry.key}{suffix}" for suffix in (".json", ".png", ".md")))


def run(
    experiment: Experiment[AnyBench, AnyTable],
    entry: Entry,
    bench: AnyBench,
    examples: Examples,
    out: Path,
    *,
    commit: str | None = None,
) -> Iterator[tuple[Row, AnyTable]]:
    """Measure what is not measured yet, keeping each row on disk as it comes; then draw and write the page.

    Args:
        bench: with the triplet of ``entry``.
        examples: those of the bench.
        commit: of the source, for the record.

    Raises:
        ResultsError: the files there are about something else, or cannot be written.
    """
    files = files_of(experiment, entry, out)
    table = experiment.table(
        experiment=experiment.name,
        model=entry.name,
        dataset=entry.dataset,
        threat_model=bench.norm,
        eps=entry.eps,
        n=len(examples),
        steps=bench.steps,
        seed=bench.seed,
        pgd=bench.pgd,
        data=examples.source,
        data_sha256=tensors_sha256({"images": examples.images, "labels": examples.labels}),
        identity=identity_of(bench.model, examples.images.shape[1:]),
        device=device_name(str(bench.device)),
        versions=installed_versions(),
        commit=commit,
        **bench.settings(),
    )
    with ready(bench.model, bench.device):
        yield from complete(table, experiment.cases(), lambda case: experiment.measure(bench, case), files.data)
    publish(experiment, entry, out)


def publish(experiment: Experiment[AnyBench, AnyTable], entry: Entry, out: Path) -> ExperimentFiles:
    """Make picture and page from the data on disk.

    Raises:
        ResultsError: the data are missing, damaged or not all there.
    """
    files = files_of(experiment, entry, out)
    table = read_measured(files.data, experiment.table)
    if [row.case for row in table.rows] != experiment.cases():
        raise ResultsError(f"{files.data} does not hold all rows; run asz experiment {experiment.name} again")
    from matplotlib.figure import Figure  # a figure of its own needs no display and leaves pyplot's state alone

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    experiment.draw(table, figure)
    figure.suptitle(
        f"{entry.name}, {table.dataset}, {table.threat_model} {table.eps}, n = {table.n}", fontsize="medium"
    )
    write_with(files.picture, lambda path: figure.savefig(path, dpi=120, metadata={"Software": None}))
    write_text(files.page, page(experiment, table, files.picture.name))
    return files


def page(experiment: Experiment[AnyBench, AnyTable], table: AnyTable, picture: str) -> str:
    """The Markdown page of an experiment: what was asked, what the authors found, what was found here."""
    versions = ", ".join(f"{name} {version}" for name, version in table.versions.items())
    summary, agreement = findings(experiment, table)
    return "\n".join(
        [
            f"# {experiment.name}: {table.model}, {table.dataset} {table.threat_model} {table.eps}",
            "",
            f"*{experiment.question}*",
            "",
            f"**The papers:** {experiment.paper}",
            "",
            "**Here:**",
            "",
            summary,
            "",
            f"**Agreement:** {agreement}",
            "",
            f"![{experiment.name}]({picture})",
            "",
            f"The first {table.n} examples of {table.data}; {table.how()}; float32; {table.device}; {versions}. One "
            f"example is {100 / table.n:.2g} points.",
            "",
        ]
    )
