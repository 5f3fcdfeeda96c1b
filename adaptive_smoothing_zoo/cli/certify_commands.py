"""``asz certify`` and ``asz plot certified``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.cli.options import (
    DATA_DIR,
    DEVICE,
    OUT,
    RESULTS,
    ModelChoice,
    example,
    examples_option,
    known_threat_model,
    model_options,
)

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.certification import CertifiedCurve
    from adaptive_smoothing_zoo.certification.kinds import Subject
    from adaptive_smoothing_zoo.certification.running import OnProgress
    from adaptive_smoothing_zoo.data import Examples
    from adaptive_smoothing_zoo.publishing.certification_record import CertificationRecord
    from adaptive_smoothing_zoo.zoo.entry import Entry


class BoundName(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """The name of one of ``BOUNDS``, which are imported on demand."""

    name = "bound"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(click.Choice(self._known()).convert(value, param, ctx))

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return f"[{'|'.join(self._known())}]"

    @staticmethod
    def _known() -> list[str]:
        from adaptive_smoothing_zoo.certification import BOUNDS

        return list(BOUNDS)


PART = click.option(
    "--part",
    type=click.Choice(["whole", "std_model", "rob_model"]),
    default="whole",
    show_default=True,
    help="for triplets: the mix, or one of its nets alone",
)
SKIP = click.option("--skip", type=int, default=1, show_default=True, metavar="K", help="use every K-th test image")
NO_TIMES = click.option(
    "--no-times", is_flag=True, help="omit times from the logs, so that repeated runs write identical files"
)
NOISE_SEED = click.option("--seed", type=int, default=0, show_default=True, help="seed of the noise")
BATCH_SIZE = click.option("--batch-size", type=int, default=None, help="noisy images per pass")
N0 = "noise samples per image to choose its class; not needed with --top-k"
N = "maximal noise samples per image to bound its class's probability (number of images: --n-examples)"


@click.command(
    "certify",
    epilog=example(
        "asz certify Demo2026Smoothed --dataset digits --n-examples 100",
        "asz certify Demo2026Lipschitz --dataset digits --top-k 2",
        "asz certify robustbench:Standard --sigma 0.25 --n-samples 10000 --skip 20",
    ),
)
@model_options(threat_model=None)
@PART
@click.option("--sigma", type=float, default=None, help="certify the version smoothed by this noise [CRK19]")
@click.option(
    "--votes", type=click.Choice(["hard", "soft"]), default=None, help="votes of the smoothed version; default hard"
)
@click.option("--bound", "bounds", type=BoundName(), multiple=True, help="repeatable; default: all that apply")
@click.option(
    "--radius", type=float, default=None, help="only decide whether this radius is certified, with far fewer samples"
)
@click.option(
    "--top-k",
    type=int,
    default=None,
    metavar="K",
    help="certify that the label stays among the K likeliest classes, instead of the first",
)
@click.option("--n0-samples", "--n0", "n0", type=int, default=100, show_default=True, metavar="N", help=N0)
@click.option("--n-samples", "--n", "n", type=int, default=100_000, show_default=True, metavar="N", help=N)
@click.option(
    "--failure-probability",
    type=float,
    default=0.001,
    show_default=True,
    help="probability that a certificate is wrong",
)
@click.option("--runner-up", is_flag=True, help="also bound the other classes' probabilities, instead of using 1 - p")
@BATCH_SIZE
@click.option(
    "--dtype",
    type=click.Choice(["float32", "tf32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="precision of the certified net",
)
@NOISE_SEED
@examples_option(None, names=("--n-examples",))
@SKIP
@DEVICE
@NO_TIMES
@DATA_DIR
@OUT
def certify_command(
    choice: ModelChoice,
    part: str,
    sigma: float | None,
    votes: Any,
    bounds: tuple[str, ...],
    radius: float | None,
    top_k: int | None,
    n_examples: int | None,
    skip: int,
    device: str,
    no_times: bool,
    data_dir: str | None,
    out: Path,
    **sampling: Any,
) -> None:
    """Certify l_2 radii of a triplet whose h is smoothed or Lipschitz, or of the smoothed version of any MODEL.

    A mix with a Lipschitz or smoothed h is certified itself: by the papers' theorem4 (h Lipschitz) or theorem5 (h
    smoothed by Gaussian noise), or by sharp, which is never smaller. With --sigma the certificates are for another
    classifier, the smoothed version of MODEL. Runs resume: repeat the command after any interruption.
    """
    import torch

    from adaptive_smoothing_zoo.certification.kinds import subject_of
    from adaptive_smoothing_zoo.certification.running import Run
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing import certification_record as records
    from adaptive_smoothing_zoo.publishing.kept_entry import keep_entry
    from adaptive_smoothing_zoo.publishing.record import check_writable
    from adaptive_smoothing_zoo.storage.provenance import source_commit

    chosen = pick_device(device)
    entry = choice.entry(out, data_dir=data_dir)
    check_writable(out, entry)
    around: dict[str, Any] = {"device": str(chosen), "skip": skip, "commit": source_commit()}
    named = choice.load(entry, chosen)
    model, entry = named.net, named.entry
    precision = sampling["dtype"]  # torch has no dtype of the name tf32
    sampling |= {"device": chosen, "dtype": precision if precision == "tf32" else getattr(torch, precision)}
    subject = subject_of(model, part, sigma, votes, radius, top_k, **sampling)
    examples = load_data(entry.dataset, data_dir=data_dir, n=n_examples, skip=skip, preprocessing=entry.preprocessing)

    def log(name: str) -> Path:
        return records.certification_path(out, entry, f"{name}.tsv")

    click.echo(f"{entry.key}: {len(examples)} examples, {chosen}, {examples.source}")
    start = time.monotonic()
    with sampling_bar(subject.sampling is not None) as on_progress, told_how_to_go_on():
        run = Run(indices=indices_of(examples, skip), times=not no_times, on_progress=on_progress)
        found = subject.certify(examples.images, examples.labels, bounds, log, run)
    around["clean_accuracy"] = None if subject.is_smoothed_version else accuracy(subject, examples, chosen)
    around["seconds"] = round(time.monotonic() - start, 2)
    record = records.make_certification_record(entry, model, examples, subject, found, **around)
    path = records.certification_path(out, entry, f"{subject.file_name()}.json")
    keep_entry(out, entry)
    records.write_certification(path, record)
    _tell(record, [*(log(subject.file_name(bound)) for bound in found), path])


@click.command("predict", epilog=example("asz predict Demo2026Constant --dataset digits --part rob_model --sigma 0.25"))
@model_options(threat_model=None)
@PART
@click.option("--sigma", type=float, default=None, help="standard deviation of the noise; default that of a smoothed h")
@click.option("--n-samples", "votes", type=int, default=1000, show_default=True, metavar="N", help="votes per image")
@click.option(
    "--failure-probability", type=float, default=0.001, show_default=True, help="probability that a prediction is wrong"
)
@BATCH_SIZE
@NOISE_SEED
@examples_option(None)
@SKIP
@DEVICE
@NO_TIMES
@DATA_DIR
@OUT
def predict_command(
    choice: ModelChoice,
    part: str,
    sigma: float | None,
    votes: int,
    n: int | None,
    skip: int,
    device: str,
    no_times: bool,
    data_dir: str | None,
    out: Path,
    **sampling: Any,
) -> None:
    """Predict with the smoothed version of any MODEL, or abstain ([CRK19], PREDICT).

    Each noisy copy of an image votes for a class. The command abstains where a binomial test cannot separate the first
    class from the second. It writes a log in the format of asz certify, with radius 0. Runs resume: repeat the command
    after any interruption.
    """
    from adaptive_smoothing_zoo.certification.kinds import subject_of
    from adaptive_smoothing_zoo.certification.predicting import predict_examples
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing.certification_record import certification_path
    from adaptive_smoothing_zoo.publishing.kept_entry import keep_entry
    from adaptive_smoothing_zoo.publishing.record import check_writable

    chosen = pick_device(device)
    entry = choice.entry(out, data_dir=data_dir)
    check_writable(out, entry)
    named = choice.load(entry, chosen)
    entry = named.entry
    subject = subject_of(named.net, part, sigma, n=votes, device=chosen, **sampling)
    examples = load_data(entry.dataset, data_dir=data_dir, n=n, skip=skip, preprocessing=entry.preprocessing)
    log = certification_path(out, entry, f"{subject.file_name()}-predicted.tsv")
    with sampling_bar(True) as on_progress, told_how_to_go_on():
        run = {"indices": indices_of(examples, skip), "log": log, "times": not no_times, "on_progress": on_progress}
        found = predict_examples(subject.voter, examples.images, examples.labels, **vars(subject.votes()), **run)
    keep_entry(out, entry)
    abstained = found.prediction < 0
    wrong = ~found.correct & ~abstained
    shares = {"correct": found.correct, "wrong": wrong, "abstained": abstained}
    counted = ", ".join(f"{name} {100 * share.mean():.2f} %" for name, share in shares.items())
    click.echo(f"{entry.key}: {len(examples)} examples, {chosen}, {examples.source}")
    click.echo(f"{counted}; {votes:,} votes per image")
    click.echo(f"wrote {log}")


def _tell(record: CertificationRecord, written: list[Path]) -> None:
    from adaptive_smoothing_zoo.publishing.certification_record import sentences_of, table_of

    for line in (*aligned(table_of(record)), *sentences_of(record)):
        click.echo(line)
    if record.sampling is not None:
        click.echo(f"{record.sampling.mean_samples:,.0f} noisy images per example on average")
    for path in written:
        click.echo(f"wrote {path}")


def entry_of(name: str, dataset: str, threat_model: str | None) -> Entry:
    """The entry of a triplet; the threat model may be omitted if only one exists."""
    from adaptive_smoothing_zoo.zoo.registry import find_entry

    return find_entry(name, dataset, threat_model or known_threat_model(name, dataset))


def indices_of(examples: Examples, skip: int) -> range:
    """The indices in the data set of every skip-th example."""
    return range(0, skip * len(examples), skip)


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


@contextmanager
def sampling_bar(shown: bool) -> Iterator[OnProgress]:
    """A bar that counts noisy images; their total is estimated if sampling is adaptive."""
    from adaptive_smoothing_zoo.certification import CertifyProgress
    from adaptive_smoothing_zoo.cli.progress import open_bar

    layout = "{l_bar}{bar}| {elapsed} < {remaining}{postfix}"
    with open_bar(total=1, bar_format=layout, disable=not shown) as bar:

        def show(progress: CertifyProgress) -> None:
            bar.total = max(1, progress.samples_total)
            bar.n = progress.samples
            bar.set_description(f"{progress.done}/{progress.total} examples", refresh=False)
            bar.set_postfix_str(f"{progress.samples:,} noisy images", refresh=False)
            bar.update(0)

        yield show
        bar.n = bar.total or 0


def accuracy(subject: Subject, examples: Examples, device: Any) -> float:
    """The share of examples that the subject classifies correctly, or that have their label in its top k."""
    from adaptive_smoothing_zoo.attacks.verify import among_likeliest, predict

    if subject.top_k is None:
        right = predict(subject.model, examples.images, 128, device) == examples.labels
    else:
        right = among_likeliest(subject.model, examples.images, examples.labels, subject.top_k, 128, device)
    return float(right.double().mean())


@click.group("plot", epilog=example("asz plot trade-off results", "asz plot certified log.tsv --sigma 0.25"))
def plot_command() -> None:
    """Plot recorded results."""


@plot_command.command(
    "certified",
    epilog=example(
        "asz plot certified --triplet Demo2026Smoothed --dataset digits",
        "asz plot certified log.tsv --sigma 0.25 --alpha 0.76 --alpha 1",
    ),
)
@click.argument("logs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--sigma", "sigmas", type=float, multiple=True, help="noise of the logs: one for all or one per log, in order"
)
@click.option(
    "--alpha", "alphas", type=float, multiple=True, help="alpha of mixes with the logs' h; default 1, h alone"
)
@click.option("--bound", "bounds", type=BoundName(), multiple=True, help="for mixes and triplets; repeatable")
@click.option("--baseline", "baselines", type=click.Path(path_type=Path), multiple=True, help="a log, drawn dashed")
@click.option("--triplet", "triplets", multiple=True, help="name of a triplet that asz certify has certified")
@click.option("--dataset", default="cifar10", show_default=True, help="of the triplets")
@click.option("--threat-model", default=None, help="of the triplets, if a name has several")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="of asz certify")
@click.option("--title", default=None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("certified.png"), show_default=True)
def plot_certified_command(
    logs: tuple[Path, ...],
    sigmas: tuple[float, ...],
    alphas: tuple[float, ...],
    bounds: tuple[str, ...],
    baselines: tuple[Path, ...],
    triplets: tuple[str, ...],
    dataset: str,
    threat_model: str | None,
    results: Path,
    title: str | None,
    out: Path,
) -> None:
    """Draw certified accuracy against l_2 radius, from logs of smoothed classifiers and from certified triplets.

    Each LOG is of a smoothed h alone; every --alpha adds a mix with it. A mix is correct at some images where it cannot
    be certified, so its curve jumps at radius 0: an open circle marks the limit, a dot the clean accuracy, if known. A
    --baseline is drawn unchanged, and also by theorem4 if that is among the bounds and its noise is known. The
    extension of OUT chooses the format (.png, .pdf, .svg).
    """
    from adaptive_smoothing_zoo.certification import plot_certified_curves
    from adaptive_smoothing_zoo.storage.files import write_with

    curves = [curve for name in triplets for curve in triplet_curves(name, dataset, threat_model, results, bounds)]
    curves += log_curves(logs, sigmas, alphas or (1.0,), bounds or ("theorem5",))
    curves += [curve for path in baselines for curve in baseline_curves(path, bounds)]
    axes = plot_certified_curves(curves)
    if title:
        axes.set_title(title)
    write_with(out, lambda temporary: axes.figure.savefig(temporary, dpi=150))
    click.echo(f"wrote {out}")


def log_curves(
    logs: tuple[Path, ...], sigmas: tuple[float, ...], alphas: tuple[float, ...], bounds: tuple[str, ...]
) -> list[CertifiedCurve]:
    """Curves of mixes with the smoothed nets of the logs."""
    from adaptive_smoothing_zoo.certification import CertifiedCurve, mix_certificates, read_log

    if len(sigmas) not in (0, 1, len(logs)):
        raise click.UsageError(f"give one --sigma for all logs or one for each of {len(logs)}, not {len(sigmas)}")
    curves = []
    for i, path in enumerate(logs):
        certificates = read_log(path)
        sigma = sigmas[i if len(sigmas) > 1 else 0] if sigmas else _sigma_of(path)
        curves += [
            CertifiedCurve(
                label=rf"{path.stem}, $\alpha$ = {alpha:g}, {bound}",
                certificates=mix_certificates(certificates, alpha, sigma, bound=bound),
                jumps=alpha < 1.0,
            )
            for alpha in alphas
            for bound in bounds
        ]
    return curves


def triplet_curves(
    name: str, dataset: str, threat_model: str | None, results: Path, bounds: tuple[str, ...]
) -> list[CertifiedCurve]:
    """Curves of a triplet's own certificates, with its clean accuracy."""
    from adaptive_smoothing_zoo.certification import CertifiedCurve, read_log
    from adaptive_smoothing_zoo.errors import ResultsError
    from adaptive_smoothing_zoo.publishing.certification_record import certification_path, read_certification

    entry = entry_of(name, dataset, threat_model)
    record = read_certification(results, entry)
    if record is None:
        raise ResultsError(f"no certificates of {entry.key} in {results}; run asz certify")
    for bound in bounds:
        if bound not in record.bounds:
            raise ResultsError(f"{entry.key} was certified by {', '.join(record.bounds)}, not by {bound}")
    alpha_min = 1.0 if record.alpha_min is None else record.alpha_min
    return [
        CertifiedCurve(
            label=rf"{entry.name} ($\alpha$ = {alpha_min:g}), {bound}",
            certificates=read_log(certification_path(results, entry, "x").with_name(record.bounds[bound].log)),
            jumps=alpha_min < 1.0,
            clean_accuracy=record.clean_accuracy,
        )
        for bound in bounds or record.bounds
    ]


