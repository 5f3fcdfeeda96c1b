"""The command line ``asz``. Each command is a thin call into the library."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.cli.certification import certify_command, plot_command
from adaptive_smoothing_zoo.cli.experiments import experiment_command
from adaptive_smoothing_zoo.cli.interruption import Terminated
from adaptive_smoothing_zoo.cli.model_dir import check_model_dir
from adaptive_smoothing_zoo.cli.training import train_command
from adaptive_smoothing_zoo.devices import is_out_of_memory
from adaptive_smoothing_zoo.errors import WeightsError, ZooError, reason
from adaptive_smoothing_zoo.files import write_text

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.data import Examples
    from adaptive_smoothing_zoo.evaluation import Evaluation
    from adaptive_smoothing_zoo.zoo.entry import Entry
    from adaptive_smoothing_zoo.zoo.triplet import Triplet

RESULTS = Path("results")


def main() -> None:
    """Run a command; what a user can put right ends with one sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the name of a file need be no text
    try:
        asz(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Terminated:
        click.echo("terminated", err=True)
        sys.exit(143)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (ZooError, ValueError, OSError, ModuleNotFoundError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        click.echo(f"Error: memory ran out: {reason(error)}", err=True)
        sys.exit(2)


def dataset_option(function: Callable[..., None]) -> Callable[..., None]:
    """The options that, with a name, choose a triplet."""
    function = click.option("--threat-model", default="Linf", show_default=True, help="Linf or L2")(function)
    return click.option("--dataset", default="cifar10", show_default=True, help="of the triplet")(function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adaptive-smoothing-zoo")
def asz() -> None:
    """Accurate and robust at once: adaptively smoothed classifiers."""


@asz.command("list")
@click.option("--dataset", default=None, help="only of this data set")
@click.option("--threat-model", default=None, help="only of this threat model")
def list_command(dataset: str | None, threat_model: str | None) -> None:
    """List the triplets of the zoo."""
    from adaptive_smoothing_zoo.zoo.registry import list_models

    for entry in list_models(dataset, threat_model):
        alpha = entry.alpha
        weights = entry.weights
        original = "original files, " + ("verified" if weights.verified else "not verified yet")
        elsewhere = original if weights.components else "no weights"
        where = "embedded" if weights.embedded else weights.hub_repo or elsewhere
        click.echo(
            f"{entry.name:28} {entry.dataset:9} {entry.threat_model:5} eps {entry.eps:6} "
            f"alpha [{alpha.alpha_min:g}, {alpha.alpha_max:g}]  {where}"
        )


@asz.command("info")
@click.argument("name")
@dataset_option
def info_command(name: str, dataset: str, threat_model: str) -> None:
    """Print a triplet's entry as JSON."""
    from adaptive_smoothing_zoo.zoo.entry import entry_to_text
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    click.echo(entry_to_text(find_entry(name, dataset, threat_model)), nl=False)


@asz.command("eval")
@click.argument("name")
@dataset_option
@click.option("--eps", default=None, help="radius, as 8/255 or 0.5; the entry's if not given")
@click.option("--n", type=int, default=None, help="take the first N test examples; all if not given")
@click.option("--batch-size", type=int, default=None, help="most points per pass; what memory holds if not given")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--engine", default="fast", show_default=True, help="fast, or reference: pyautoattack")
@click.option("--quick", is_flag=True, help="a few steps only: an upper bound on the robust accuracy, written nowhere")
@click.option("--shard", default=None, help="i/k, 0 <= i < k: only every k-th example from the i-th; see asz merge")
@click.option("--channels-last", is_flag=True, help="that memory format for the weights: faster for wide nets on CPUs")
@click.option("--compare-with", type=click.Path(path_type=Path), help="results of an earlier run; the record tells")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="a folder that save_pretrained wrote")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def eval_command(
    name: str,
    dataset: str,
    threat_model: str,
    eps: str | None,
    n: int | None,
    batch_size: int | None,
    device: str,
    seed: int,
    engine: str,
    quick: bool,
    shard: str | None,
    channels_last: bool,
    compare_with: Path | None,
    data_dir: str | None,
    model_dir: str | None,
    out: Path,
) -> None:
    """Attack a triplet by the standard protocol and write its leaderboard entry.

    What is finished is kept beside the results: after an interruption of any kind, the same command goes on. Under
    torchrun or accelerate launch the examples are shared among the processes.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import distributed, evaluate, pick_device
    from adaptive_smoothing_zoo.evaluation.state import remove_state
    from adaptive_smoothing_zoo.publishing.evidence import check_records
    from adaptive_smoothing_zoo.publishing.results import (
        agreement,
        check_writable,
        read_record,
        source_commit,
        state_path,
    )
    from adaptive_smoothing_zoo.zoo.entry import parse_eps
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    chosen = pick_device(distributed.local_device(device))
    part = distributed.shard_of(shard)
    entry = find_entry(name, dataset, threat_model)
    check_writable(out, entry)
    check_records(out, entry)
    if compare_with is not None:
        read_record(compare_with, entry)  # now rather than after hours
    check_model_dir(model_dir, entry)
    commit = source_commit()  # now: the checkout may move on during a long run
    model = load_model(name, model_dir, dataset, threat_model, device=chosen)
    entry = model.entry
    examples = load_data(dataset, data_dir=data_dir).first(n)
    click.echo(f"{entry.key}: {len(examples)} examples, {chosen}, {examples.source}")
    settings: dict[str, Any] = {
        "norm": threat_model,
        "eps": parse_eps(eps or entry.eps),
        "seed": seed,
        "batch_size": batch_size,
    }
    if quick:
        _screen(model, examples, {**settings, "device": chosen, "channels_last": channels_last})
        return
    state = state_path(out, entry, part)
    with progress_bar() as on_progress, told_how_to_go_on():
        evaluation = evaluate(
            model,
            examples.images,
            examples.labels,
            **settings,
            device=chosen,
            engine=engine,
            channels_last=channels_last,
            state=state,
            shard=part,
            on_progress=on_progress,
        )
    if distributed.world_size() > 1:
        with told_how_to_go_on():
            together = distributed.merge_all(state, examples.images, examples.labels)
        if together is None:  # the first process writes the results
            return
        evaluation = together
    elif part[1] > 1:
        click.echo(f"shard {part[0]}/{part[1]} is done: {state}; when all are, run asz merge")
        return
    remarks = () if compare_with is None else (agreement(compare_with, entry, evaluation, examples),)
    _write_and_tell(out, entry, evaluation, examples, model, eps, commit, remarks)
    remove_state(state)


@asz.command("merge")
@click.argument("name")
@dataset_option
@click.option("--n", type=int, default=None, help="as in the shards")
@click.option("--eps", default=None, help="as in the shards")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="as in the shards")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def merge_command(
    name: str,
    dataset: str,
    threat_model: str,
    n: int | None,
    eps: str | None,
    data_dir: str | None,
    model_dir: str | None,
    out: Path,
) -> None:
    """Write the results of an evaluation whose shards (asz eval --shard) are all below OUT."""
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import merge
    from adaptive_smoothing_zoo.evaluation.state import remove_state
    from adaptive_smoothing_zoo.publishing.results import shard_states, source_commit
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    states = shard_states(out, find_entry(name, dataset, threat_model))
    model = load_model(name, model_dir, dataset, threat_model)
    examples = load_data(dataset, data_dir=data_dir).first(n)
    evaluation = merge(states, examples.images, examples.labels)
    _write_and_tell(out, model.entry, evaluation, examples, model, eps, source_commit())
    for state in states:
        remove_state(state)


def _screen(model: Triplet, examples: Examples, settings: dict[str, Any]) -> None:
    """A screening, told and not written."""
    from tqdm import tqdm

    from adaptive_smoothing_zoo.evaluation.screening import STEPS, TARGETS, screen

    with tqdm(total=len(examples), unit="point") as bar:
        found = screen(model, examples.images, examples.labels, on_progress=bar.update, **settings)
    click.echo(
        f"clean            {100 * found.clean_accuracy:6.2f} %\n"
        f"robust, at most  {100 * found.upper_bound:6.2f} % ({len(examples)} examples; APGD-T, {TARGETS} targets of "
        f"{STEPS} steps; {found.passes} passes)\n"
        "This is a screening, not the standard protocol: nothing was written."
    )


def _update_entry(out: Path, entry: Entry) -> Path:
    """Let the leaderboard entry follow from all that is recorded; say what cannot count any more."""
    from adaptive_smoothing_zoo.publishing.evidence import read_evidence, update_entry

    for why in read_evidence(out, entry).stale:
        click.echo(f"left aside: {why}", err=True)
    return update_entry(out, entry)


def _write_and_tell(
    out: Path,
    entry: Entry,
    evaluation: Evaluation,
    examples: Examples,
    model: Triplet,
    eps: str | None,
    commit: str | None,
    remarks: tuple[str, ...] = (),
) -> None:
    from adaptive_smoothing_zoo.publishing.results import make_record, write_results

    record = make_record(entry, evaluation, examples, model, eps=eps, commit=commit, remarks=remarks)
    write_results(out, entry, evaluation, examples, record)
    path = _update_entry(out, entry)
    for attack, accuracy in evaluation.accuracy_after.items():
        label = "clean" if attack == "clean" else f"after {attack}"
        click.echo(f"{label:16}{100 * accuracy:6.2f} %")
    for warning in evaluation.warnings:
        click.echo(f"AutoAttack warns: {warning}", err=True)
    for remark in record.remarks:
        click.echo(remark, err=True)
    click.echo(f"wrote {path}")


@asz.command("adapt")
@click.argument("name")
@dataset_option
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="of asz eval")
@click.option("--batch-size", type=int, default=256, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="a folder that save_pretrained wrote")
def adapt_command(
    name: str,
    dataset: str,
    threat_model: str,
    results: Path,
    batch_size: int,
    device: str,
    seed: int,
    data_dir: str | None,
    model_dir: str | None,
) -> None:
    """Attack what a recorded run of asz eval left standing, with attacks adapted to the mix."""
    from tqdm import tqdm

    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.evaluation.adaptive import AdaptiveProgress, evaluate_adaptive
    from adaptive_smoothing_zoo.publishing.adaptive import make_adaptive_record, standard_verdicts, write_adaptive
    from adaptive_smoothing_zoo.publishing.results import read_record, source_commit
    from adaptive_smoothing_zoo.zoo.entry import parse_eps
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    chosen = pick_device(device)
    entry = find_entry(name, dataset, threat_model)
    record = read_record(results, entry)
    check_model_dir(model_dir, entry)
    commit = source_commit()
    model = load_model(name, model_dir, dataset, threat_model, device=chosen)
    examples = load_data(dataset, data_dir=data_dir).first(record.n)
    robust = standard_verdicts(results, entry, record, model, examples)
    with tqdm(unit="point") as bar:

        def show(progress: AdaptiveProgress) -> None:
            bar.total, bar.n = progress.total, progress.done
            bar.set_description(f"{progress.attack}, {progress.robust} points still robust")

        found = evaluate_adaptive(
            model,
            examples.images,
            examples.labels,
            robust,
            norm=threat_model,
            eps=parse_eps(record.eps),
            seed=seed,
            batch_size=batch_size,
            device=chosen,
            surrogate=model.surrogate() if model.entry.surrogate else None,
            on_progress=show,
        )
    adaptive = make_adaptive_record(results, entry, record, found, commit=commit)
    write_adaptive(results, entry, adaptive)
    path = _update_entry(results, entry)
    for attack, accuracy in found.accuracy_after.items():
        click.echo(f"{f'after {attack}':24}{100 * accuracy:6.2f} %")
    click.echo(f"wrote {path}")


@asz.command("validate")
@click.argument("name")
@dataset_option
@click.option("--n", type=int, default=100, show_default=True, help="take the first N test examples; 0 for all")
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--channels-last", is_flag=True, help="that memory format for the weights: faster for wide nets on CPUs")
@click.option("--only", multiple=True, help="a check to make, may be repeated; all if not given")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="a folder that save_pretrained wrote")
@click.option(
    "--results", type=click.Path(path_type=Path), default=None, help="of asz eval, to compare; OUT if not given"
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def validate_command(
    name: str,
    dataset: str,
    threat_model: str,
    n: int,
    batch_size: int,
    device: str,
    seed: int,
    channels_last: bool,
    only: tuple[str, ...],
    data_dir: str | None,
    model_dir: str | None,
    results: Path | None,
    out: Path,
) -> None:
    """Check whether attacks on a triplet can be trusted, and write a report, unless --only leaves checks out.

    Exit code 1 if a check fails.
    """
    from adaptive_smoothing_zoo.cli.progress import check_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.evaluation.validation import RecordedRun, validate
    from adaptive_smoothing_zoo.publishing.results import check_writable, record_path, source_commit
    from adaptive_smoothing_zoo.publishing.validation import make_validation, recorded_run, write_validation
    from adaptive_smoothing_zoo.zoo.entry import parse_eps
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    chosen = pick_device(device)
    check_writable(out, find_entry(name, dataset, threat_model))
    check_model_dir(model_dir, find_entry(name, dataset, threat_model))
    commit = source_commit()
    model = load_model(name, model_dir, dataset, threat_model, device=chosen)
    entry, everything = model.entry, load_data(dataset, data_dir=data_dir)
    examples = everything.first(n or None)
    found = recorded_run(results or out, entry, model, everything, len(examples))
    recorded = found if isinstance(found, RecordedRun) else None
    click.echo(f"{entry.key}: {len(examples)} examples, {chosen}, {examples.source}")
    if not isinstance(found, RecordedRun):
        click.echo(f"nothing to compare with: {found}")
    with check_bar() as on_progress:
        findings = validate(
            model,
            examples.images,
            examples.labels,
            norm=threat_model,
            eps=parse_eps(entry.eps),
            seed=seed,
            batch_size=batch_size,
            device=chosen,
            channels_last=channels_last,
            recorded=recorded,
            only=only or None,
            on_progress=on_progress,
        )
    for result in findings.checks:
        click.echo(f"{result.verdict:15}{result.name:30}{result.found}")
    if only:
        click.echo("nothing is written: these are not all checks")
    else:
        validation = make_validation(entry, findings, examples, model, seed=seed, recorded=recorded, commit=commit)
        click.echo(f"wrote {write_validation(out, entry, validation)}")
        if record_path(out, entry).exists():
            click.echo(f"wrote {_update_entry(out, entry)}")
    if findings.failed:
        click.echo(f"{len(findings.failed)} checks failed: do not trust the robust accuracy as it stands", err=True)
        sys.exit(1)


@asz.command("leaderboard")
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


@asz.command("claim")
@click.argument("name")
@dataset_option
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--checkpoint", required=True, help="link to weights and code, for the reviewers")
def claim_command(name: str, dataset: str, threat_model: str, results: Path, checkpoint: str) -> None:
    """Write the text of a RobustBench submission from recorded results."""
    from adaptive_smoothing_zoo.publishing.claim import claim
    from adaptive_smoothing_zoo.publishing.evidence import read_evidence
    from adaptive_smoothing_zoo.publishing.results import tensors_sha256
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    entry = find_entry(name, dataset, threat_model)
    evidence = read_evidence(results, entry)
    weights = load_model(name, dataset=dataset, threat_model=threat_model).state_dict()
    click.echo(claim(entry, evidence, checkpoint, tensors_sha256(weights)))


@asz.command("card")
@click.argument("name")
@dataset_option
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("model_cards"), show_default=True)
def card_command(name: str, dataset: str, threat_model: str, results: Path, out: Path) -> None:
    """Write a triplet's model card from its entry and its recorded results, if there are any."""
    from adaptive_smoothing_zoo.publishing.card import model_card
    from adaptive_smoothing_zoo.publishing.certification import read_certification
    from adaptive_smoothing_zoo.publishing.constant_curve import read_curve
    from adaptive_smoothing_zoo.publishing.evidence import read_evidence
    from adaptive_smoothing_zoo.publishing.results import record_path
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    entry = find_entry(name, dataset, threat_model)
    measured = record_path(results, entry).exists()
    evidence = read_evidence(results, entry) if measured else None
    for why in evidence.stale if evidence else ():
        click.echo(f"left aside: {why}", err=True)
    path = out / f"{entry.key}.md"
    certification = read_certification(results, entry)
    write_text(path, model_card(entry, evidence, read_curve(results, entry), certification))
    click.echo(f"wrote {path}" + ("" if measured else f"; no results for {entry.key} in {results}"))


@asz.command("export")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@dataset_option
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
    card, record = card_of(model, results)
    export(model, folder, card=card, max_shard_size=shard_size)
    click.echo(f"wrote {folder}" + ("" if record else f"; no results for {model.entry.key} in {results}"))


@asz.command("push")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="the repository is to be private")
@click.option("--revision", default=None, help="branch, made if it does not exist; main if not given")
@click.option("--message", default=None, help="of the commit")
def push_command(folder: Path, repo: str, private: bool, revision: str | None, message: str | None) -> None:
    """Upload an exported FOLDER to the Hugging Face Hub as REPO (org/name), with the stored token or HF_TOKEN."""
    from adaptive_smoothing_zoo.publishing.hub import push

    pushed = push(folder, repo, private=private, revision=revision, commit_message=message)
    click.echo(f"uploaded {pushed.url}")
    click.echo(f"for the weights of the entry:\n{pushed.entry_text}")


@asz.command("verify")
@click.argument("name")
@dataset_option
@click.option("--n", type=int, default=1000, show_default=True, help="take the first N test examples; 0 for all")
@click.option("--batch-size", type=int, default=100, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="a folder with the weights; where load_model finds them if not given")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--update-entry", is_flag=True, help="write hashes and verdict into the package's entry")
def verify_command(
    name: str,
    dataset: str,
    threat_model: str,
    n: int,
    batch_size: int,
    device: str,
    data_dir: str | None,
    model_dir: str | None,
    out: Path,
    update_entry: bool,
) -> None:
    """Compare the clean accuracy of a triplet's weights with the published one, and note their hashes."""
    from tqdm import tqdm

    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing import verification
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import ENTRIES, find_entry

    chosen = pick_device(device)
    entry = find_entry(name, dataset, threat_model)
    check_model_dir(model_dir, entry)
    examples = load_data(dataset, data_dir=data_dir).first(n or None)
    model = load_model(name, model_dir, dataset, threat_model, device=chosen)
    files = verification.original_files(model.entry, Path(model_dir) if model_dir else None)
    with tqdm(total=len(examples), unit="image") as bar:
        found = verification.verify(
            model, examples, batch_size=batch_size, device=chosen, components=files, on_progress=bar.update
        )
    low, high = found.interval
    click.echo(
        f"{entry.key}: clean accuracy {100 * found.clean_accuracy:.2f} % on {found.n} examples "
        f"(95 % interval {100 * low:.2f} to {100 * high:.2f} %)"
    )
    if found.published is not None:
        verdict = "agrees" if found.agrees else "does NOT agree"
        click.echo(f"published: {100 * found.published:.2f} %, which {verdict}")
    for part, source in files.items():
        click.echo(f"{part}: SHA-256 {source.sha256}")
    click.echo(f"wrote {verification.write_verification(out, entry, found)}")
    if update_entry:
        click.echo(f"wrote {verification.write_entry(ENTRIES, verification.verified_entry(entry, found))}")
    if found.agrees is False:
        raise WeightsError(f"the weights of {entry.key} do not have the published clean accuracy")


@asz.command("convert")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@dataset_option
@click.option("--std-model", "std_model", type=click.Path(path_type=Path), required=True, help="checkpoint of g")
@click.option("--rob-model", "rob_model", type=click.Path(path_type=Path), required=True, help="checkpoint of h")
@click.option("--mixing-network", "alpha", type=click.Path(path_type=Path), help="checkpoint of the mixing network")
@click.option("--shard-size", default=None, help="of one weights file at most, as 1GB; one file if not given")
def convert_command(
    name: str,
    folder: Path,
    dataset: str,
    threat_model: str,
    std_model: Path,
    rob_model: Path,
    alpha: Path | None,
    shard_size: str | None,
) -> None:
    """Convert original checkpoints of a triplet's parts to FOLDER, which load_model then takes as model_dir.

    The files may be PyTorch's (old or new), safetensors or BiT's .npz; weights may stand below 'model', 'state_dict' or
    'model_state_dict' and their names begin with 'module.', 'module.0.', 'model.' or 'backbone.'.
    """
    from adaptive_smoothing_zoo.zoo.components import convert_triplet
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    entry = find_entry(name, dataset, threat_model)
    files = {"std_model": std_model, "rob_model": rob_model} | ({} if alpha is None else {"alpha": alpha})
    convert_triplet(entry, files).save_pretrained(folder, shard_size)
    click.echo(f"wrote {folder}")


asz.add_command(certify_command)
asz.add_command(experiment_command)
asz.add_command(plot_command)
asz.add_command(train_command)
