"""[BAS24], [BAKS24, supp.]: the certified mix next to smoothed nets of smaller sigma with the mix's clean accuracy.

    python eval/certified_baseline.py Demo2026Smoothed --dataset digits --runs runs

Trains h_baseline by the recipe of the triplet's h with smaller noises, certifies it as the triplet was, and draws
``certified_smoothed.png`` with the baseline whose clean accuracy is closest to the mix's. Its log stands beside the
triplet's certificates, as ``baseline-<sigma>.tsv``.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import click
import torch

from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification import Certificates, certify, plot_certified_curves
from adaptive_smoothing_zoo.certification.journal import settings_path
from adaptive_smoothing_zoo.certification.mixes import smoothed_rob_model
from adaptive_smoothing_zoo.cli.certify_commands import baseline_curves, triplet_curves
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.publishing.certification_record import certification_path, read_certification
from adaptive_smoothing_zoo.storage.files import write_with
from adaptive_smoothing_zoo.training import runs
from adaptive_smoothing_zoo.training.recipe import SmoothedNetRecipe, read_recipe
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.registry import find_entry

RECIPE = "smoothed/digits_smoothmix_0.25"
CLEAN_NOISES = 1000  # for the clean accuracy
BOUNDS = ("theorem4", "theorem5", "sharp")


@click.command()
@click.argument("name")
@click.option("--dataset", required=True)
@click.option("--sigma", "sigmas", type=float, multiple=True, default=(0.0625, 0.125, 0.1875), show_default=True)
@click.option("--runs", "folder", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=Path("eval/results"), show_default=True)
def main(name: str, dataset: str, sigmas: tuple[float, ...], folder: Path, results: Path) -> None:
    entry = find_entry(name, dataset, "L2")
    record = read_certification(results, entry)
    if record is None or record.sampling is None or record.clean_accuracy is None:
        raise click.ClickException(f"{entry.key} has no certificates by sampling in {results}")
    h = smoothed_rob_model(load_model(name, dataset=dataset, threat_model="L2"))
    clean = {}
    for sigma in sigmas:
        log = folder / f"baseline-{sigma:g}.tsv"
        clean[sigma], certificates = measure(sigma, h, folder, log, record.sampling.n)
        click.echo(f"sigma {sigma:g}: clean {clean[sigma]:.4f}, ACR {certificates.average_certified_radius():.4f}")
    chosen = min(sigmas, key=lambda sigma: abs(clean[sigma] - record.clean_accuracy))
    click.echo(f"the mix: clean {record.clean_accuracy:.4f}; the baseline: sigma {chosen:g}")
    kept = certification_path(results, entry, "x").with_name(f"baseline-{chosen:g}.tsv")
    for source in (folder / kept.name, settings_path(folder / kept.name)):
        shutil.copyfile(source, kept.with_name(source.name))
    curves = triplet_curves(name, dataset, "L2", results, BOUNDS)
    for curve, bound in zip(baseline_curves(kept, BOUNDS), ("theorem5", "theorem4"), strict=True):
        label = rf"$h_{{baseline}}$ ($\sigma$ = {chosen:g}), {bound}"
        curves.append(replace(curve, label=label))
    axes = plot_certified_curves(curves)
    axes.set_title(
        f"digits; clean accuracy {100 * record.clean_accuracy:.2f} % (mix), {100 * clean[chosen]:.2f} % (baseline)"
    )
    picture = results / dataset / "L2" / "certified_smoothed.png"
    write_with(picture, lambda file: axes.figure.savefig(file, dpi=150, metadata={"Software": None}))
    click.echo(f"wrote {picture}")


def measure(sigma: float, h: GaussianSmoothed, folder: Path, log: Path, n: int) -> tuple[float, Certificates]:
    """Clean accuracy and certificates, on the test split, of a net trained and smoothed with this noise as h was."""
    recipe = read_recipe(RECIPE, [f"training.sigma={sigma}"])
    assert isinstance(recipe, SmoothedNetRecipe)
    net = runs.run_recipe(recipe, folder / f"baseline-{sigma:g}", runs.Machine())
    smoothed = GaussianSmoothed(
        net,
        sigma=sigma,
        image_shape=h.noise.shape[1:],
        num_noises=CLEAN_NOISES,
        votes=h.votes,
        logit_scale=h.logit_scale.scale,
    )
    test = load_data("digits")
    with torch.no_grad():
        right = torch.cat([smoothed(batch).argmax(1) for batch in test.images.split(64)]) == test.labels
    certificates = certify(smoothed.voter, test.images, test.labels, sigma=sigma, n=n, votes=h.votes, log=log)
    return float(right.double().mean()), certificates


if __name__ == "__main__":
    main()
