"""Fill the tables of README.md and docs/, and draw docs/figures/trade-off.png, from the records in eval/results/.

    python eval/front_page.py            # make readme
    python eval/front_page.py --check    # exit code 1 if a page or the figure does not say what the records say

A table stands between ``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``; ``TABLES`` has the names. The figure carries
the numbers that it shows, so that --check compares numbers and not pixels.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import click
import torch
from PIL import Image

from adaptive_smoothing_zoo import Triplet, list_models, load_model
from adaptive_smoothing_zoo.certification.kinds import stem_of
from adaptive_smoothing_zoo.publishing.certification_record import CertificationRecord, certification_path
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve
from adaptive_smoothing_zoo.publishing.evidence import Evidence, read_evidence
from adaptive_smoothing_zoo.publishing.pages import percent
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.files import write_text, write_with
from adaptive_smoothing_zoo.storage.schema import parse, read_json
from adaptive_smoothing_zoo.zoo.entry import Entry

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "eval" / "results"
PAGES = ("README.md", "docs/results.md", "docs/certify.md")
FIGURE = Path("docs/figures/trade-off.png")
RADII = (0.0, 0.1, 0.25, 0.5, 0.75)  # of the tables of certified accuracy


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table whose first column is text and whose others are numbers or short."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def evidence_of(entry: Entry) -> Evidence | None:
    """Whatever is recorded of a triplet, None if AutoAttack was not run."""
    return read_evidence(RESULTS, entry) if RunRecord.path(RESULTS, entry).exists() else None


def millions_of_parameters(entry: Entry) -> str:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Triplet(entry).parameters())
    return f"{count / 1e6:.2f} M" if count < 1e7 else f"{count / 1e6:.0f} M"


def certification_of(entry: Entry, part: str = "whole", ending: str = "") -> CertificationRecord | None:
    """What was certified of a triplet or of one of its nets; the ending is that of another statement's record."""
    path = certification_path(RESULTS, entry, f"{stem_of(part)}{ending}.json")
    return parse(CertificationRecord, read_json(path), str(path)) if path.exists() else None


def certified_at_eps(entry: Entry) -> str:
    """The certified accuracy at the entry's own l_2 radius, by the bound that certifies most; "" if there is none."""
    record = certification_of(entry)
    if record is None or record.norm != entry.threat_model or entry.eps_value not in record.radii:
        return ""
    place = record.radii.index(entry.eps_value)
    return percent(max(bound.certified_accuracy[place] for bound in record.bounds.values()))


def accuracies(entry: Entry) -> list[str]:
    """Number of test images, clean, AutoAttack and best known accuracy; in italics what others published."""
    evidence = evidence_of(entry)
    if evidence is not None:
        run = evidence.run
        return [str(run.n), percent(run.clean_accuracy), percent(run.robust_accuracy), percent(evidence.best_known)]
    published = entry.published
    if published is None:
        return [""] * 4
    best = published.adaptive or published.autoattack
    return ["*all*", *(f"*{number}*" for number in (published.clean, published.autoattack, best))]


def models() -> str:
    """Every triplet of the zoo."""
    head = ("name", "data", "threat", "images", "clean", "AutoAttack", "best known", "certified", "size", "")
    rows = [
        [
            f"`{entry.name}`",
            entry.dataset,
            f"{entry.threat_model} {entry.eps}",
            *accuracies(entry),
            certified_at_eps(entry),
            millions_of_parameters(entry),
            f"[card](model_cards/{entry.key}.md)",
        ]
        for entry in list_models()
    ]
    return markdown_table(head, rows)


def is_of_these_nets(curve: ConstantCurve, entry: Entry) -> bool:
    model = load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model)
    return curve.is_with(model.std_model, model.rob_model)


def curve_of(entry: Entry, run: RunRecord) -> ConstantCurve | None:
    """What constant alphas reach with a triplet's nets, if it was measured as the triplet was."""
    curve = ConstantCurve.find(RESULTS, entry)
    fits = curve is not None and curve.matches(run) and is_of_these_nets(curve, entry)
    return curve if fits else None


def measured_on(dataset: str, threat_model: str) -> list[tuple[Entry, Evidence]]:
    """The triplets with records, for one data set and threat model."""
    found = [(entry, evidence_of(entry)) for entry in list_models(dataset=dataset, threat_model=threat_model)]
    return [(entry, evidence) for entry, evidence in found if evidence is not None]


def others(evidence: Evidence) -> str:
    """The attacks on a triplet after AutoAttack; "" if there are none."""
    found = [] if evidence.adaptive is None else ["asz adapt"]
    if evidence.validation is not None:
        found.append(f"asz validate on {evidence.validation.n} images")
    return " and ".join(found)


def measured(dataset: str, threat_model: str) -> Callable[[], str]:
    """g alone, h alone and the triplets of a data set, under AutoAttack and after all other recorded attacks."""

    def table() -> str:
        rows: list[list[str]] = []
        for entry, evidence in measured_on(dataset, threat_model):
            run, alpha = evidence.run, entry.alpha
            curve = curve_of(entry, run)
            for point in curve.points if curve is not None and not rows else ():
                if point.alpha in (0.0, 1.0):
                    name = "h alone" if point.alpha else "g alone"
                    rows.append([name, f"{point.alpha:g}", str(run.n), percent(point.clean), percent(point.robust), ""])
            span = f"{alpha.alpha_min:g}" if alpha.kind == "constant" else f"{alpha.alpha_min:g} to {alpha.alpha_max:g}"
            low, high = run.confidence_interval
            tried = others(evidence)
            why = ", ".join(evidence.stronger) or (f"{tried} broke none" if tried else "AutoAttack alone")
            best = f"{percent(evidence.best_known)} ({why})"
            interval = f"{percent(run.robust_accuracy)} ({100 * low:.0f} to {100 * high:.0f})"
            rows.append([f"`{entry.name}`", span, str(run.n), percent(run.clean_accuracy), interval, best])
        return markdown_table(("net", "alpha", "images", "clean", "AutoAttack (95 % interval)", "best known"), rows)

    return table


