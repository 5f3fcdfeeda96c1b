"""``asz certify`` and ``asz plot certified``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.cli.options import RESULTS

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.certification import CertifiedCurve
    from adaptive_smoothing_zoo.certification.running import OnProgress
    from adaptive_smoothing_zoo.data import Examples
    from adaptive_smoothing_zoo.zoo.entry import Entry

BOUND_CHOICES = click.Choice(["theorem4", "theorem5", "sharp"])


@click.command("certify")
@click.argument("name")
@click.option("--dataset", default="cifar10", show_default=True, help="of the triplet")
@click.option("--threat-model", default=None, help="of the triplet, if there are several of its name")
@click.option(
    "--part",
    type=click.Choice(["whole", "std_model", "rob_model"]),
    default="whole",
    show_default=True,
    help="the mix, or one of its nets alone",
)
@click.option("--sigma", type=float, default=None, help="certify the version smoothed by this noise ([CRK19])")
@click.option("--votes", type=click.Choice(["hard", "soft"]), default=None, help="of the smoothed version; hard")
@click.option("--bound", "bounds", type=BOUND_CHOICES, multiple=True, help="may be repeated; all that apply")
@click.option("--radius", type=float, default=None, help="only whether this radius is certified: far fewer samples")
@click.option(
    *("--n0-samples", "--n0", "n0"),
    type=int,
    default=100,
    show_default=True,
    metavar="N",
    help="number of noise samples for each image that choose its class",
)
@click.option(
    *("--n-samples", "--n", "n"),
    type=int,
    default=100_000,
    show_default=True,
    metavar="N",
    help="number of noise samples for each image that bound its class's probability, at most; of images: --n-examples",
)
@click.option("--failure-probability", type=float, default=0.001, show_default=True, help="of each certificate")
@click.option(
    "--n-examples", type=int, default=None, metavar="N", help="number of test images, the first N; all if not given"
)
@click.option("--skip", type=int, default=1, show_default=True, metavar="K", help="take every K-th test image")
@click.option("--batch-size", type=int, default=None, help="noisy images per pass")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="of the noise")
@click.option("--no-times", is_flag=True, help="leave times out of the logs: the same command writes the same bytes")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--model-dir", default=None, help="a folder that save_pretrained wrote")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def certify_command(
    name: str,
    dataset: str,
    threat_model: str | None,
    part: str,
    sigma: float | None,
    votes: Any,
    bounds: tuple[Any, ...],
    radius: float | None,
    n0: int,
    n: int,
    failure_probability: float,
    n_examples: int | None,
    skip: int,
    batch_size: int | None,
    device: str,
    dtype: str,
    seed: int,
    no_times: bool,
    data_dir: str | None,
    model_dir: str | None,
    out: Path,
) -> None:
    """Certify l_2 radii of a triplet whose h is smoothed or Lipschitz, or of the smoothed version of any net.

    A mix with a smoothed or a Lipschitz h has certificates of its own: theorem4 and theorem5 are those of the papers
    (h Lipschitz; h smoothed by Gaussian noise), sharp is never smaller than either. With --sigma the certificates are
    about another classifier, the smoothed version. Each example's line is on the disk before the next one begins:
    after an interruption of any kind, the same command goes on.
    """
    import torch

    from adaptive_smoothing_zoo.certification.kinds import certify_subject, subject_of
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.model_dir import check_model_dir
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing import certification_record as records
    from adaptive_smoothing_zoo.publishing.record import check_writable
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.units import warn_of_noise
    from adaptive_smoothing_zoo.zoo.loading import load_model

    warn_of_noise(0.0 if sigma is None else sigma)
    chosen = pick_device(device)
    entry = entry_of(name, dataset, threat_model)
    check_writable(out, entry)
    check_model_dir(model_dir, entry)
    commit = source_commit()
    model = load_model(entry.name, model_dir, dataset, entry.threat_model, device=chosen)
    subject = subject_of(model, part, sigma, votes)
    examples, indices = choose_examples(load_data(dataset, data_dir=data_dir), n_examples, skip)
    at = "" if radius is None else f"-at-{radius:g}"
    smoothing = None if subject.sigma is None else f"{subject.sigma:g}-{subject.votes}"
    smoothed = subject.kind == "smoothing"
    stem = records.stem_of(part, smoothing if smoothed else None)
    sampled = records.stem_of("rob_model" if subject.kind == "smoothed_rob_model" else part, smoothing)

    def log(bound: str | None) -> Path:
        named = f"{sampled}{at}" if bound is None else f"{stem}-{bound}{at}"
        return records.certification_path(out, entry, f"{named}.tsv")

    click.echo(f"{entry.key}: {len(examples)} examples, {chosen}, {examples.source}")
    start = time.monotonic()
    sampling = {
        "n0": n0,
        "n": n,
        "failure_probability": failure_probability,
        "seed": seed,
        "batch_size": batch_size,
        "device": chosen,
        "dtype": getattr(torch, dtype),
    }
    with sampling_bar(subject.sigma is not None) as on_progress, told_how_to_go_on():
        found = certify_subject(
            subject,
            examples.images,
            examples.labels,
            bounds=bounds,
            radius=radius,
            log=log,
            indices=indices,
            times=not no_times,
            on_progress=on_progress,
            **sampling,
        )
    clean = None if smoothed else _accuracy(subject.model, examples, chosen)
    record = records.make_certification_record(
        entry,
        model,
        examples,
        found,
        {bound: log(None if smoothed else bound).name for bound in found},
        part=part,
        smoothed=smoothed,
        alpha_min=subject.model.alpha.alpha_min,
        logits_lipschitz=subject.logits_lipschitz,
        sampling=None
        if subject.sigma is None
        else records.SamplingRecord(
            sigma=subject.sigma,
            votes=str(subject.votes),
            n0=n0,
            n=n,
            failure_probability=failure_probability,
            seed=seed,
            dtype=dtype,
            tf32=False,
            mean_samples=float(next(iter(found.values())).samples.mean()),
        ),
        at_radius=radius,
        clean_accuracy=clean,
        skip=skip,
        batch_size=batch_size,
        device=str(chosen),
        commit=commit,
        seconds=time.monotonic() - start,
    )
    path = records.write_certification(records.certification_path(out, entry, f"{stem}{at}.json"), record)
    for line in aligned(records.table_of(record)):
        click.echo(line)
    for bound in found:
        click.echo(f"{bound}: {records.THEOREMS[bound]}")
    if record.sampling is not None:
        click.echo(f"{record.sampling.mean_samples:,.0f} noisy images for each example on average")
    for bound in found:
        click.echo(f"wrote {log(None if smoothed else bound)}")
    click.echo(f"wrote {path}")


def entry_of(name: str, dataset: str, threat_model: str | None) -> Entry:
    """The entry of a triplet whose threat model need not be said where only one is possible."""
    from adaptive_smoothing_zoo.zoo.registry import find_entry, list_models

    if threat_model is None:
        own = {entry.threat_model for entry in list_models(dataset) if name in (entry.name, *entry.aliases)}
        if len(own) > 1:
            raise click.UsageError(f"{name} exists for {' and '.join(sorted(own))}; say --threat-model")
        threat_model = next(iter(own), "Linf")
    return find_entry(name, dataset, threat_model)


def choose_examples(examples: Examples, n: int | None, skip: int) -> tuple[Examples, range]:
    """Every skip-th example, the first n of these, and their places in the data set."""
    from dataclasses import replace

    if skip < 1:
        raise click.BadParameter(f"--skip must be at least 1, got {skip}")
    places = range(0, len(examples), skip)
    every = replace(
        examples,
        images=examples.images[::skip],
        labels=examples.labels[::skip],
        test_set_size=examples.test_set_size if skip == 1 else None,
    )
    return every.first(n), places[:n]


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right, two spaces between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


@contextmanager
def sampling_bar(shown: bool) -> Iterator[OnProgress]:
    """A bar that counts noisy images, of which the number is known, or is estimated where sampling is adaptive."""
    from tqdm import tqdm

    from adaptive_smoothing_zoo.certification import CertifyProgress

    layout = "{l_bar}{bar}| {elapsed} < {remaining}{postfix}"
    with tqdm(total=1, bar_format=layout, disable=not shown) as bar:

        def show(progress: CertifyProgress) -> None:
            bar.total = max(1, progress.samples_total)
            bar.n = progress.samples
            bar.set_description(f"{progress.done}/{progress.total} examples", refresh=False)
            bar.set_postfix_str(f"{progress.samples:,} noisy images", refresh=False)
            bar.update(0)

        yield show
        bar.n = bar.total or 0


def _accuracy(model: Any, examples: Examples, device: Any) -> float:
    import torch

    with torch.no_grad():
        right = [
            (model(images.to(device)).argmax(dim=1).cpu() == labels).double()
            for images, labels in zip(examples.images.split(128), examples.labels.split(128), strict=True)
        ]
    return float(torch.cat(right).mean())


@click.group("plot")
def plot_command() -> None:
    """Draw pictures of what was measured."""


@plot_command.command("certified")
@click.argument("logs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--sigma", "sigmas", type=float, multiple=True, help="of the logs: one for all or one each, in order")
@click.option("--alpha", "alphas", type=float, multiple=True, help="of mixes with the logs' h; 1, h alone")
@click.option("--bound", "bounds", type=BOUND_CHOICES, multiple=True, help="for mixes and triplets, may be repeated")
@click.option("--baseline", "baselines", type=click.Path(path_type=Path), multiple=True, help="a log, drawn broken")
@click.option("--triplet", "triplets", multiple=True, help="name of a triplet that asz certify has certified")
@click.option("--dataset", default="cifar10", show_default=True, help="of the triplets")
@click.option("--threat-model", default=None, help="of the triplets, if there are several of a name")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="of asz certify")
@click.option("--title", default=None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("certified.png"), show_default=True)
def plot_certified_command(
    logs: tuple[Path, ...],
    sigmas: tuple[float, ...],
    alphas: tuple[float, ...],
    bounds: tuple[Any, ...],
    baselines: tuple[Path, ...],
    triplets: tuple[str, ...],
    dataset: str,
    threat_model: str | None,
    results: Path,
    title: str | None,
    out: Path,
) -> None:
    """Draw certified accuracy against l_2 radius, from logs of smoothed classifiers and from certified triplets.

    Each LOG is of a smoothed h alone; every --alpha makes a mix of it. A mix is right where it cannot be certified, so
    its curve jumps at radius 0: an open circle marks the limit, a dot the clean accuracy, where that is known. A
    --baseline is drawn as it is; where theorem4 is among the bounds, by that theorem too if its noise is known. The
    format is that of the name of OUT (.png, .pdf, .svg).
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
    logs: tuple[Path, ...], sigmas: tuple[float, ...], alphas: tuple[float, ...], bounds: tuple[Any, ...]
) -> list[CertifiedCurve]:
    """Curves of the mixes with the smoothed nets that logs are about."""
    from adaptive_smoothing_zoo.certification import mix_curves, read_log

    if len(sigmas) not in (0, 1, len(logs)):
        raise click.UsageError(f"give one --sigma for all logs or one for each of {len(logs)}, not {len(sigmas)}")
    curves = []
    for i, path in enumerate(logs):
        certificates = read_log(path)
        sigma = sigmas[i if len(sigmas) > 1 else 0] if sigmas else _sigma_of(path)
        curves += mix_curves(certificates, alphas, sigma, bounds=bounds, name=path.stem)
    return curves


