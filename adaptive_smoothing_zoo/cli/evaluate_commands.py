"""``asz eval``, ``merge``, ``adapt`` and ``validate``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.cli.model_dir import check_model_dir
from adaptive_smoothing_zoo.cli.options import RESULTS, dataset_option, examples_option

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.data import Examples
    from adaptive_smoothing_zoo.evaluation import Evaluation
    from adaptive_smoothing_zoo.zoo.entry import Entry
    from adaptive_smoothing_zoo.zoo.triplet import Triplet


@click.command("eval")
@click.argument("name")
@dataset_option
@click.option("--eps", default=None, help="radius, as 8/255 or 0.5; the entry's if not given")
@examples_option(None)
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
@click.option("--overwrite", is_flag=True, help="also a record of more examples, or of the entry's own radius")
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
    overwrite: bool,
) -> None:
    """Attack a triplet by the standard protocol and write its leaderboard entry.

    What is finished is kept beside the results: after an interruption of any kind, the same command goes on. Under
    torchrun or accelerate launch the examples are shared among the processes.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import distributed, evaluate, pick_device
    from adaptive_smoothing_zoo.publishing.evidence import check_records
    from adaptive_smoothing_zoo.publishing.record import check_writable
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord, agreement, state_path
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.threat import parse_eps
    from adaptive_smoothing_zoo.units import warn_of_radius
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    warn_of_radius(threat_model, parse_eps(eps or "0"))
    chosen = pick_device(distributed.local_device(device))
    part = distributed.shard_of(shard)
    entry = find_entry(name, dataset, threat_model)
    check_writable(out, entry)
    check_records(out, entry)
    if compare_with is not None:
        RunRecord.read(compare_with, entry)  # now rather than after hours
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
    if not overwrite:
        RunRecord.check_replaceable(out, entry, model, n=len(examples), eps=eps)
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


@click.command("merge")
@click.argument("name")
@dataset_option
@examples_option(None, "number of test images, as in the shards")
@click.option("--eps", default=None, help="as in the shards")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="as in the shards")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--overwrite", is_flag=True, help="also a record of more examples, or of the entry's own radius")
def merge_command(
    name: str,
    dataset: str,
    threat_model: str,
    n: int | None,
    eps: str | None,
    data_dir: str | None,
    model_dir: str | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Write the results of an evaluation whose shards (asz eval --shard) are all below OUT."""
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import merge
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord, shard_states
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    states = shard_states(out, find_entry(name, dataset, threat_model))
    model = load_model(name, model_dir, dataset, threat_model)
    examples = load_data(dataset, data_dir=data_dir).first(n)
    if not overwrite:
        RunRecord.check_replaceable(out, model.entry, model, n=len(examples), eps=eps)
    evaluation = merge(states, examples.images, examples.labels)
    _write_and_tell(out, model.entry, evaluation, examples, model, eps, source_commit())
    for state in states:
        remove_state(state)


@click.command("adapt")
@click.argument("name")
@dataset_option
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="of asz eval")
@click.option(
    "--batch-size", type=int, default=None, help="most points per pass; what a step in seconds allows if not given"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--channels-last", is_flag=True, help="that memory format for the weights: faster for wide nets on CPUs")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="a folder that save_pretrained wrote")
@click.option("--overwrite", is_flag=True, help="also a record of more examples, or of the entry's own radius")
def adapt_command(
    name: str,
    dataset: str,
    threat_model: str,
    results: Path,
    batch_size: int | None,
    device: str,
    seed: int,
    channels_last: bool,
    data_dir: str | None,
    model_dir: str | None,
    overwrite: bool,
) -> None:
    """Attack what a recorded run of asz eval left standing, with attacks adapted to the mix.

    What is finished is kept beside the results: after an interruption of any kind, the same command goes on.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.evaluation.adapt import evaluate_adaptive
    from adaptive_smoothing_zoo.publishing.adaptive_record import AdaptiveRecord, make_adaptive_record
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.threat import parse_eps
    from adaptive_smoothing_zoo.zoo.loading import load_model
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    chosen = pick_device(device)
    entry = find_entry(name, dataset, threat_model)
    record = RunRecord.read(results, entry)
    check_model_dir(model_dir, entry)
    commit = source_commit()
    model = load_model(name, model_dir, dataset, threat_model, device=chosen)
    examples = load_data(dataset, data_dir=data_dir).first(record.n)
    robust = record.verdicts_on(results, entry, examples, model)
    if not overwrite:
        AdaptiveRecord.check_replaceable(results, entry, model, n=record.n, eps=record.eps)
    state = AdaptiveRecord.state_path(results, entry)
    with progress_bar() as on_progress, told_how_to_go_on():
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
            channels_last=channels_last,
            surrogate=model.surrogate() if model.entry.surrogate else None,
            state=state,
            on_progress=on_progress,
        )
    adaptive = make_adaptive_record(results, entry, record, found, commit=commit)
    adaptive.write(results, entry)
    remove_state(state)
    path = _update_entry(results, entry)
    for attack, accuracy in found.accuracy_after.items():
        click.echo(f"{f'after {attack}':24}{100 * accuracy:6.2f} %")
    click.echo(f"wrote {path}")


@click.command("validate")
@click.argument("name")
@dataset_option
@examples_option(100)
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
@click.option("--overwrite", is_flag=True, help="also a record of more examples, or of the entry's own radius")
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
    overwrite: bool,
) -> None:
    """Check whether attacks on a triplet can be trusted, and write a report, unless --only leaves checks out.

    What attacks found is kept beside the results: after an interruption of any kind, the same command goes on.

    Exit code 1 if a check fails.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import check_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing.record import check_writable
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord
    from adaptive_smoothing_zoo.publishing.validation_record import Validation, make_validation, recorded_run
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.threat import parse_eps
    from adaptive_smoothing_zoo.validation import RecordedRun, validate
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
    if not (overwrite or only):
        Validation.check_replaceable(out, entry, model, n=len(examples))
    state = None if only else Validation.state_path(out, entry)
    with check_bar() as on_progress, told_how_to_go_on() if state else nullcontext():
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
            state=state,
            on_progress=on_progress,
        )
    for result in findings.checks:
        click.echo(f"{result.verdict:15}{result.name:30}{result.found}")
    if state is None:
        click.echo("nothing is written: these are not all checks")
    else:
        validation = make_validation(entry, findings, examples, model, seed=seed, recorded=recorded, commit=commit)
        click.echo(f"wrote {validation.write(out, entry)}")
        remove_state(state)
        if RunRecord.path(out, entry).exists():
            click.echo(f"wrote {_update_entry(out, entry)}")
    if findings.failed:
        click.echo(f"{len(findings.failed)} checks failed: do not trust the robust accuracy as it stands", err=True)
        sys.exit(1)


def _screen(model: Triplet, examples: Examples, settings: dict[str, Any]) -> None:
    """A screening, told and not written."""
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.evaluation.screening import SCREENING, screen

    (plan,), n = SCREENING, len(examples)
    with progress_bar() as on_progress:
        found = screen(model, examples.images, examples.labels, on_progress=on_progress, **settings)
    click.echo(
        f"clean            {100 * found.clean_accuracy:6.2f} %\n"
        f"robust, at most  {100 * found.upper_bound:6.2f} % ({n} examples; APGD-T, {plan.targets} targets of "
        f"{plan.iterations} steps; {found.passes} passes)\n"
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
    from adaptive_smoothing_zoo.publishing.run_record import make_record, write_results

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
