"""``asz leaderboard``, ``compare``, ``plot trade-off``, ``describe``, ``claim``, ``card``, ``export`` and ``push``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptive_smoothing_zoo.cli import certify_commands
from adaptive_smoothing_zoo.cli.options import (
    DATA_DIR,
    RESULTS,
    RESULTS_OPTION,
    ModelChoice,
    WordChoice,
    example,
    model_options,
    packed,
    words_options,
)
from adaptive_smoothing_zoo.publishing.others import Others
from adaptive_smoothing_zoo.storage.files import write_text

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.zoo.entry import ModelEntry

CARDS = Path("model_cards")
FOLDERS = click.argument("folders", metavar="[FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
OTHERS = packed(
    Others,
    "others",
    click.option(
        "--with-robustbench",
        "model_info",
        type=click.Path(path_type=Path),
        metavar="MODEL_INFO_DIR",
        help="RobustBench's folder model_info: add its entries with the same data, threat model and radius",
    ),
    click.option("--published", is_flag=True, help="add the zoo's triplets by their published accuracies"),
    click.option(
        "--known-by", metavar="YYYY-MM", help="of these, leave out entries of papers that came out after this month"
    ),
    click.option("--best-per-paper", is_flag=True, help="of these, rank the most robust entry of each paper only"),
)


def _check_entries(folders: tuple[Path, ...], others: Others) -> None:
    if not folders and not others.published:
        raise click.UsageError("name a FOLDER with entries, or add --published")


@click.command(
    "leaderboard",
    epilog=example(
        "asz leaderboard results",
        "asz leaderboard results --with-robustbench ../robustbench/model_info",
        "asz leaderboard --published --with-robustbench ../robustbench/model_info \\",
        "    --known-by 2023-04 --best-per-paper --out site",
    ),
)
@FOLDERS
@OTHERS
@click.option(
    "--cards",
    type=click.Path(path_type=Path),
    multiple=True,
    default=(CARDS,),
    show_default=True,
    help="to link; repeatable",
)
@click.option("--out", type=click.Path(path_type=Path), help="folder for the pages; default the first FOLDER, or .")
def leaderboard_command(folders: tuple[Path, ...], others: Others, cards: tuple[Path, ...], out: Path | None) -> None:
    """Rank the models with entries below FOLDER: leaderboard.html and leaderboard.md.

    The HTML page sorts and filters without a network and shows the trade-off of clean and robust accuracy. If several
    folders have the same entry, the first counts. A model is listed once: as FOLDER has it, else as published, else as
    RobustBench has it. The month of a paper is that of its arXiv number, or January of its venue's year; an entry
    without either stays. With --known-by or --best-per-paper the pages state the ranks without them, too.
    """
    from adaptive_smoothing_zoo.publishing.leaderboard import render

    _check_entries(folders, others)
    out = out or next(iter(folders), Path())
    page, text = render(*folders, out=out, cards=cards, others=others)
    for name, content in (("leaderboard.html", page), ("leaderboard.md", text)):
        write_text(out / name, content)
        click.echo(f"wrote {out / name}")


@click.command(
    "compare",
    epilog=example(
        "asz compare results/digits/Linf/Mine2026.run.json \\", "    results/digits/Linf/Other2026.run.json"
    ),
)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
def compare_command(first: Path, second: Path) -> None:
    """Compare two models by their run records FIRST and SECOND, example by example.

    A difference on the same examples is surer than two separate intervals say. The interval is that of a score test,
    p that of a sign test; both are about the choice of examples alone.
    """
    from adaptive_smoothing_zoo.publishing.comparison import compare

    found = compare(first, second)
    click.echo(found.data)
    click.echo(f"{'':18}{'first':>8}{'second':>8}  difference, 95 % interval     alone right       p")
    for name, paired in (("clean", found.clean), ("the run", found.run), ("all attacks", found.best)):
        (a, b), (low, high) = paired.shares, paired.interval
        points = f"{100 * paired.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
        alone = f"{paired.first} and {paired.second}"
        click.echo(f"{name:18}{100 * a:8.2f}{100 * b:8.2f}  {points:30}{alone:>11}{paired.p_value:8.2g}")
    for which, attacks in zip(("first", "second"), found.attacks, strict=True):
        click.echo(f"all attacks on the {which}: {attacks}")


@certify_commands.plot_command.command(
    "trade-off",
    epilog=example(
        "asz plot trade-off results --dataset digits --threat-model Linf",
        "asz plot trade-off results --with-robustbench model_info --out plot.pdf",
        "asz plot trade-off --dataset cifar100 --published --known-by 2023-04",
    ),
)
@FOLDERS
@click.option("--dataset", default=None, help="needed where FOLDER has several")
@click.option("--threat-model", default=None, help="needed where FOLDER has several: Linf or L2")
@click.option("--eps", default=None, help="needed where FOLDER has several: as 8/255 or 0.5")
@OTHERS
@click.option("--title", default=None, help="default: data set, threat model and radius")
@click.option("--out", type=click.Path(path_type=Path), default=Path("trade-off.png"), show_default=True)
def plot_trade_off_command(
    folders: tuple[Path, ...], others: Others, title: str | None, out: Path, **wanted: str | None
) -> None:
    """Draw clean against best known robust accuracy of the models with entries below FOLDER.

    Also draws the recorded curve of constant alphas, if any. The extension of OUT chooses the format (.png, .pdf,
    .svg).
    """
    from adaptive_smoothing_zoo.publishing.leaderboard import read_tables

    _check_entries(folders, others)
    tables = read_tables(*folders, others=others)
    chosen = [table for table in tables if all(value in (None, getattr(table, key)) for key, value in wanted.items())]
    if len(chosen) != 1:
        known = "; ".join(table.title for table in tables)
        raise click.UsageError(f"choose one with --dataset, --threat-model and --eps: {known}")
    chosen[0].trade_off.draw(out, title or chosen[0].title)
    click.echo(f"wrote {out}")


@click.command(
    "describe",
    epilog=example('asz describe mix/ --name Doe2026Mix --title "A mix" --no-additional-data'),
)
@model_options()
@words_options
@click.option("--eps", default=None, help="for nets: the radius of its threat model, as 8/255 or 0.5")
@DATA_DIR
@RESULTS_OPTION
def describe_command(
    choice: ModelChoice, words: WordChoice, eps: str | None, data_dir: str | None, results: Path
) -> None:
    """Describe MODEL for leaderboard, card and claim: its name, its paper, its training data.

    For a triplet's folder the description is stored in config.json, for a net in RESULTS next to the records. A model
    with records keeps its name. Data set, threat model and radius of a triplet are those that records are about; only
    save_pretrained(folder, threat_model=..., eps=...) changes them.
    """
    from adaptive_smoothing_zoo.publishing.description import describe_folder, folder_of
    from adaptive_smoothing_zoo.publishing.evidence import update_entry
    from adaptive_smoothing_zoo.publishing.export import CARD_FILE, is_own, write_card
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord
    from adaptive_smoothing_zoo.zoo.references import is_triplet

    if not is_triplet(choice.reference):
        entry = _described_net(choice, words, eps, data_dir, results)
    elif eps is not None:
        raise click.UsageError(
            f"{choice.reference} is a triplet: its entry sets the radius, which its records are about; to correct it, "
            f'save the folder again: Triplet.from_pretrained("folder").save_pretrained("folder", eps="{eps}")'
        )
    elif choice.checkpoint is not None or data_dir is not None:
        raise click.UsageError(f"{choice.reference} is a triplet: omit --checkpoint and --data-dir, which are for nets")
    else:
        folder = folder_of(choice.reference)
        replace(choice, name=None).entry(results)  # refuses what a triplet's entry sets
        entry = describe_folder(folder, results, words.description(), choice.name)
        if (own := is_own(folder)) and (folder / CARD_FILE).exists():
            write_card(folder)
        click.echo(f"wrote {folder}" + ("" if own else "; its card is outdated, asz export renews it"))
    run = RunRecord.find(results, entry)
    if run is not None and run.is_about(entry):
        click.echo(f"wrote {update_entry(results, entry)}")
    elif run is not None:
        click.echo(f"{RunRecord.path(results, entry)} stays as it is: it is of another model of this name", err=True)


def _described_net(
    choice: ModelChoice, words: WordChoice, eps: str | None, data_dir: str | None, results: Path
) -> ModelEntry:
    """The new entry of a net; if it is already stored under one name, another name renames it."""
    from adaptive_smoothing_zoo.publishing.description import describe_net
    from adaptive_smoothing_zoo.publishing.kept_entry import kept_path

    entry = choice.entry(results, eps, data_dir)
    if choice.name is not None and not kept_path(results, entry).exists():
        entry = replace(choice, name=None).entry(results, eps, data_dir)
    entry = entry if eps is None else replace(entry, eps=eps)
    entry = describe_net(entry, results, words.description(), choice.name)
    click.echo(f"wrote {kept_path(results, entry)}")
    return entry


@click.command("claim", epilog=example("asz claim Demo2026Constant --checkpoint https://example.org/weights"))
@model_options(checkpoint="--weights")
@RESULTS_OPTION
@click.option("--checkpoint", "link", required=True, help="link to weights and code, for the reviewers")
def claim_command(choice: ModelChoice, results: Path, link: str) -> None:
    """Write the text of a RobustBench submission from recorded results."""
    from adaptive_smoothing_zoo.publishing.claim import claim
    from adaptive_smoothing_zoo.publishing.evidence import read_evidence
    from adaptive_smoothing_zoo.storage.identity import identity_of

    entry = choice.entry(results)
    evidence = read_evidence(results, entry)
    model = choice.load(entry).net
    click.echo(claim(entry, evidence, link, identity_of(model, entry.image_shape)))


@click.command("card", epilog=example("asz card Demo2026Adaptive --dataset digits --results results"))
@model_options()
@RESULTS_OPTION
@click.option("--out", type=click.Path(path_type=Path), default=CARDS, show_default=True)
def card_command(choice: ModelChoice, results: Path, out: Path) -> None:
    """Write a model card of MODEL from its entry and recorded results, if any."""
    from adaptive_smoothing_zoo.publishing.export import card_from

    entry = choice.entry(results)
    path = out / f"{entry.key}.md"
    text, evidence, plot = card_from(entry, results, lambda: choice.load(entry).net, choice.reference)
    for why in evidence.stale if evidence else ():
        click.echo(f"left aside: {why}", err=True)
    write_text(path, text)
    if plot is not None:
        write_text(path.with_suffix(".svg"), plot.svg())
    click.echo(f"wrote {path}" + ("" if evidence else f"; no results for {entry.key} in {results}"))


@click.command("export", epilog=example("asz export Demo2026Adaptive exported/ --dataset digits --results results"))
@model_options()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="for the card")
@click.option("--shard-size", default=None, help="maximal size of a weights file, as 1GB; default one file")
def export_command(choice: ModelChoice, folder: Path, results: Path, shard_size: str | None) -> None:
    """Write a triplet to FOLDER for the Hugging Face Hub: configuration, weights, card, license."""
    from adaptive_smoothing_zoo.publishing.export import PICTURE_FILE, card_of, export, picture_of

    model = choice.triplet("asz export")
    card, evidence = card_of(model, results, picture=PICTURE_FILE)
    picture = picture_of(model, results, evidence)
    export(model, folder, card=card, picture=picture, max_shard_size=shard_size)
    click.echo(f"wrote {folder}" + ("" if evidence else f"; no results for {model.entry.key} in {results}"))


@click.command("push", epilog=example("asz push exported/ me/Demo2026Adaptive --private"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="make the repository private")
@click.option("--revision", default=None, help="branch, created if missing; default main")
@click.option("--message", default=None, help="of the commit")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="for a new card")
def push_command(
    folder: Path, repo: str, private: bool, revision: str | None, message: str | None, results: Path
) -> None:
    """Upload the triplet in FOLDER to the Hugging Face Hub as REPO (org/name), with the stored token or HF_TOKEN.

    A FOLDER from asz export is uploaded unchanged; for one from asz tune or save_pretrained a card is added.
    """
    from adaptive_smoothing_zoo.publishing.export import is_own
    from adaptive_smoothing_zoo.publishing.push import push, push_own
    from adaptive_smoothing_zoo.zoo.references import check_triplet

    check_triplet(str(folder), "asz push")
    about = {"private": private, "revision": revision, "commit_message": message}
    upload = partial(push_own, results=results) if is_own(folder) else push
    pushed = upload(folder, repo, **about)  # type: ignore[arg-type]
    click.echo(f"uploaded {pushed.url}")
    click.echo(f"for the weights of the entry:\n{pushed.entry_text}")
