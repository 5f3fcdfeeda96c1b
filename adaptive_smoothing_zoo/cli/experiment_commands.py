"""``asz experiment``: the papers' figures and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adaptive_smoothing_zoo.cli.options import DATA_DIR, DEVICE, SEED, example, examples_option
from adaptive_smoothing_zoo.experiments import EXPERIMENTS
from adaptive_smoothing_zoo.threat import NORMS

NETS = ("smoothed-methods", "smoothed-mnist")  # need an hour and no triplet
PAIR = ("off-class-confidence", "confidence-path", "mixing-ratios")  # need minutes and no triplet
PUBLISHED = tuple(name for name in EXPERIMENTS if name.startswith("published-"))
OWN = ("local-constants", "certified-pareto")  # of h's certificates
ALONE = (*NETS, *PAIR, *PUBLISHED, *OWN)  # "all" leaves them out
TRAINED = "settings, loss-ablation, sigmoid-scale, alpha-width and pseudo-labels"


@click.command(
    "experiment",
    epilog=example(
        "asz experiment alpha-sweep margins --dataset digits",
        "asz experiment all --model Demo2026Adaptive --dataset digits --n-examples 50",
    ),
)
@click.argument("names", nargs=-1, required=True, type=click.Choice([*EXPERIMENTS, "all"]))
@click.option("--model", default="Demo2026Adaptive", show_default=True, help="the triplet that provides g and h")
@click.option("--dataset", default="digits", show_default=True, help="of the triplet")
@click.option("--threat-model", default="Linf", show_default=True, help="Linf or L2")
@click.option("--norm", type=click.Choice(NORMS), default=None, help="norm of the attacks; default the triplet's")
@click.option("--eps", default=None, help="radius of the attacks, as 8/255; default the triplet's")
@examples_option(100)
@click.option("--steps", type=click.IntRange(min=1), default=None, help="steps of PGD; default the paper's")
@click.option(
    "--pgd",
    type=click.Choice(("papers", "random-start")),
    default="papers",
    show_default=True,
    help="papers: from the image, in steps of 0.0027 for eps 8/255 (in l_2 of 0.15 eps); random-start, which is "
    "stronger: from a random point, in steps of 2.5 eps / STEPS",
)
@SEED
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True)
@DEVICE
@DATA_DIR
@click.option(
    "--train-data-dir",
    default=None,
    help=f"for {TRAINED}, and for train-accuracy: the training examples; default those of --data-dir",
)
@click.option("--model-dir", default=None, help="a folder that save_pretrained wrote")
@click.option(
    "--recipe",
    default="digits_adaptive_short",
    show_default=True,
    help=f"for {TRAINED}: recipe of a triplet, for its mixing network and training",
)
@click.option(
    "--set", "changes", multiple=True, help="override a value of that recipe, as training.epochs=3; repeatable"
)
@click.option(
    "--apgd-steps",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="for the same: steps of the attacks that replace AutoAttack and setting D; 0 for AutoAttack itself",
)
@click.option(
    "--clean",
    type=click.FloatRange(0, 1),
    default=None,
    help="for the same: held-out clean accuracy at which mixes are compared, as 0.9; default half way between "
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
    help="for trade-off: read the accuracies from the records in this folder, without attacks",
)
@click.option(
    "--published",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="for trust-options and alpha-sweep: a folder with the authors' curves.json, shown with ours",
)
@click.option(
    "--recipes",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help=f"for {', '.join(NETS + PAIR)}: a folder of such recipes; default the package's",
)
@click.option(
    "--samples",
    type=int,
    default=1000,
    show_default=True,
    help=f"for {' and '.join(NETS)}: noise samples per certificate",
)
@click.option("--logs", type=click.Path(path_type=Path), default=None, help="for published-*: a folder of logs")
@click.option("--out", type=click.Path(path_type=Path), default=Path("experiments"), show_default=True)
def experiment_command(names: tuple[str, ...], device: str, out: Path, published: Path | None, **given: Any) -> None:
    """Run experiments of the papers on a triplet's g and h; write data, a picture and a page for each.

    settings, loss-ablation, sigmoid-scale, alpha-width and pseudo-labels train mixing networks for that g and h by a
    recipe, in runs/experiments. The defaults are short: a recipe of few epochs, short attacks. detection needs a
    triplet with a mixing network; "all" skips experiments that do not fit the triplet, with a message.

    smoothed-methods and smoothed-mnist need no triplet: they train nets by recipes for digits and MNIST, in runs/NAME,
    and certify them (about an hour on one core; "all" skips them).

    off-class-confidence, confidence-path and mixing-ratios compare two of these nets, for --dataset digits or mnist.

    local-constants and certified-pareto study h's certificates; try Demo2026Lipschitz and Demo2026Smoothed with
    --threat-model L2 ("all" skips them).

    published-* read certification logs that authors published, from a folder OWNER+NAME/... of --logs; no net runs.

    Experiments resume after the last measured row or at the last training checkpoint.
    """
    from adaptive_smoothing_zoo.cli.progress import open_bar
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.experiments import find_experiment
    from adaptive_smoothing_zoo.experiments.bench import Options
    from adaptive_smoothing_zoo.experiments.published_curves import read_published

    curves = None if published is None else read_published(published)
    options = Options(device=pick_device(device), **given)
    all_of_a_triplet = [name for name in EXPERIMENTS if name not in ALONE] if "all" in names else []
    for name in dict.fromkeys([*(name for name in names if name != "all"), *all_of_a_triplet]):
        experiment = find_experiment(name)
        with open_bar(total=len(experiment.cases()), desc=name, unit="row") as bar:
            bench = experiment.bench.of(options, experiment.steps, bar.set_postfix_str)
            why = experiment.misfit(bench)
            if why and name not in names:
                bar.write(f"skipped {name}: {why}")
                continue
            for table in experiment.run(bench, out, curves):
                bar.n = len(table.rows)
                bar.refresh()
        click.echo(f"wrote {experiment.file(out, bench.key).with_suffix('.md')}")
