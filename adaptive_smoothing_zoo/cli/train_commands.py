"""``asz train``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptive_smoothing_zoo.cli.options import example

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.training.choose_alpha import Candidate
    from adaptive_smoothing_zoo.training.loop import Progress
    from adaptive_smoothing_zoo.training.plan import Stage


@click.command("recipes", epilog=example("asz recipes", "asz recipes digits_adaptive > mine.toml"))
@click.argument("name", required=False)
def recipes_command(name: str | None) -> None:
    """List the recipes of the package, or print the recipe NAME."""
    from adaptive_smoothing_zoo.training.recipe import describe, find_recipe, list_recipes, read_recipe

    if name is not None:
        click.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)
        return
    for each in list_recipes():
        click.echo(f"{each:42} {describe(read_recipe(each))}")


@click.command(
    "train",
    epilog=example(
        "asz train digits_adaptive_short --plan", "asz train mine.toml --set training.epochs=5 --out runs/mine"
    ),
)
@click.argument("recipe")
@click.option("--set", "changes", multiple=True, help="override a value of the recipe, as training.seed=1; repeatable")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="folder; default runs/<RECIPE's name>")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--checkpoint-seconds", type=float, default=10.0, show_default=True, help="time between checkpoints")
@click.option("--plan", "only_plan", is_flag=True, help="print the stages and their estimated time, and stop")
@click.option("--embed", is_flag=True, help="then write weights and entry into the package (for maintainers)")
@click.option("--limit", "limits", multiple=True, help="a limit that the embedded entry names; repeatable")
def train_command(
    recipe: str,
    changes: tuple[str, ...],
    out: Path | None,
    data_dir: str | None,
    device: str,
    checkpoint_seconds: float,
    only_plan: bool,
    embed: bool,
    limits: tuple[str, ...],
) -> None:
    """Train the base net or triplet that RECIPE describes.

    RECIPE is a TOML file, or the name of a recipe of the package (asz recipes lists them).

    Runs resume: repeat the command after any interruption. torchrun and accelerate launch distribute every batch over
    their processes.
    """
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.evaluation import distributed, pick_device
    from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions, source_commit
    from adaptive_smoothing_zoo.training import plan, runs
    from adaptive_smoothing_zoo.training.recipe import TripletRecipe, find_recipe, read_recipe
    from adaptive_smoothing_zoo.training.workers import find_workers
    from adaptive_smoothing_zoo.zoo import embedding

    if limits and not embed:
        raise click.UsageError("--limit needs --embed")
    path = find_recipe(recipe)
    read = read_recipe(path, changes)
    folder = out or Path("runs") / path.stem
    workers = find_workers(pick_device(distributed.local_device(device)))
    chosen = str(workers.device)
    about = {
        "device": chosen,
        "device_name": device_name(chosen),
        "versions": installed_versions(),
        "commit": source_commit(),
    }
    stages: list[Stage] = []
    told = told_how_to_go_on(lambda: plan.kept(stages)) if workers.is_first else told_how_to_go_on()
    with told, progress_bars(shown=workers.is_first) as (on_stage, on_progress, on_candidate):
        machine = runs.Machine(
            workers=workers,
            data_dir=data_dir,
            checkpoint_seconds=checkpoint_seconds,
            about=about,
            on_stage=on_stage,
            on_progress=on_progress,
            on_candidate=on_candidate,
        )
        stages += plan.make_plan(read, folder, machine, beside=path.parent)
        _say_plan(stages, on_stage)
        if only_plan:
            return
        runs.run_recipe(read, folder, machine, beside=path.parent)
    if not workers.is_first:
        return
    click.echo(f"wrote {folder}")
    if embed and isinstance(read, TripletRecipe):
        click.echo(f"embedded {embedding.embed(folder, limits).key}")


def _say_plan(stages: list[Stage], say: Callable[[str], object]) -> None:
    """Print the stages and their time, estimated from a few rounds."""
    from adaptive_smoothing_zoo.training import plan

    for stage in stages:
        say(str(stage))
    left = {stage.job.out: stage for stage in stages if stage.job is not None and not stage.is_finished}
    if not left:
        return
    say("timing a few rounds ...")
    seconds = {stage.name: (stage.rounds - stage.kept) * plan.pace(stage) for stage in left.values()}
    parts = ", ".join(f"{name} {_duration(value)}" for name, value in seconds.items())
    say(f"time left: {parts}" + (f"; {_duration(sum(seconds.values()))} in total" if len(seconds) > 1 else ""))


def _duration(seconds: float) -> str:
    if seconds != seconds:
        return "unknown"
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"


@contextmanager
def progress_bars(
    shown: bool,
) -> Iterator[
    tuple[Callable[[str], object], Callable[[Progress], object], Callable[[Candidate, float, float], object]]
]:
    """A line for each stage, a bar over its rounds, a line for each candidate."""
    from adaptive_smoothing_zoo.cli.progress import open_bar

    with open_bar(unit="round", disable=not shown) as bar:

        def on_stage(what: str) -> None:
            if shown:
                bar.write(what)
                bar.reset()
                bar.total = None

        def on_progress(progress: Progress) -> None:
            if bar.total is None:  # start at this run's first round: resumed rounds took none of its time
                bar.n = bar.initial = bar.last_print_n = progress.round - 1
            bar.total = progress.rounds
            bar.update(progress.round - bar.n)
            shown_values = {name: f"{value:.3g}" for name, value in progress.measured.items() if name in _SHOWN}
            bar.set_postfix(shown_values, refresh=False)

        def on_candidate(candidate: Candidate, clean: float, robust: float) -> None:
            numbers = f"alpha {candidate.alpha_min:g} to {candidate.alpha_max:g}"
            if candidate.logit_scale is not None:
                numbers += f", scale {candidate.logit_scale:g}, bias {candidate.logit_bias:g}"
            bar.write(f"{numbers}: clean {100 * clean:.2f} %, attacked {100 * robust:.2f} %")

        yield on_stage, on_progress, on_candidate


_SHOWN = ("loss", "accuracy", "accuracy_clean", "accuracy_attacked", "alpha_clean", "alpha_attacked")
