"""``asz tune``: the best mix of two nets, as a triplet folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from adaptive_smoothing_zoo.cli.learned_form import (
    LEARNED,
    check_savable,
    images_at,
    learn,
    learned_options,
    named_images,
)
from adaptive_smoothing_zoo.cli.options import RESULTS, WordChoice, example, usual_eps, words_options

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.data import Examples


@click.command(
    "tune",
    epilog=example(
        "asz tune out/ --std-model base:pyautoattack_resnet18 \\",
        "    --rob-model robustbench:Carmon2019Unlabeled --data-dir data --clean 0.93",
    ),
)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--std-model", required=True, help="g: a reference, as timm:resnet50.a1_in1k or nets.py:function")
@click.option("--rob-model", required=True, help="h: a reference, as robustbench:Carmon2019Unlabeled")
@click.option("--std-checkpoint", type=click.Path(dir_okay=False, path_type=Path), help="weights of g")
@click.option("--rob-checkpoint", type=click.Path(dir_okay=False, path_type=Path), help="weights of h")
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="where the data are")
@click.option("--threat-model", default="Linf", show_default=True, help="Linf or L2")
@click.option("--eps", help="radius in units of pixels in [0, 1]; default the data set's usual one, as 8/255 for CIFAR")
@click.option(
    "--tune-on",
    metavar="SPLIT:FIRST:END",
    help="images that neither net has seen and that you do not report on; default the first 1,000 of the split "
    "validation if it exists, else test:5000:6000",
)
@click.option("--form", default="best", show_default=True, help="constant, scaled, mixednuts, best or learned")
@click.option("--search", default="exact", show_default=True, help="exact, or published: Algorithm 1 of MixedNUTS")
@click.option("--clean", type=float, help="minimal clean accuracy, in (0, 1]")
@click.option("--robust", type=float, help="minimal share of h's robust points to keep, in (0, 1]")
@click.option("--iterations", type=int, default=50, show_default=True, help="steps of the attack on h")
@click.option("--targets", type=int, default=3, show_default=True, help="wrong classes it tries")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@learned_options
@click.option("--name", default="Tuned", show_default=True, help="of the triplet")
@words_options
def tune_command(out: Path, words: WordChoice, **options: Any) -> None:
    """Find the best mix of two nets without training.

    Both nets classify held-out images, and h is also attacked. Every mix is then scored from their outputs. With a
    target (--clean or --robust) OUT becomes a triplet folder for all other commands; without one, only the front is
    written.
    """
    from adaptive_smoothing_zoo.publishing.description import describe_folder
    from adaptive_smoothing_zoo.publishing.export import write_card
    from adaptive_smoothing_zoo.tuning.best_mix import check_search
    from adaptive_smoothing_zoo.tuning.plot import FRONT_FILE, plot_fronts
    from adaptive_smoothing_zoo.tuning.tune import Target, surrogate_for, suspicion, tuned_triplet, write_record

    _check_form(options["form"])
    options["eps"] = options["eps"] or usual_eps(options["dataset"], options["threat_model"], "with --eps")
    if options["form"] == "learned":
        examples = _examples(options)
        learn(out, _resolved(options, examples), examples, words.description(), options)
        return
    target, form = Target(clean=options["clean"], robust=options["robust"]), options["form"]
    check_search(form, options["search"])
    nets, examples, attack, tables = _measured(out, options)
    if warning := suspicion(tables, options["tune_on"]):
        click.echo(f"Warning: {warning}", err=True)
    fronts, chosen, halves = _chosen(tables, target, form, options["search"])
    about = {key: options[key] for key in ("dataset", "threat_model", "eps", "tune_on", "form", "search")}
    about |= {"std_model": nets[0].reference, "rob_model": nets[1].reference, "attack": asdict(attack)}
    write_record(out, fronts, chosen, halves, tables, about)
    plot_fronts(out / FRONT_FILE, fronts, tables, chosen)
    _tell(tables, fronts)
    if chosen is None:
        click.echo(f"wrote the front to {out}; no triplet, since there is no target: add --clean or --robust")
    else:
        about_it = _words(options, tables, examples), surrogate_for(chosen, fronts["constant"])
        tuned_triplet(nets[0], nets[1], chosen, *about_it).save_pretrained(out)
        describe_folder(out, RESULTS, words.description())
        write_card(out)
        click.echo(f"chosen: alpha {chosen.alpha:.6g}, clean {chosen.clean:.2%}, robust at least {chosen.robust:.2%}")
        if halves is not None:
            click.echo(
                f"chosen on half of the images, counted on the other: clean {halves[0]:.2%}, robust {halves[1]:.2%}"
            )
        click.echo(
            f"wrote the triplet {options['name']} to {out}; these numbers chose it, so report those of asz eval {out}"
        )


def _check_form(form: str) -> None:
    """Refuse options that the form does not use.

    Raises:
        click.UsageError: one is given.
    """
    of_the_other = ("search", "iterations", "targets", "seed") if form == "learned" else LEARNED
    context = click.get_current_context()
    for name in of_the_other:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = next(each for each in context.command.params if each.name == name).opts[0]
            raise click.UsageError(f"{option} has no effect with --form {form}; omit it")


def _examples(options: dict[str, Any]) -> Examples:
    """The images used for tuning."""
    options["tune_on"] = options["tune_on"] or _usual_range(options["dataset"])
    return images_at(options["tune_on"], options, options["data_dir"])


def _resolved(options: dict[str, Any], examples: Examples) -> list[Any]:
    """Both nets."""
    from adaptive_smoothing_zoo.zoo.references import Wanted, resolve

    wanted = {"dataset": options["dataset"], "threat_model": options["threat_model"]}
    wanted["num_classes"] = examples.num_classes
    return [resolve(options[f"{k}_model"], Wanted(**wanted, checkpoint=options[f"{k}_checkpoint"])) for k in _NETS]


def _measured(out: Path, options: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Both nets, the images, the attack on h, and the tables."""
    from adaptive_smoothing_zoo.cli.progress import open_bar
    from adaptive_smoothing_zoo.threat import ThreatModel
    from adaptive_smoothing_zoo.tuning.measure import GapAttack, measure_tables

    examples = _examples(options)
    images, labels = examples.images, examples.labels
    nets = _resolved(options, examples)
    if options["clean"] is not None or options["robust"] is not None:
        _check_savable(nets, options, examples)
    attack = GapAttack(**{key: options[key] for key in ("iterations", "targets", "seed")})
    with open_bar(total=len(labels), unit="image", desc="attack on h") as bar:
        tables = measure_tables(
            nets[0].net,
            nets[1].net,
            images,
            labels,
            ThreatModel(options["threat_model"], options["eps"]),
            attack=attack,
            device=None if options["device"] == "auto" else options["device"],
            state=out / "tables",
            on_progress=lambda done: bar.update(done - bar.n),
        )
    return nets, examples, attack, tables


