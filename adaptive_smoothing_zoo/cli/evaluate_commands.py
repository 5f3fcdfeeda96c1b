"""``asz eval``, ``merge``, ``adapt`` and ``validate``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.cli.options import (
    CHANNELS_LAST,
    DATA_DIR,
    DEVICE,
    OUT,
    OVERWRITE,
    RESULTS,
    SEED,
    AttackChoice,
    ModelChoice,
    attack_options,
    example,
    examples_option,
    model_options,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adaptive_smoothing_zoo.attacks.settings import AttackSettings
    from adaptive_smoothing_zoo.data import Examples
    from adaptive_smoothing_zoo.evaluation import Evaluation
    from adaptive_smoothing_zoo.publishing.validation_record import Validation
    from adaptive_smoothing_zoo.threat import ThreatModel
    from adaptive_smoothing_zoo.zoo.entry import ModelEntry
    from adaptive_smoothing_zoo.zoo.named import Named


@click.command(
    "eval",
    epilog=example(
        "asz eval Demo2026Adaptive --dataset digits",
        "asz eval robustbench:Wong2020Fast --data-dir data --n-examples 1000",
        "asz eval nets.py:make --checkpoint weights.pt --data-dir images.npz --quick",
    ),
)
@model_options()
@click.option("--eps", default=None, help="radius, as 8/255 or 0.5, or several, as 2/255,4/255; default the entry's")
@examples_option(None)
@DEVICE
@attack_options
@click.option(
    "--quick", is_flag=True, help="only a few steps: prints an upper bound on the robust accuracy, writes nothing"
)
@click.option(
    "--shard", default=None, help="i/k, 0 <= i < k: only every k-th example, starting from the i-th; see asz merge"
)
@click.option(
    "--save-adversarials",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="write the adversarial images of all examples, as .npz or .pt",
)
@click.option(
    "--compare-with", type=click.Path(path_type=Path), help="results of an earlier run, compared in the record"
)
@DATA_DIR
@OUT
@OVERWRITE
def eval_command(
    choice: ModelChoice,
    eps: str | None,
    n: int | None,
    device: str,
    attack: AttackChoice,
    quick: bool,
    shard: str | None,
    save_adversarials: Path | None,
    compare_with: Path | None,
    data_dir: str | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Attack MODEL by the standard protocol and write its leaderboard entry.

    MODEL is a triplet (a name of the zoo, a folder, hf-hub:org/name) or any net: robustbench:NAME, timm:NAME,
    torchvision:NAME, base:NAME, module:function or file.py:function.

    Runs resume: repeat the command after any interruption. torchrun and accelerate launch distribute the examples over
    their processes. Attacks other than the protocol's are recorded under another name and make no entry. The same holds
    for several radii, which run from the smallest to the largest: points misclassified at one radius are not attacked
    again.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import distributed, evaluate, pick_device
    from adaptive_smoothing_zoo.publishing.kept_entry import keep_entry
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord, agreement, state_path
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps
    from adaptive_smoothing_zoo.units import warn_of_radius

    part = distributed.shard_of(shard)
    radii = _radii(eps, alone=not (quick or compare_with or save_adversarials or part[1] > 1))
    entry = choice.entry(out, radii[-1] if radii else None, data_dir)
    warn_of_radius(entry.threat_model, parse_eps(radii[-1] if radii else "0"))
    chosen = pick_device(distributed.local_device(device))
    settings = attack.settings(chosen)
    _check_files(out, entry, compare_with, save_adversarials, whole=not quick and shard is None)
    commit = source_commit()  # read now: the checkout may change during a long run
    named = choice.load(entry, chosen)
    model, examples = named.net, load_data(entry.dataset, data_dir=data_dir, n=n, preprocessing=entry.preprocessing)
    settings = _fitted(settings, model, examples, chosen)
    entry = _recorded_as(named.entry, settings)
    _tell_images(entry, f"{named.entry.key}: {len(examples)} examples, {chosen}, {examples.source}", len(examples))
    if len(radii) > 1:
        _run_radii(radii, named, entry, examples, settings, device=chosen, out=out, commit=commit, overwrite=overwrite)
        return
    threat = ThreatModel(entry.threat_model, parse_eps(eps or entry.eps))
    if quick:
        _check_quick(settings, shard)
        _screen(model, examples, threat, settings, str(chosen))
        return
    if not overwrite:
        RunRecord.check_replaceable(out, entry, model, examples=examples, eps=eps, settings=settings)
    state = state_path(out, entry, part)
    about: dict[str, Any] = {"threat": threat, "settings": settings, "device": chosen, "shard": part, "state": state}
    with progress_bar() as on_progress, told_how_to_go_on():
        evaluation = evaluate(model, examples.images, examples.labels, **about, on_progress=on_progress)
        whole = _whole(evaluation, state, part, examples)
    if whole is None:
        return
    remarks = () if compare_with is None else (agreement(compare_with, named.entry, whole, examples),)
    about = {"eps": eps, "commit": commit, "remarks": remarks, "save_adversarials": save_adversarials}
    keep_entry(out, named.entry)
    _write_and_tell(out, entry, whole, examples, model, **about)
    remove_state(state)


def _tell_images(entry: ModelEntry, images: str, n: int) -> None:
    """What a run begins with, and a warning if some of its images chose the model."""
    click.echo(images)
    if among := entry.chosen_among(n):
        click.echo(
            f"Warning: {among} of these images chose the mix (its entry says {entry.chosen_on}), so the accuracies "
            "flatter it; report others with --n, or choose on images that you do not report",
            err=True,
        )


@click.command(
    "merge",
    epilog=example(
        "asz eval Demo2026Adaptive --dataset digits --shard 0/2",
        "asz eval Demo2026Adaptive --dataset digits --shard 1/2",
        "asz merge Demo2026Adaptive --dataset digits",
    ),
)
@model_options()
@examples_option(None, "use the first N test images, as in the shards")
@click.option("--eps", default=None, help="as in the shards")
@DATA_DIR
@OUT
@OVERWRITE
def merge_command(
    choice: ModelChoice, n: int | None, eps: str | None, data_dir: str | None, out: Path, overwrite: bool
) -> None:
    """Merge the shards (asz eval --shard) of an evaluation below OUT and write its results."""
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import merge
    from adaptive_smoothing_zoo.publishing.kept_entry import keep_entry
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord, shard_states
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit

    entry = choice.entry(out, eps, data_dir)
    states = shard_states(out, entry, _custom(entry))
    named = choice.load(entry)
    model = named.net
    examples = load_data(entry.dataset, data_dir=data_dir, n=n, preprocessing=entry.preprocessing)
    evaluation = merge(states, examples.images, examples.labels, model=model)
    entry = _recorded_as(named.entry, evaluation.settings)
    if not overwrite:
        settings = evaluation.settings
        RunRecord.check_replaceable(out, entry, model, examples=examples, eps=eps, settings=settings)
    keep_entry(out, named.entry)
    _write_and_tell(out, entry, evaluation, examples, model, eps=eps, commit=source_commit())
    for state in states:
        remove_state(state)


@click.command(
    "adapt",
    epilog=example(
        "asz adapt Demo2026Adaptive --dataset digits",
        "asz adapt Demo2026Constant --dataset digits --attacks apgd-t-mix,apgd-p-mix",
    ),
)
@model_options()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="of asz eval")
@click.option("--attacks", default=None, metavar="NAMES", help="these instead, in this order, separated by commas")
@click.option(
    "--batch-size", type=int, default=None, help="maximal points per pass; default such that a step takes seconds"
)
@DEVICE
@SEED
@CHANNELS_LAST
@DATA_DIR
@OVERWRITE
def adapt_command(
    choice: ModelChoice,
    results: Path,
    attacks: str | None,
    batch_size: int | None,
    device: str,
    seed: int,
    channels_last: bool,
    data_dir: str | None,
    overwrite: bool,
) -> None:
    """Attack the robust points of a recorded run of asz eval with attacks adapted to the mix.

    If MODEL is not a mix, the three attacks that need no alpha run: cross-entropy, targeted margin, and margin of
    probabilities. With a constant alpha the other attacks repeat these three from other random starts.

    Runs resume: repeat the command after any interruption.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.evaluation.adapt import ADAPTIVE_PROTOCOL, attacks_on, evaluate_adaptive
    from adaptive_smoothing_zoo.publishing.adaptive_record import (
        AdaptiveRecord,
        make_adaptive_record,
    )
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps

    chosen, entry = pick_device(device), choice.entry(results, data_dir=data_dir)
    record = RunRecord.read(results, entry)
    commit = source_commit()
    named = choice.load(entry, chosen)
    model = named.net
    examples = load_data(entry.dataset, data_dir=data_dir, n=record.n, preprocessing=entry.preprocessing)
    robust = record.verdicts_on(results, entry, examples, model)
    names = None if attacks is None else tuple(attacks.replace(" ", "").split(","))
    if not overwrite:
        about: dict[str, Any] = {"eps": record.eps, "attacks": names or attacks_on(model, named.surrogate)}
        AdaptiveRecord.check_replaceable(results, entry, model, examples=examples, **about, seed=seed)
    state = AdaptiveRecord.state_path(results, entry)
    with progress_bar() as on_progress, told_how_to_go_on():
        found = evaluate_adaptive(
            model,
            examples.images,
            examples.labels,
            robust,
            threat=ThreatModel(entry.threat_model, parse_eps(record.eps)),
            seed=seed,
            batch_size=batch_size,
            device=chosen,
            channels_last=channels_last,
            surrogate=named.surrogate,
            attacks=names,
            state=state,
            on_progress=on_progress,
        )
    protocol = ADAPTIVE_PROTOCOL if names is None else f"chosen attacks: {', '.join(names)}"
    make_adaptive_record(results, entry, record, found, protocol=protocol, commit=commit).write(results, entry)
    remove_state(state)
    path = _update_entry(results, entry)
    for attack, accuracy in found.accuracy_after.items():
        click.echo(f"{f'after {attack}':24}{100 * accuracy:6.2f} %")
    click.echo(f"wrote {path}")


