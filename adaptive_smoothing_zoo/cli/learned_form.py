"""``asz tune --form learned``: the mixing network of two nets, learned by a recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.cli.options import RESULTS

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.data import Examples
    from adaptive_smoothing_zoo.publishing.description import Description
    from adaptive_smoothing_zoo.training.choose_alpha import Choice, Chosen
    from adaptive_smoothing_zoo.training.recipe import TripletRecipe
    from adaptive_smoothing_zoo.zoo.references import Resolved


LEARNED = ("checkpoint_seconds", "train_data", "train_on", "changes", "recipe")


def learned_options(command: Any) -> Any:
    """The options of ``asz tune`` for this form only."""
    learned = "--form learned: "
    for option in (
        click.option("--checkpoint-seconds", type=float, default=10.0, help=f"{learned}time between checkpoints"),
        click.option("--train-data", type=click.Path(path_type=Path), help=f"{learned}as --data-dir, if elsewhere"),
        click.option(
            "--train-on",
            metavar="SPLIT:FIRST:END",
            help=f"{learned}images to learn from; default all of the split train. Images that g was trained on show it "
            "at its best, so alpha learned from them is too small",
        ),
        click.option(
            "--set", "changes", multiple=True, help=f"{learned}override a value of the recipe, key=value; repeatable"
        ),
        click.option("--recipe", help=f"{learned}the recipe; default <DATASET>_adaptive or cifar10_adaptive"),
    ):
        command = option(command)
    return command


def learn(out: Path, nets: list[Resolved], held: Examples, said: Description, options: dict[str, Any]) -> None:
    """Learn, choose alpha on the held-out images, and write the triplet's folder and its record."""
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.cli.train_commands import progress_bars
    from adaptive_smoothing_zoo.evaluation import pick_device
    from adaptive_smoothing_zoo.publishing.description import describe_folder
    from adaptive_smoothing_zoo.publishing.export import write_card
    from adaptive_smoothing_zoo.threat import ThreatModel
    from adaptive_smoothing_zoo.training.learned_mix import choice_for, learn_mix, mixing_recipe, without
    from adaptive_smoothing_zoo.training.runs import Machine
    from adaptive_smoothing_zoo.training.workers import Workers
    from adaptive_smoothing_zoo.tuning.tune import Target

    threat = ThreatModel(options["threat_model"], options["eps"])
    recipe = mixing_recipe(options["dataset"], threat, options["recipe"], options["changes"])
    choice = choice_for(recipe, Target(clean=options["clean"], robust=options["robust"]))
    check_savable(nets, options, held)  # before hours of training
    train = without(_train_examples(options), held)
    with told_how_to_go_on(), progress_bars(shown=True) as (on_stage, on_progress, on_candidate):
        machine = Machine(
            workers=Workers(pick_device(None if options["device"] == "auto" else options["device"])),
            checkpoint_seconds=options["checkpoint_seconds"],
            on_stage=on_stage,
            on_progress=on_progress,
            on_candidate=on_candidate,
        )
        mix, chosen = learn_mix((nets[0].net, nets[1].net), recipe, choice, train, held, out, machine)
    mix.save_pretrained(out, **_words(options, nets, train, held, chosen))
    describe_folder(out, RESULTS, said)
    _write_record(out, options, nets, recipe, choice, chosen, train)
    write_card(out)
    _tell(out, chosen)


def check_savable(nets: list[Resolved], options: dict[str, Any], examples: Examples) -> None:
    """Raise ConfigError if no entry of that name can describe a mix of the two nets."""
    from adaptive_smoothing_zoo.method.classifier import MixedClassifier
    from adaptive_smoothing_zoo.zoo.triplet import with_entry

    words = {key: options[key] for key in ("name", "dataset", "threat_model", "eps")}
    words["image_shape"] = tuple(examples.images.shape[1:])
    with_entry(MixedClassifier(nets[0].net, nets[1].net, 0.5), **words).described()


def images_at(place: str, options: dict[str, Any], data_dir: Path | None) -> Examples:
    """The data set's images at "test:5000:6000"."""
    from adaptive_smoothing_zoo.data import load_data

    split, first, end = range_of(place)
    examples = load_data(options["dataset"], split, data_dir=data_dir, n=end - first, start=first)
    return replace(examples, source=f"{examples.source}, {split} {first} to {end - 1}")


