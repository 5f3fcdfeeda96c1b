"""Choose the numbers of the digits triplet with a smoothed h on the validation split; minutes on one core.

    python eval/recipes/digits_smoothed_alpha.py [--runs DIR]

First the scale of h's logits, then alpha. They then stand in ``digits_smoothed.toml``. Certificates are of 2,000 noises
here. The test split is not read.
"""

from dataclasses import replace
from pathlib import Path

import click
import torch
from certified_alpha import choose_alpha

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.certification import Certificates, certify, mix_certificates
from adaptive_smoothing_zoo.certification.mixes import smoothed_rob_model
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.training import runs
from adaptive_smoothing_zoo.training.recipe import RECIPES, TrainedSmoothedNet, TripletRecipe, read_recipe
from adaptive_smoothing_zoo.zoo.entry import ConstantAlphaConfig

RECIPE = RECIPES / "digits_smoothed.toml"
N = 2000
RADIUS = 0.25
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)
AS_HARD = 0.98  # the share of what hard votes certify that soft votes must


@click.command()
@click.option("--runs", "folder", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
def main(folder: Path) -> None:
    recipe = read_recipe(RECIPE)
    assert isinstance(recipe, TripletRecipe)
    assert isinstance(recipe.rob_model, TrainedSmoothedNet)
    nets = replace(
        recipe, rob_model=replace(recipe.rob_model, logit_scale=1.0), alpha=ConstantAlphaConfig(value=1.0)
    )  # the numbers that are chosen here are left out, so that the folder does not depend on them
    triplet = runs.run_recipe(nets, folder / "digits_smoothed_nets", runs.Machine(), beside=RECIPE.parent)
    assert isinstance(triplet, MixedClassifier)
    held = load_data("digits", "validation")
    h = choose_scale(smoothed_rob_model(triplet), held)
    of_h = certificates_of(h, held)

    @torch.no_grad()
    def measure(alpha: float) -> tuple[float, float]:
        mix = MixedClassifier(triplet.std_model, h, alpha).eval()
        clean = float((mix(held.images).argmax(1) == held.labels).double().mean())
        at = {
            bound: float(mix_certificates(of_h, alpha, h.sigma, bound=bound).certified_accuracy(RADIUS))
            for bound in ("theorem4", "theorem5", "sharp")
        }
        click.echo(f"  alpha {alpha}: clean {clean:.4f}, certified at {RADIUS}: {at}")
        return clean, at["sharp"]

    click.echo(f"chosen: alpha {choose_alpha(measure)}")


def choose_scale(h: GaussianSmoothed, held: Examples) -> GaussianSmoothed:
    """h with the smallest scale by which its soft votes certify nearly as much as hard ones.

    Raises:
        ClickException: none is large enough.
    """
    hard = float(certificates_of(rescaled(h, 1.0, "hard"), held).certified_accuracy(RADIUS))
    click.echo(f"  hard votes: certified at {RADIUS}: {hard:.4f}")
    for scale in SCALES:
        soft = rescaled(h, scale, "soft")
        certified = float(certificates_of(soft, held).certified_accuracy(RADIUS))
        click.echo(f"  logit_scale {scale:g}: certified at {RADIUS}: {certified:.4f}")
        if certified >= AS_HARD * hard:
            click.echo(f"chosen: logit_scale {scale:g}")
            return soft
    raise click.ClickException("no scale makes soft votes as sure as hard ones")


def rescaled(h: GaussianSmoothed, scale: float, votes: str) -> GaussianSmoothed:
    """The same base net and bank with another scale and other votes."""
    other = GaussianSmoothed(
        h.base, sigma=h.sigma, image_shape=h.noise.shape[1:], num_noises=len(h.noise), votes=votes, logit_scale=scale
    )
    other.noise.copy_(h.noise)
    return other.eval()


def certificates_of(h: GaussianSmoothed, held: Examples) -> Certificates:
    return certify(h.voter, held.images, held.labels, sigma=h.sigma, n=N, votes=h.votes)


if __name__ == "__main__":
    main()