def triplet_curves(
    name: str, dataset: str, threat_model: str | None, results: Path, bounds: tuple[Any, ...]
) -> list[CertifiedCurve]:
    """Curves of a triplet's own certificates, with its clean accuracy."""
    from adaptive_smoothing_zoo.certification import CertifiedCurve, read_log
    from adaptive_smoothing_zoo.errors import ResultsError
    from adaptive_smoothing_zoo.publishing.certification_record import certification_path, read_certification

    entry = entry_of(name, dataset, threat_model)
    record = read_certification(results, entry)
    if record is None:
        raise ResultsError(f"there are no certificates of {entry.key} in {results}; run asz certify")
    for bound in bounds:
        if bound not in record.bounds:
            raise ResultsError(f"{entry.key} was certified by {', '.join(record.bounds)}, not by {bound}")
    return [
        CertifiedCurve(
            label=rf"{entry.name} ($\alpha$ = {record.alpha_min:g}), {bound}",
            certificates=read_log(certification_path(results, entry, "x").with_name(record.bounds[bound].log)),
            jumps=record.alpha_min < 1.0,
            clean_accuracy=record.clean_accuracy,
        )
        for bound in bounds or record.bounds
    ]


def baseline_curves(path: Path, bounds: tuple[Any, ...]) -> list[CertifiedCurve]:
    """A log as it is and, if theorem4 is wanted and the log is of a smoothed net, by that theorem with alpha = 1."""
    from adaptive_smoothing_zoo.certification import CertifiedCurve, mix_certificates, read_log
    from adaptive_smoothing_zoo.certification.journal import settings_path

    certificates = read_log(path)
    curves = [CertifiedCurve(label=path.stem, certificates=certificates, baseline=True)]
    if "theorem4" in bounds and settings_path(path).exists():
        by_theorem = mix_certificates(certificates, 1.0, _sigma_of(path), bound="theorem4")
        curves.append(CertifiedCurve(label=f"{path.stem}, theorem4", certificates=by_theorem, baseline=True))
    return curves


def _sigma_of(log: Path) -> float:
    """The sigma in the settings beside a log of ours."""
    from adaptive_smoothing_zoo.certification.journal import read_settings, settings_path
    from adaptive_smoothing_zoo.errors import ResultsError

    if not settings_path(log).exists():
        raise click.UsageError(f"{log} has no settings beside it that tell its sigma; say --sigma")
    sigma = read_settings(log).get("sigma")
    if not isinstance(sigma, float):
        raise ResultsError(f"the settings of {log} do not tell its sigma; say --sigma")
    return sigma
