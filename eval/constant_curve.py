"""Measure what constant alphas reach with the base nets of a triplet, by the standard protocol, and draw it.

    python eval/constant_curve.py Demo2026Adaptive --dataset digits --batch-size 360 --out eval/results
    python eval/constant_curve.py Demo2026Adaptive --dataset cifar10 --n 200 --data-dir DATA --alphas 0,0.9,1 \
        --engine fast --channels-last --out eval/results

Writes ``constant_alpha.curve.json`` and ``constant_alpha.png`` next to the triplet's results. Points that the file
already holds for the same settings are not measured again, nor is one that is the recorded run of a triplet with that
constant alpha; progress on an unfinished point is kept next to the file, and the same command resumes it.
"""

from dataclasses import replace
from pathlib import Path

import click

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.cli.progress import progress_bar
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.evaluation import evaluate, pick_device
from adaptive_smoothing_zoo.evaluation.attack_run import ENGINES
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve, CurvePoint
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.bound_state import remove_state
from adaptive_smoothing_zoo.storage.files import write_with
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, tensors_sha256
from adaptive_smoothing_zoo.zoo.entry import Entry
from adaptive_smoothing_zoo.zoo.registry import list_models


@click.command()
@click.argument("name")
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--threat-model", default="Linf", show_default=True)
@click.option("--alphas", default="0,0.5,0.6,0.7,0.75,0.8,0.85,0.9,0.95,0.99,1", show_default=True)
@click.option("--n", type=int, default=None)
@click.option("--engine", type=click.Choice(sorted(ENGINES)), default="reference", show_default=True)
@click.option("--batch-size", type=int, default=100, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--channels-last", is_flag=True)
@click.option("--data-dir", default=None)
@click.option("--out", type=click.Path(path_type=Path), default=Path("eval/results"), show_default=True)
def main(
    name, dataset, threat_model, alphas, n, engine, batch_size, seed, device, channels_last, data_dir, out
) -> None:
    chosen = pick_device(device)
    model = load_model(name, dataset=dataset, threat_model=threat_model, device=chosen)
    entry = model.entry
    examples = load_data(dataset, data_dir=data_dir).first(n)
    curve = ConstantCurve(
        model=name,
        dataset=dataset,
        threat_model=threat_model,
        eps=entry.eps,
        engine=ENGINES[engine].full_name(),
        n=len(examples),
        seed=seed,
        batch_size=min(batch_size, len(examples)),
        device=device_name(str(chosen)),
        data=examples.source,
        data_sha256=tensors_sha256({"images": examples.images, "labels": examples.labels}),
        std_sha256=tensors_sha256(model.std_model.state_dict()),
        rob_sha256=tensors_sha256(model.rob_model.state_dict()),
        versions=installed_versions(),
        points=(),
    )
    known = ConstantCurve.find(out, entry)
    if known is not None:
        if replace(known, points=(), model=name) != curve:
            path = ConstantCurve.path(out, entry)
            raise click.ClickException(f"{path} was measured with other settings; move it away")
        curve = known
    for alpha in sorted(float(text) for text in alphas.split(",")):
        if any(point.alpha == alpha for point in curve.points):
            continue
        recorded = recorded_point(curve, out, entry, alpha)
        if recorded is not None:
            click.echo(f"alpha {alpha:g}: recorded")
            curve = write(curve, recorded, out, entry)
            continue
        click.echo(f"alpha {alpha:g}")
        mixed = MixedClassifier(model.std_model, model.rob_model, alpha, std_map=model.std_map, rob_map=model.rob_map)
        state = ConstantCurve.path(out, entry).with_suffix(f".{alpha:g}.state")
        with progress_bar() as on_progress:
            evaluation = evaluate(
                mixed,
                examples.images,
                examples.labels,
                norm=threat_model,
                eps=entry.eps_value,
                seed=seed,
                batch_size=batch_size,
                device=chosen,
                engine=engine,
                channels_last=channels_last,
                state=state,
                on_progress=on_progress,
            )
        point = CurvePoint(alpha=alpha, clean=evaluation.clean_accuracy, robust=evaluation.robust_accuracy)
        curve = write(curve, point, out, entry)
        remove_state(state)
    draw(curve, out, entry)


def recorded_point(curve: ConstantCurve, out: Path, entry: Entry, alpha: float) -> CurvePoint | None:
    """What a recorded run says: of a triplet with the same g, h and settings, and this alpha; None if there is none."""
    for other in list_models(dataset=entry.dataset, threat_model=entry.threat_model):
        constant = other.alpha.kind == "constant" and other.alpha.value == alpha
        if not (constant and other.comes_along and RunRecord.path(out, other).exists()):
            continue
        record = RunRecord.read(out, other)
        model = load_model(other.name, dataset=other.dataset, threat_model=other.threat_model)
        same = (
            identity_of(model) == record.identity
            and curve.is_with(model.std_model, model.rob_model)
            and (other.std_map, other.rob_map) == (entry.std_map, entry.rob_map)
        )
        if same and curve.matches(record):
            return CurvePoint(alpha=alpha, clean=record.clean_accuracy, robust=record.robust_accuracy)
    return None


def write(curve: ConstantCurve, point: CurvePoint, out: Path, entry: Entry) -> ConstantCurve:
    curve = replace(curve, points=tuple(sorted((*curve.points, point), key=lambda p: p.alpha)))
    curve.write(out, entry)
    return curve


def draw(curve: ConstantCurve, out: Path, entry: Entry) -> None:
    """Clean against AutoAttack accuracy: the curve, and the triplet itself if its results are recorded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4.2))
    axes.plot(
        [100 * p.robust for p in curve.points], [100 * p.clean for p in curve.points], "o-", label="constant alpha"
    )
    for point in curve.points:
        axes.annotate(f"{point.alpha:g}", (100 * point.robust, 100 * point.clean), (4, 4), textcoords="offset points")
    if RunRecord.path(out, entry).exists():
        record = RunRecord.read(out, entry)
        axes.plot(100 * record.robust_accuracy, 100 * record.clean_accuracy, "r*", markersize=14, label=entry.name)
    axes.set_xlabel(f"AutoAttack accuracy, % ({entry.threat_model}, eps {entry.eps})")
    axes.set_ylabel("clean accuracy, %")
    axes.set_title(f"{entry.dataset}, n = {curve.n}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    path = ConstantCurve.path(out, entry).with_name("constant_alpha.png")
    write_with(
        path, lambda temporary: figure.savefig(temporary, dpi=120, bbox_inches="tight", metadata={"Software": None})
    )
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