def certified(name: str) -> Callable[[], str]:
    """Certified accuracy of a triplet, of its top 2 if that is recorded, and of its h alone, by every bound."""

    def table() -> str:
        (entry,) = (entry for entry in list_models(threat_model="L2") if entry.name == name)
        rows = []
        top_2 = [("whole", "-top-2", "mix, top 2")] if certification_of(entry, ending="-top-2") else []
        for part, ending, called in (("whole", "", "mix"), *top_2, ("rob_model", "", "h alone")):
            record = certification_of(entry, part, ending)
            assert record is not None
            for bound, found in record.bounds.items():
                shares = [percent(found.certified_accuracy[record.radii.index(radius)]) for radius in RADII]
                assert record.clean_accuracy is not None
                clean, average = percent(record.clean_accuracy), f"{found.average_radius:.3f}"
                rows.append([f"{called}, {bound}", clean, *shares, average])
        heads = ["> 0", *(f"{radius:g}" for radius in RADII[1:])]
        return markdown_table(("l_2 radius", "clean", *heads, "average radius"), rows)

    return table


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "cifar10 Linf": measured("cifar10", "Linf"),
    "mnist Linf": measured("mnist", "Linf"),
    "digits Linf": measured("digits", "Linf"),
    "digits L2": measured("digits", "L2"),
    "Demo2026Lipschitz": certified("Demo2026Lipschitz"),
    "Demo2026Smoothed": certified("Demo2026Smoothed"),
}


@cache
def table(name: str) -> str:
    """One of ``TABLES``; the records do not change while this runs."""
    return TABLES[name]()


def filled(text: str) -> str:
    """A page with its tables made anew."""

    def fill(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n\n{table(name)}\n\n{end}"

    return re.sub(r"(<!-- begin: (.+?) -->)\n.*?(<!-- end: \2 -->)", fill, text, flags=re.DOTALL)


@cache
def shown_in_figure(dataset: str = "cifar10", threat_model: str = "Linf") -> dict[str, object]:
    """The numbers of the trade-off figure: the curve of constant alphas and the triplets, in percent."""
    triplets = measured_on(dataset, threat_model)
    first, run = triplets[0][0], triplets[0][1].run
    curve = curve_of(first, run)
    return {
        "data": f"{dataset}, {run.n} test images, {first.threat_model} {first.eps}",
        "constant alpha": [
            (point.alpha, percent(point.clean), percent(point.robust))
            for point in (() if curve is None else curve.points)
        ],
        "triplets": [
            (entry.name, percent(of.run.clean_accuracy), percent(of.run.robust_accuracy), percent(of.best_known))
            for entry, of in triplets
            if of.run.data_sha256 == run.data_sha256
        ],
    }


def draw(numbers: dict, path: Path) -> None:
    """Clean against robust accuracy: g, h and constant mixes as a curve, each triplet as a star."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    points = [(alpha, float(clean), float(robust)) for alpha, clean, robust in numbers["constant alpha"]]
    if points:
        axes.plot([p[2] for p in points], [p[1] for p in points], "o-", color="0.45", label="constant alpha")
    for alpha, clean, robust in points:
        name = {0.0: "g, the accurate net", 1.0: "h, the robust net"}.get(alpha, f"alpha {alpha:g}")
        side = 1 if alpha == 0.0 else -1
        place = {"textcoords": "offset points", "ha": "left" if side > 0 else "right", "va": "center"}
        axes.annotate(name, (robust, clean), (9 * side, 0 if alpha in (0.0, 1.0) else -9), **place)
    for number, (name, clean, robust, best) in enumerate(numbers["triplets"]):
        color = f"C{number}"
        axes.plot([float(robust), float(best)], [float(clean)] * 2, "-", color=color, linewidth=1)
        axes.plot(float(robust), float(clean), "*", color=color, markersize=14, label=f"{name}, AutoAttack")
        if best != robust:
            axes.plot(float(best), float(clean), "x", color=color, label=f"{name}, all recorded attacks")
    axes.set(xlabel="accuracy under attack, %", ylabel="clean accuracy, %", title=numbers["data"])
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    about = {"Software": None, "Description": json.dumps(numbers)}
    write_with(path, lambda file: figure.savefig(file, dpi=150, bbox_inches="tight", metadata=about))


def is_up_to_date(path: Path, numbers: dict[str, object]) -> bool:
    if not path.exists():
        return False
    with Image.open(path) as image:
        return image.info.get("Description") == json.dumps(numbers)


def stale(root: Path) -> list[str]:
    """The pages and figures below ``root`` that do not say what the records say."""
    pages = [page for page in PAGES if filled((root / page).read_text()) != (root / page).read_text()]
    return pages + ([] if is_up_to_date(root / FIGURE, shown_in_figure()) else [str(FIGURE)])


@click.command()
@click.option("--check", is_flag=True, help="write nothing; exit code 1 if something does not fit the records")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, help="where the pages are, if not here")
def main(check: bool, root: Path) -> None:
    names = stale(root)
    if check and names:
        raise click.ClickException(f"not as recorded: {', '.join(names)}; run make readme")
    for name in names:
        if name == str(FIGURE):
            draw(shown_in_figure(), root / name)
        else:
            write_text(root / name, filled((root / name).read_text()))
        click.echo(f"wrote {name}")


if __name__ == "__main__":
    main()