@click.command("validate", epilog=example("asz validate Demo2026Adaptive --dataset digits --n-examples 100"))
@model_options()
@examples_option(100)
@click.option("--batch-size", type=int, default=128, show_default=True)
@DEVICE
@SEED
@CHANNELS_LAST
@click.option("--only", multiple=True, help="a check to run; repeatable; default all")
@DATA_DIR
@click.option(
    "--results", type=click.Path(path_type=Path), default=None, help="of asz eval, for comparison; default OUT"
)
@OUT
@OVERWRITE
def validate_command(
    choice: ModelChoice,
    n: int,
    batch_size: int,
    device: str,
    seed: int,
    channels_last: bool,
    only: tuple[str, ...],
    data_dir: str | None,
    results: Path | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Check whether attacks on MODEL can be trusted, and write a report if all checks run.

    Runs resume: repeat the command after any interruption. Exit code 1 if a check fails.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import check_bar
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing.record import check_writable
    from adaptive_smoothing_zoo.publishing.validation_record import Validation, make_validation, recorded_run
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.threat import parse_eps
    from adaptive_smoothing_zoo.validation import RecordedRun, validate

    chosen = pick_device(device)
    check_writable(out, entry := choice.entry(results or out, data_dir=data_dir))
    commit = source_commit()
    named = choice.load(entry, chosen)
    model, entry = named.net, named.entry
    examples = load_data(entry.dataset, data_dir=data_dir, n=n or None, preprocessing=entry.preprocessing)
    found = recorded_run(results or out, entry, model, examples, partial(_first, entry, data_dir))
    recorded = found if isinstance(found, RecordedRun) else None
    click.echo(f"{entry.key}: {len(examples)} examples, {chosen}, {examples.source}")
    if not isinstance(found, RecordedRun):
        click.echo(f"nothing to compare with: {found}")
    if not (overwrite or only):
        Validation.check_replaceable(out, entry, model, examples=examples, seed=seed)
    state = None if only else Validation.state_path(out, entry)
    about: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": chosen, "channels_last": channels_last}
    about |= {"norm": entry.threat_model, "eps": parse_eps(entry.eps), "only": only or None}
    with check_bar() as on_progress, told_how_to_go_on() if state else nullcontext():
        findings = validate(
            model, examples.images, examples.labels, **about, recorded=recorded, state=state, on_progress=on_progress
        )
    for result in findings.checks:
        click.echo(f"{result.verdict:15}{result.name:30}{result.found}")
    if state is not None:
        _keep_validation(
            out, entry, make_validation(entry, findings, examples, model, seed=seed, recorded=recorded, commit=commit)
        )
        remove_state(state)
    else:
        click.echo("nothing is written, since not all checks ran")
    if findings.failed:
        click.echo(f"{len(findings.failed)} checks failed: do not trust the robust accuracy", err=True)
        sys.exit(1)


def _first(entry: ModelEntry, data_dir: str | None, n: int) -> Examples | None:
    """The first n examples of the entry's data; None if they are fewer."""
    from adaptive_smoothing_zoo.data import count_data, load_data

    where: dict[str, Any] = {"data_dir": data_dir, "preprocessing": entry.preprocessing}
    return None if n > count_data(entry.dataset, **where) else load_data(entry.dataset, n=n, **where)


def _keep_validation(out: Path, entry: ModelEntry, validation: Validation) -> None:
    """Write a validation, and update the leaderboard entry if there is a run."""
    from adaptive_smoothing_zoo.publishing.kept_entry import keep_entry
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord

    keep_entry(out, entry)
    click.echo(f"wrote {validation.write(out, entry)}")
    if RunRecord.path(out, entry).exists():
        click.echo(f"wrote {_update_entry(out, entry)}")


def _check_files(
    out: Path, entry: ModelEntry, compare_with: Path | None, save_adversarials: Path | None, *, whole: bool
) -> None:
    """Check at the start, not after hours, that output files are writable and existing files readable.

    Args:
        whole: whether the run attacks all examples by itself, and by all attacks.
    """
    from adaptive_smoothing_zoo.publishing.adversarial_file import check_adversarial_path
    from adaptive_smoothing_zoo.publishing.evidence import check_records
    from adaptive_smoothing_zoo.publishing.record import check_writable
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord

    if not whole and (save_adversarials or compare_with):
        raise click.UsageError("--save-adversarials and --compare-with need a whole run; omit --quick and --shard")
    check_writable(out, entry)
    check_records(out, entry)
    if save_adversarials is not None:
        check_adversarial_path(save_adversarials)
    if compare_with is not None:
        RunRecord.read(compare_with, entry)


def _radii(eps: str | None, *, alone: bool) -> list[str]:
    """The radii of ``--eps`` in ascending order; none if it is not given.

    Args:
        alone: whether no option is given that excludes several radii.
    """
    from adaptive_smoothing_zoo.threat import parse_eps

    radii = [] if eps is None else sorted((text.strip() for text in eps.split(",")), key=parse_eps)
    if len(radii) > 1 and not alone:
        raise click.UsageError(
            "several radii need a single process, without --quick, --compare-with and --save-adversarials"
        )
    return radii


def _check_quick(settings: AttackSettings, shard: str | None) -> None:
    if settings.engine != "fast" or not (settings.is_standard or settings.aside) or shard is not None:
        raise click.UsageError("--quick uses its own attack; omit other attacks, numbers and shards")


def _run_radii(
    radii: list[str],
    named: Named,
    entry: ModelEntry,
    examples: Examples,
    settings: AttackSettings,
    *,
    device: torch.device,
    out: Path,
    commit: str | None,
    overwrite: bool,
) -> None:
    """Evaluate at several radii, write a record of each, and their curve."""
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.evaluation import evaluate_radii
    from adaptive_smoothing_zoo.publishing.kept_entry import keep_entry
    from adaptive_smoothing_zoo.publishing.radii_curve import RadiiCurve, at_radius, write_curve
    from adaptive_smoothing_zoo.publishing.run_record import RunRecord, make_record, write_results
    from adaptive_smoothing_zoo.storage.bound_state import remove_state
    from adaptive_smoothing_zoo.threat import ThreatModel, parse_eps

    model, entries = named.net, [at_radius(entry, eps) for eps in radii]
    threats = [ThreatModel(entry.threat_model, parse_eps(eps)) for eps in radii]
    if not overwrite:
        begun_at = [settings.begun_at, *(threat.eps for threat in threats)]
        for at, eps, begun in zip(entries, radii, begun_at, strict=False):
            own = replace(settings, begun_at=begun)
            RunRecord.check_replaceable(out, at, model, examples=examples, eps=eps, settings=own)
        RadiiCurve.check_replaceable(out, entry, model, examples=examples, radii=radii)
    state, runs = RadiiCurve.state_path(out, entry), list[RunRecord]()
    about: dict[str, Any] = {"threats": threats, "settings": settings, "device": device, "state": state}
    with progress_bar() as on_progress, told_how_to_go_on():
        found = evaluate_radii(model, examples.images, examples.labels, **about, on_progress=on_progress)
        keep_entry(out, named.entry)
        for at, eps, evaluation in zip(entries, radii, found, strict=True):
            runs.append(make_record(at, evaluation, examples, model, eps=eps, commit=commit))
            write_results(out, at, evaluation, examples, runs[-1])
    for run in runs:
        low, high = (100 * end for end in run.confidence_interval)
        click.echo(f"eps {run.eps:12}{100 * run.robust_accuracy:6.2f} %  (95 % interval {low:.2f} to {high:.2f})")
    for warning in dict.fromkeys(text for run in runs for text in run.warnings):
        click.echo(f"Warning: {warning}", err=True)
    click.echo(f"wrote {write_curve(out, entry, runs)}, its figure, and a record of each radius")
    remove_state(state)


def _fitted(settings: AttackSettings, model: nn.Module, examples: Examples, device: torch.device) -> AttackSettings:
    """The settings for the model's number of classes; prints a note if that is too small for some attack."""
    from adaptive_smoothing_zoo.attacks.catalogue import fitted
    from adaptive_smoothing_zoo.attacks.verify import count_classes
    from adaptive_smoothing_zoo.machine.ready import ready

    with ready(model, device) as net:
        classes = count_classes(net, examples.images, device)
    found = fitted(settings, classes)
    if found != settings:
        click.echo(f"{classes} classes: {found.protocol}; leaderboards do not accept the result", err=True)
    return found


def _recorded_as(entry: ModelEntry, settings: AttackSettings) -> ModelEntry:
    """The entry; renamed for attacks other than the protocol's, which must not replace its record."""
    return entry if settings.is_standard else _custom(entry)


def _custom(entry: ModelEntry) -> ModelEntry:
    return replace(entry, name=f"{entry.name}.custom")


def _whole(evaluation: Evaluation, state: Path, part: tuple[int, int], examples: Examples) -> Evaluation | None:
    """The evaluation of all examples; None if another process, or asz merge, merges the shards."""
    from adaptive_smoothing_zoo.evaluation import distributed

    if distributed.world_size() > 1:  # the first process writes the results
        return distributed.merge_all(state, examples.images, examples.labels)
    if part[1] > 1:
        click.echo(f"shard {part[0]}/{part[1]} is done: {state}; when all shards are done, run asz merge")
        return None
    return evaluation


def _screen(model: nn.Module, examples: Examples, threat: ThreatModel, settings: AttackSettings, device: str) -> None:
    """Run a screening and print its result; nothing is written."""
    from adaptive_smoothing_zoo.cli.progress import progress_bar
    from adaptive_smoothing_zoo.evaluation.screening import SCREENING, screen

    (plan,), n = SCREENING, len(examples)
    with progress_bar() as on_progress:
        found = screen(
            model,
            examples.images,
            examples.labels,
            threat=threat,
            seed=settings.seed,
            batch_size=settings.batch_size,
            channels_last=settings.channels_last,
            device=device,
            on_progress=on_progress,
        )
    click.echo(
        f"clean            {100 * found.clean_accuracy:6.2f} %\n"
        f"robust, at most  {100 * found.upper_bound:6.2f} % ({n} examples; targeted APGD, {plan.targets} targets of "
        f"{plan.iterations} steps; {found.passes} passes)\n"
        "This is a screening, not the standard protocol: nothing was written."
    )


def _update_entry(out: Path, entry: ModelEntry) -> Path:
    """Update the leaderboard entry from all records; print which records no longer count."""
    from adaptive_smoothing_zoo.publishing.evidence import read_evidence, update_entry

    for why in read_evidence(out, entry).stale:
        click.echo(f"left aside: {why}", err=True)
    return update_entry(out, entry)


def _write_and_tell(
    out: Path,
    entry: ModelEntry,
    evaluation: Evaluation,
    examples: Examples,
    model: nn.Module,
    *,
    eps: str | None,
    commit: str | None,
    remarks: tuple[str, ...] = (),
    save_adversarials: Path | None = None,
) -> None:
    """Write the record and, for a standard run, the leaderboard entry; print the result."""
    from adaptive_smoothing_zoo.publishing.adversarial_file import write_adversarials
    from adaptive_smoothing_zoo.publishing.run_record import make_record, write_results

    record = make_record(entry, evaluation, examples, model, eps=eps, commit=commit, remarks=remarks)
    write_results(out, entry, evaluation, examples, record)
    if save_adversarials is not None:
        write_adversarials(save_adversarials, evaluation, examples, record)
        click.echo(f"wrote {save_adversarials}")
    path = _update_entry(out, entry)
    for attack, accuracy in evaluation.accuracy_after.items():
        label = "clean" if attack == "clean" else f"after {attack}"
        click.echo(f"{label:16}{100 * accuracy:6.2f} %")
    for attack, accuracy in evaluation.accuracy_alone.items():
        click.echo(f"{f'{attack} alone':16}{100 * accuracy:6.2f} %")
    for warning in evaluation.warnings:
        click.echo(f"Warning: {warning}", err=True)
    for remark in record.remarks:
        click.echo(remark, err=True)
    if not evaluation.settings.is_standard:
        click.echo(f"{evaluation.settings.protocol}: this is not a result of the standard protocol", err=True)
    click.echo(f"wrote {path}")
