"""``asz experiment``: the papers' figures and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adaptive_smoothing_zoo.cli.options import DATA_DIR, DEVICE, SEED, example, examples_option
from adaptive_smoothing_zoo.experiments import EXPERIMENTS
from adaptive_smoothing_zoo.threat import NORMS

NETS = ("smoothed-methods", "smoothed-mnist", "smoothed-variants")  # train nets for smoothing; use no triplet
PAIR = ("off-class-confidence", "confidence-path", "mixing-ratios")  # compare two of these nets
PUBLISHED = tuple(name for name in EXPERIMENTS if name.startswith("published-"))
OWN = ("local-constants", "certified-pareto")  # about h's certificates
ALONE = (*NETS, *PAIR, *PUBLISHED, *OWN)  # "all" leaves them out


@click.command(
    "experiment",
    epilog=example(
        "asz experiment alpha-sweep margins --dataset digits",
        "asz experiment all --model Demo2026Adaptive --dataset digits --n-examples 50",
    ),
)
@click.argument("names", nargs=-1, required=True, type=click.Choice([*EXPERIMENTS, "all"]))
@click.option("--model", default="Demo2026Adaptive", show_default=True, help="the triplet, by name or folder")
@click.option("--dataset", default="digits", show_default=True, help="of the triplet")
@click.option("--threat-model", default="Linf", show_default=True, help="of the triplet: Linf or L2")
@click.option("--norm", type=click.Choice(NORMS), default=None, help="norm of the attacks; default the triplet's")
@click.option("--eps", default=None, help="radius of the attacks, as 8/255; default the triplet's")
@examples_option(100)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=None,
    help="steps of PGD (in trade-off, of APGD); default the paper's",
)
@click.option(
    "--pgd",
    type=click.Choice(("papers", "random-start")),
    default="papers",
    show_default=True,
    help="papers: from the image, in steps of 0.0027 for eps 8/255 (in l_2 of 0.15 eps); random-start, which is "
    "stronger: from a random point of the ball, in steps of 2.5 eps / STEPS",
)
@SEED
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True, help="images per pass")
@DEVICE
@DATA_DIR
@click.option(
    "--train-data-dir",
    default=None,
    help="for all that train, and train-accuracy: folder or file of the training images; default --data-dir",
)
@click.option("--model-dir", default=None, help="a folder with the triplet's weights")
@click.option(
    "--recipe",
    default="digits_adaptive_short",
    show_default=True,
    help="for mixing networks: recipe of a triplet, which describes the network and its training",
)
@click.option("--set", "changes", multiple=True, help="override a value of --recipe, as training.epochs=3; repeatable")
@click.option(
    "--apgd-steps",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="for mixing networks: steps of the APGD that replaces AutoAttack and setting D; 0 for AutoAttack itself",
)
@click.option(
    "--clean",
    type=click.FloatRange(0, 1),
    default=None,
    help="for mixing networks: held-out clean accuracy at which mixes are compared, as 0.9; default half way between "
    "h's and g's",
)
@click.option(
    "--long-c",
    is_flag=True,
    help="for settings: in C, train on attacks of the papers' length, 75 steps toward 9 classes",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="for trade-off: read the accuracies from records in this folder instead of attacking",
)
@click.option(
    "--published",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="for trust-options and alpha-sweep: a folder with the authors' curves.json, drawn next to ours",
)
@click.option(
    "--recipes",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help=f"for {', '.join(NETS + PAIR)}: a folder of recipes; default the package's",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help=f"for {', '.join(NETS)} and certified-pareto: noise samples per certificate",
)
@click.option("--logs", type=click.Path(path_type=Path), default=None, help="for published-*: a folder of logs")
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiments"), show_default=True)
def experiment_command(names: tuple[str, ...], device: str, out: Path, published: Path | None, **given: Any) -> None:
    """Run the papers' experiments on a triplet's g and h; write data, a picture and a page for each.

    settings, loss-ablation, sigmoid-scale, alpha-width and pseudo-labels train mixing networks for g and h by a recipe,
    in runs/experiments. By default recipe and attacks are short. detection needs a triplet with a mixing network. "all"
    runs every experiment on triplets but those below, and skips with a message what does not fit the triplet.

    smoothed-methods (digits), smoothed-mnist and smoothed-variants (MNIST) use no triplet: they train nets by recipes,
    in runs/NAME, and certify them (up to an hour on one core). The nets have seeds of their own; --seed is that of the
    certificates.

    off-class-confidence, confidence-path and mixing-ratios compare two of these nets, for --dataset digits or mnist.

    local-constants and certified-pareto study h's certificates; try Demo2026Lipschitz and Demo2026Smoothed with
    --threat-model L2.

    published-* read certification logs that authors published, from the folders OWNER+NAME in --logs; no net runs.

    Repeat the command to resume after the last measured row or the last checkpoint of a training.
    """
    from adaptive_smoothing_zoo.cli.progress import open_bar
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.experiments import find_experiment
    from adaptive_smoothing_zoo.experiments.bench import Options
    from adaptive_smoothing_zoo.experiments.experiment import MisfitError
    from adaptive_smoothing_zoo.experiments.published_curves import read_published

    curves = None if published is None else read_published(published)
    options = Options(device=pick_device(device), **given)
    all_of_a_triplet = [name for name in EXPERIMENTS if name not in ALONE] if "all" in names else []
    for name in dict.fromkeys([*(name for name in names if name != "all"), *all_of_a_triplet]):
        experiment = find_experiment(name)
        with open_bar(total=len(experiment.cases()), desc=name, unit="row") as bar:
            try:
                bench = experiment.bench.of(options, experiment.steps, bar.set_postfix_str)
                experiment.check_fits(bench)
            except MisfitError as error:
                if name in names:
                    raise
                bar.write(f"skipped {name}: {error}")
                continue
            for table in experiment.run(bench, out, curves):
                bar.n = len(table.rows)
                bar.refresh()
        click.echo(f"wrote {experiment.file(out, bench.key).with_suffix('.md')}")