def range_of(place: str) -> tuple[str, int, int]:
    """The split and the range of "test:5000:6000"."""
    split, *numbers = place.split(":")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers) or int(numbers[0]) >= int(numbers[1]):
        raise click.UsageError(f"--tune-on and --train-on must be SPLIT:FIRST:END, as test:5000:6000, got {place!r}")
    return split, int(numbers[0]), int(numbers[1])


def _train_examples(options: dict[str, Any]) -> Examples:
    from adaptive_smoothing_zoo.data import load_data

    data_dir = options["train_data"] or options["data_dir"]
    if options["train_on"] is not None:
        split, held = range_of(options["train_on"])[0], range_of(options["tune_on"])[0]
        if split not in ("train", held):
            raise click.UsageError(
                f"--train-on must be of train or, as --tune-on, of {held}; the entry names one range of images"
            )
        return images_at(options["train_on"], options, data_dir)
    return load_data(options["dataset"], "train", data_dir=data_dir)


def _used(options: dict[str, Any]) -> str:
    """The images of the split of --tune-on that chose or trained the mix, as one range that holds them all."""
    split, first, end = range_of(options["tune_on"])
    if options["train_on"] is not None and (other := range_of(options["train_on"]))[0] != "train":
        first, end = min(first, other[1]), max(end, other[2])
    return f"{split}:{first}:{end}"


def named_images(options: dict[str, Any], count: int) -> str:
    """A description of the held-out images."""
    return f"{count} images ({options['dataset']} {options['tune_on']})"


def _words(
    options: dict[str, Any], nets: list[Resolved], train: Examples, held: Examples, chosen: Chosen
) -> dict[str, Any]:
    """The fields of the entry that cannot be derived from the modules."""
    from adaptive_smoothing_zoo.tuning.tune import chosen_there
    from adaptive_smoothing_zoo.zoo.named import reference_with

    names = ("name", "dataset", "threat_model", "eps")
    tuned_on = named_images(options, len(held))
    g, h = (reference_with(net.reference, None) for net in nets)
    return {
        **{name: value for name, value in options.items() if name in names},
        "image_shape": tuple(held.images.shape[1:]),
        "description": f"A mix of {g} and {h} with a mixing network.",
        "architecture": f"{g} + {h} + mixing network",
        "training": (
            f"g and h as they came. Mixing network: learned on {len(train)} examples ({train.source}) by asz tune "
            f"--form learned. alpha: chosen on {tuned_on}; there the mix has {chosen.clean:.2%} clean accuracy, and "
            f"{chosen.robust:.2%} of {chosen.robust_examples} images stay right in a screening attack."
        ),
        "chosen_on": _used(options),
        "limits": (chosen_there(tuned_on),),
    }


def _write_record(
    out: Path,
    options: dict[str, Any],
    nets: list[Resolved],
    recipe: TripletRecipe,
    choice: Choice,
    chosen: Chosen,
    train: Examples,
) -> None:
    """Write ``tuning.json``, as the other forms do."""
    from adaptive_smoothing_zoo.storage.files import write_text
    from adaptive_smoothing_zoo.storage.schema import to_json
    from adaptive_smoothing_zoo.tuning.tune import RECORD_FILE

    document = {
        **{key: options[key] for key in ("dataset", "threat_model", "eps", "tune_on", "form")},
        "std_model": nets[0].reference,
        "rob_model": nets[1].reference,
        "training": {"examples": len(train), "data": train.source, "settings": to_json(recipe.training)},
        "attack": {key: value for key, value in asdict(choice).items() if key.startswith("attack")},
        "n": chosen.clean_examples,
        "chosen": {**asdict(chosen.candidate), "clean": chosen.clean, "robust": chosen.robust},
        "attacked": chosen.robust_examples,
        "tried": [{**asdict(candidate), "clean": clean, "robust": robust} for candidate, clean, robust in chosen.tried],
    }
    write_text(out / RECORD_FILE, json.dumps(document, indent=2) + "\n")


def _tell(out: Path, chosen: Chosen) -> None:
    ends = chosen.candidate
    click.echo(
        f"chosen: alpha {ends.alpha_min:g} to {ends.alpha_max:g}, clean {chosen.clean:.2%} of {chosen.clean_examples}, "
        f"robust at most {chosen.robust:.2%} of {chosen.robust_examples}"
    )
    click.echo(f"wrote the triplet to {out}; these numbers chose it, so report those of asz eval {out}")
