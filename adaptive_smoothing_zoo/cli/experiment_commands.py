"""``asz experiment``: the papers' figures and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptive_smoothing_zoo.cli.options import examples_option

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from adaptive_smoothing_zoo.experiments import Bench, TrainingBench
    from adaptive_smoothing_zoo.experiments.papers_pgd import PgdName
    from adaptive_smoothing_zoo.zoo.triplet import Triplet

TRAINED = ("settings", "loss-ablation", "sigmoid-scale")
NAMES = ("trust-options", "alpha-sweep", "attack-target", "margins", *TRAINED)
SMOOTHED_METHODS = "smoothed-methods"
PGD_NAMES = ("papers", "random-start")


@click.command("experiment")
@click.argument("names", nargs=-1, required=True, type=click.Choice([*NAMES, SMOOTHED_METHODS, "all"]))
@click.option("--model", default="Demo2026Adaptive", show_default=True, help="the triplet whose g and h are taken")
@click.option("--dataset", default="digits", show_default=True, help="of the triplet")
@click.option("--threat-model", default="Linf", show_default=True, help="Linf or L2")
@examples_option(100)
@click.option("--steps", type=click.IntRange(min=1), default=None, help="of PGD; the paper's if not given")
@click.option(
    "--pgd",
    type=click.Choice(PGD_NAMES),
    default="papers",
    show_default=True,
    help="papers: from the image, in steps of 0.0027 for eps 8/255 (in l_2 of 0.15 eps); random-start, which is "
    "stronger: from a random point, in steps of 2.5 eps / STEPS",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option(
    "--train-data-dir",
    default=None,
    help="of settings, loss-ablation and sigmoid-scale: the training examples; those of --data-dir if not given",
)
@click.option("--model-dir", default=None, help="a folder that save_pretrained wrote")
@click.option(
    "--recipe",
    default="digits_adaptive_short",
    show_default=True,
    help="of settings, loss-ablation and sigmoid-scale: a triplet's, whose mixing network and training are taken",
)
@click.option(
    "--set", "changes", multiple=True, help="key=value in that recipe's place, as training.epochs=3; repeatable"
)
@click.option(
    "--apgd-steps",
    type=int,
    default=20,
    show_default=True,
    help="of the same three: length of what stands for AutoAttack and setting D; 0 for AutoAttack itself",
)
@click.option(
    "--recipes",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="of smoothed-methods: a folder of digits_<method>_<sigma>.toml; the package's if not given",
)
@click.option("--samples", type=int, default=1000, show_default=True, help="of smoothed-methods, for a certificate")
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiments"), show_default=True)
def experiment_command(
    names: tuple[str, ...],
    model: str,
    dataset: str,
    threat_model: str,
    n: int,
    steps: int | None,
    pgd: PgdName,
    seed: int,
    batch_size: int,
    device: str,
    data_dir: str | None,
    train_data_dir: str | None,
    model_dir: str | None,
    recipe: str,
    changes: tuple[str, ...],
    apgd_steps: int,
    recipes: Path | None,
    samples: int,
    out: Path,
) -> None:
    """Run experiments of the papers on a triplet's g and h; write data, a picture and a page for each.

    settings, loss-ablation and sigmoid-scale train mixing networks for that g and h by a recipe, in
    runs/experiments. By default all is short: a recipe of few epochs, short attacks.

    smoothed-methods takes no triplet: it trains nets by recipes for digits, in runs/smoothed-methods, and certifies
    them (about an hour on one core; "all" leaves it out).

    An interrupted experiment goes on after the last row that was measured, or where its training stood.
    """
    from tqdm import tqdm

    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.experiments import EXPERIMENTS, Bench
    from adaptive_smoothing_zoo.experiments.run_experiment import files_of, run
    from adaptive_smoothing_zoo.storage.provenance import source_commit
    from adaptive_smoothing_zoo.zoo.loading import load_model

    sizes = {"n": n, "steps": steps or 0, "batch-size": batch_size - 1, "apgd-steps": apgd_steps}
    for name, value in sizes.items():
        if value < 0:
            raise click.BadParameter(f"--{name} is too small")
    commit, chosen = source_commit(), pick_device(device)
    if SMOOTHED_METHODS in names:
        _smoothed_methods(recipes, n, samples, chosen, out, commit)
        names = tuple(name for name in names if name != SMOOTHED_METHODS)
    if not names:
        return
    triplet = load_model(model, model_dir, dataset, threat_model, device=chosen)
    examples = load_data(dataset, data_dir=data_dir).first(n or None)
    for name in NAMES if "all" in names else dict.fromkeys(names):
        experiment = EXPERIMENTS[name]
        with tqdm(total=len(experiment.cases()), desc=name, unit="row") as bar:
            bench = Bench(
                model=triplet,
                images=examples.images,
                labels=examples.labels,
                norm=threat_model,
                eps=triplet.entry.eps_value,
                steps=steps or experiment.steps,
                pgd=pgd,
                seed=seed,
                batch_size=batch_size,
                device=chosen,
            )
            if name in TRAINED:
                bench = _training_bench(
                    bench,
                    triplet,
                    recipe,
                    changes,
                    train_data_dir or data_dir,
                    apgd_steps or None,
                    bar.set_postfix_str,
                )
            for _, table in run(experiment, triplet.entry, bench, examples, out, commit=commit):
                bar.n = len(table.rows)
                bar.refresh()
        files = files_of(experiment, triplet.entry, out)
        click.echo(f"wrote {files.page}")


def _training_bench(
    bench: Bench,
    triplet: Triplet,
    recipe: str,
    changes: tuple[str, ...],
    data_dir: str | None,
    apgd_steps: int | None,
    on_stage: Callable[[str], None],
) -> TrainingBench:
    """The same bench with what the recipe says of data, mixing network and training."""
    from dataclasses import fields

    from adaptive_smoothing_zoo.experiments import TrainingBench
    from adaptive_smoothing_zoo.training.recipe import TripletRecipe, read_recipe
    from adaptive_smoothing_zoo.training.runs import training_examples
    from adaptive_smoothing_zoo.zoo.entry import AdaptiveAlphaConfig

    read = read_recipe(recipe, changes)
    if not isinstance(read, TripletRecipe) or read.training is None or not isinstance(read.alpha, AdaptiveAlphaConfig):
        raise click.UsageError(f"{recipe} is not the recipe of a triplet with a mixing network; name one with --recipe")
    if read.data.dataset != triplet.entry.dataset:
        raise click.UsageError(
            f"{recipe} is about {read.data.dataset}, the triplet about {triplet.entry.dataset}; name another --recipe"
        )
    train, held_out = training_examples(read.data, data_dir)
    if held_out is None:
        raise click.UsageError(f"{recipe} holds no examples out; add --set data.hold_out_every=50")
    return TrainingBench(
        **{field.name: getattr(bench, field.name) for field in fields(bench)},
        entry=triplet.entry,
        training=read.training,
        alpha=read.alpha,
        train=train,
        held_out=held_out,
        trained=Path("runs") / "experiments" / triplet.entry.key,
        apgd_steps=apgd_steps,
        on_stage=on_stage,
    )


def _smoothed_methods(
    recipes: Path | None, n: int, samples: int, device: torch.device, out: Path, commit: str | None
) -> None:
    from tqdm import tqdm

    from adaptive_smoothing_zoo.experiments import smoothed_methods
    from adaptive_smoothing_zoo.training.recipe import RECIPES

    recipes = recipes or RECIPES / "smoothed"
    trained = Path("runs") / SMOOTHED_METHODS
    bench = smoothed_methods.MethodsBench(recipes=recipes, trained=trained, n=n or None, samples=samples, device=device)
    with tqdm(total=len(smoothed_methods.cases()), desc=SMOOTHED_METHODS, unit="row") as bar:
        for _, table in smoothed_methods.run(bench, out, commit=commit):
            bar.n = len(table.rows)
            bar.refresh()
    click.echo(f"wrote {smoothed_methods.data_file(out).with_suffix('.md')}")
