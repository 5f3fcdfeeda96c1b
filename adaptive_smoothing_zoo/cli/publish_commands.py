"""``asz leaderboard``, ``claim``, ``card``, ``export`` and ``push``."""

from __future__ import annotations

from pathlib import Path

import click

from adaptive_smoothing_zoo.cli.model_dir import check_model_dir
from adaptive_smoothing_zoo.cli.options import RESULTS, dataset_option
from adaptive_smoothing_zoo.storage.files import write_text


@click.command("leaderboard")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=None, help="folder for the pages; FOLDER if not given")
def leaderboard_command(folder: Path, out: Path | None) -> None:
    """Render the entries below FOLDER to leaderboard.html and leaderboard.md."""
    from adaptive_smoothing_zoo.publishing.leaderboard import render

    page, text = render(folder)
    for name, content in (("leaderboard.html", page), ("leaderboard.md", text)):
        path = (out or folder) / name
        write_text(path, content)
        click.echo(f"wrote {path}")


@click.command("claim")
@click.argument("name")
@dataset_option()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--checkpoint", required=True, help="link to weights and code, for the reviewers")
def claim_command(name: str, dataset: str, threat_model: str, results: Path, checkpoint: str) -> None:
    """Write the text of a RobustBench submission from recorded results."""
    from adaptive_smoothing_zoo.publishing.claim import claim
    from adaptive_smoothing_zoo.publishing.evidence import read_evidence
    from adaptive_smoothing_zoo.storage.identity import identity_of
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    entry = find_entry(name, dataset, threat_model)
    evidence = read_evidence(results, entry)
    model = load_model(name, dataset=dataset, threat_model=threat_model)
    click.echo(claim(entry, evidence, checkpoint, identity_of(model, entry.image_shape)))


@click.command("card")
@click.argument("name")
@dataset_option()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("model_cards"), show_default=True)
def card_command(name: str, dataset: str, threat_model: str, results: Path, out: Path) -> None:
    """Write a triplet's model card from its entry and its recorded results, if there are any."""
    from adaptive_smoothing_zoo.publishing.export import card_from
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    entry = find_entry(name, dataset, threat_model)
    path = out / f"{entry.key}.md"
    text, evidence = card_from(name, entry, results)
    for why in evidence.stale if evidence else ():
        click.echo(f"left aside: {why}", err=True)
    write_text(path, text)
    click.echo(f"wrote {path}" + ("" if evidence else f"; no results for {entry.key} in {results}"))


@click.command("export")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@dataset_option()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="for the card")
@click.option("--shard-size", default=None, help="of one weights file at most, as 1GB; one file if not given")
@click.option("--model-dir", default=None, help="a folder with the weights; where load_model finds them if not given")
def export_command(
    name: str,
    folder: Path,
    dataset: str,
    threat_model: str,
    results: Path,
    shard_size: str | None,
    model_dir: str | None,
) -> None:
    """Write a triplet to FOLDER as the Hugging Face Hub shows it: configuration, weights, card, license."""
    from adaptive_smoothing_zoo.publishing.export import card_of, export
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    check_model_dir(model_dir, find_entry(name, dataset, threat_model))
    model = load_model(name, model_dir, dataset, threat_model)
    card, evidence = card_of(model, results)
    export(model, folder, card=card, max_shard_size=shard_size)
    click.echo(f"wrote {folder}" + ("" if evidence else f"; no results for {model.entry.key} in {results}"))


@click.command("push")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="the repository is to be private")
@click.option("--revision", default=None, help="branch, made if it does not exist; main if not given")
@click.option("--message", default=None, help="of the commit")
def push_command(folder: Path, repo: str, private: bool, revision: str | None, message: str | None) -> None:
    """Upload an exported FOLDER to the Hugging Face Hub as REPO (org/name), with the stored token or HF_TOKEN."""
    from adaptive_smoothing_zoo.publishing.push import push

    pushed = push(folder, repo, private=private, revision=revision, commit_message=message)
    click.echo(f"uploaded {pushed.url}")
    click.echo(f"for the weights of the entry:\n{pushed.entry_text}")