_NETS = ("std", "rob")


def _check_savable(nets: list[Any], options: dict[str, Any], examples: Examples) -> None:
    """Raise ConfigError before the work, not after it, if no entry can describe a net."""
    from adaptive_smoothing_zoo.errors import ConfigError

    try:
        check_savable(nets, options, examples)
    except ConfigError as error:
        raise ConfigError(
            f"{error}. Without --clean and --robust, asz tune writes the front; asz eval takes the mix as "
            "FILE.py:FUNCTION, a function that returns MixedClassifier(g, h, alpha)"
        ) from error


def _chosen(tables: Any, target: Any, form: str, search: str) -> Any:
    """``choose_mix`` with a progress bar."""
    from adaptive_smoothing_zoo.cli.progress import open_bar
    from adaptive_smoothing_zoo.tuning.best_mix import choose_mix

    with open_bar(unit="map", desc="search") as bar:
        return choose_mix(tables, target, form, search, on_map=bar.update)


def _words(options: dict[str, Any], tables: Any, examples: Examples) -> Any:
    from adaptive_smoothing_zoo.tuning.tune import Words

    names = ("name", "dataset", "threat_model", "eps")
    channels, height, width = examples.images.shape[1:]
    about = {name: options[name] for name in names} | {"tuned_on": named_images(options, len(tables))}
    return Words(
        num_classes=tables.rob.shape[1], image_shape=(channels, height, width), chosen_on=options["tune_on"], **about
    )


def _tell(tables: Any, fronts: Any) -> None:
    from adaptive_smoothing_zoo.tuning.fronts_table import side_by_side

    click.echo(
        f"g: {tables.std_accuracy:.2%} clean; h: {tables.rob_accuracy:.2%} clean, {tables.rob_robust:.2%} robust; "
        f"{len(tables)} images"
    )
    looked_at = ", ".join(f"{front.looked_at} of {form}" for form, front in fronts.items())
    click.echo(f"mixes: {looked_at}. The largest robust share of each form, in percent:")
    click.echo(side_by_side(fronts, tables.rob_accuracy))


def _usual_range(dataset: str) -> str:
    """The default range of images for tuning."""
    from adaptive_smoothing_zoo.data import DATA_SETS

    known = DATA_SETS.get(dataset)
    if known is None or "validation" not in known.splits:
        return "test:5000:6000"
    return f"validation:0:{min(1000, known.test_set_size)}"  # of a small data set both splits are small
