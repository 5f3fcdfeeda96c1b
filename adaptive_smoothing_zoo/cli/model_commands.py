"""``asz list`` and ``asz info``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.cli.options import RESULTS, ModelChoice, example, model_options

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.publishing.known import Known
    from adaptive_smoothing_zoo.zoo.entry import Entry

HEADINGS = ("model", "data", "norm", "radius", "clean", "AA", "best", "images", "alpha", "weights")
LINE = "{:28} {:9} {:5} {:10} {:>6} {:>6} {:>6} {:>9}  {:20} {}"


@click.command("list", epilog=example("asz list mixednuts", "asz list --dataset digits --embedded --json"))
@click.argument("words", nargs=-1)
@click.option("--dataset", default=None, help="only of this data set")
@click.option("--threat-model", default=None, help="only of this threat model")
@click.option("--embedded", is_flag=True, help="only those whose weights are in the package")
@click.option(
    "--results", type=click.Path(path_type=Path), help="records that take precedence over those of the package"
)
@click.option("--json", "as_json", is_flag=True, help="print a JSON list instead")
def list_command(
    words: tuple[str, ...],
    dataset: str | None,
    threat_model: str | None,
    embedded: bool,
    results: Path | None,
    as_json: bool,
) -> None:
    """List the triplets of the zoo whose entries contain all WORDS.

    Accuracies are percentages: clean, under AutoAttack (AA), and the best known robust accuracy, after adaptive attacks
    and the checks of asz validate. *: measured on a part of the test set. !: asz validate failed.
    """
    from adaptive_smoothing_zoo.publishing.known import known_of
    from adaptive_smoothing_zoo.zoo.registry import list_models

    entries = [entry for entry in list_models(dataset, threat_model) if not embedded or entry.comes_along]
    chosen = [entry for entry in entries if all(word.lower() in _text_of(entry) for word in words)]
    if not chosen:
        raise click.UsageError("no triplet matches; asz list without words and options shows all")
    known = {entry.key: known_of(entry, results) for entry in chosen}
    if as_json:
        click.echo(json.dumps([_facts(entry, known[entry.key]) for entry in chosen], indent=2))
        return
    if sys.stdout.isatty():  # no heading if the output is piped
        click.echo(LINE.format(*HEADINGS))
    for entry in chosen:
        click.echo(_line(entry, known[entry.key]))


@click.command("info", epilog=example("asz info Demo2026Adaptive --dataset digits"))
@model_options()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="records to show")
@click.option("--json", "as_json", is_flag=True, help="print the entry as JSON instead")
def info_command(choice: ModelChoice, results: Path, as_json: bool) -> None:
    """Show the accuracies, nets, weights, paper and limits of MODEL, and how to load it.

    With --json, print the entry of a triplet, or the stored description of a net.
    """
    from adaptive_smoothing_zoo.publishing.info import info_page
    from adaptive_smoothing_zoo.zoo.entry import entry_to_text

    entry = choice.entry(results)
    click.echo(entry_to_text(entry) if as_json else info_page(entry, results, choice.reference), nl=False)


def _text_of(entry: Entry) -> str:
    """The text that is searched for words."""
    texts = (entry.key, *entry.aliases, entry.description, entry.architecture, entry.paper.title, entry.paper.authors)
    return " ".join(texts).lower()


def _line(entry: Entry, known: Known | None) -> str:
    accuracies, images = ("-", "-", "-"), ""
    if known is not None:
        flag = "!" if known.failed_checks else ""
        accuracies = (known.clean, known.autoattack, known.best + flag)
        images = f"{known.n or 'all'}{'' if known.is_whole else '*'}"
    alpha = f"alpha [{entry.alpha.alpha_min:g}, {entry.alpha.alpha_max:g}]"
    named = (entry.name, entry.dataset, entry.threat_model, f"eps {entry.eps}")
    return LINE.format(*named, *accuracies, images, alpha, where_weights_are(entry))


def where_weights_are(entry: Entry) -> str:
    """The location of the weights in a few words."""
    weights = entry.weights
    original = "original files, " + ("verified" if weights.verified else "not verified yet")
    elsewhere = original if weights.components else "no weights"
    return "embedded" if entry.comes_along else weights.hub_repo or elsewhere


def _facts(entry: Entry, known: Known | None) -> dict[str, Any]:
    from adaptive_smoothing_zoo.storage.schema import to_json

    names = ("name", "dataset", "threat_model", "eps", "architecture", "num_classes", "image_shape", "license")
    return {
        **{name: to_json(getattr(entry, name)) for name in names},
        "accuracies": None if known is None else to_json(known),
        "alpha": [entry.alpha.alpha_min, entry.alpha.alpha_max],
        "weights": where_weights_are(entry),
    }