def baseline_curves(path: Path, bounds: tuple[str, ...]) -> list[CertifiedCurve]:
    """A log unchanged and, for a smoothed net, by the bounds that give a single net another radius."""
    from adaptive_smoothing_zoo.certification import CertifiedCurve, mix_certificates, read_log
    from adaptive_smoothing_zoo.certification.bounds import of_smoothed
    from adaptive_smoothing_zoo.certification.journal import settings_path

    certificates = read_log(path)
    curves = [CertifiedCurve(label=path.stem, certificates=certificates, baseline=True)]
    for bound in bounds:
        if not of_smoothed(bound).keeps_h and settings_path(path).exists():
            mixed = mix_certificates(certificates, 1.0, _sigma_of(path), bound=bound)
            curves.append(CertifiedCurve(label=f"{path.stem}, {bound}", certificates=mixed, baseline=True))
    return curves


def _sigma_of(log: Path) -> float:
    """The sigma in the settings next to a log of ours."""
    from adaptive_smoothing_zoo.certification.journal import read_settings, settings_path
    from adaptive_smoothing_zoo.errors import ResultsError

    if not settings_path(log).exists():
        raise click.UsageError(f"no settings file next to {log} gives its sigma; pass --sigma")
    sigma = read_settings(log).get("sigma")
    if not isinstance(sigma, float):
        raise ResultsError(f"the settings of {log} do not contain its sigma; pass --sigma")
    return sigma
