"""``asz train``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from adaptive_smoothing_zoo.training.choose import Candidate
    from adaptive_smoothing_zoo.training.loop import Progress


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "changes", multiple=True, help="key=value in the recipe's place, as training.seed=1; repeatable")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="folder; runs/<RECIPE's name> if not given")
@click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
@click.option("--checkpoint-seconds", type=float, default=60.0, show_default=True, help="time between checkpoints")
@click.option("--embed", is_flag=True, help="then write weights and entry into the package (for maintainers)")
@click.option("--limit", "limits", multiple=True, help="a limit that the embedded entry names; repeatable")
def train_command(
    recipe: Path,
    changes: tuple[str, ...],
    out: Path | None,
    data_dir: str | None,
    device: str,
    checkpoint_seconds: float,
    embed: bool,
    limits: tuple[str, ...],
) -> None:
    """Train what RECIPE (a TOML file) describes: a base net or a triplet.

    After an interruption of any kind, the same command goes on. Under torchrun or accelerate launch every batch is
    shared among the processes.
    """
    import adaptive_smoothing_zoo
    from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
    from adaptive_smoothing_zoo.evaluation import distributed, pick_device
    from adaptive_smoothing_zoo.publishing.results import device_name, installed_versions, source_commit
    from adaptive_smoothing_zoo.training import runs
    from adaptive_smoothing_zoo.training.recipe import TripletRecipe, read_recipe
    from adaptive_smoothing_zoo.training.workers import find_workers

    if limits and not embed:
        raise click.UsageError("--limit is for the entry that --embed writes")
    read = read_recipe(recipe, changes)
    folder = out or Path("runs") / recipe.stem
    workers = find_workers(pick_device(distributed.local_device(device)))
    chosen = str(workers.device)
    about = {
        "device": chosen,
        "device_name": device_name(chosen),
        "versions": installed_versions(),
        "commit": source_commit(),
    }
    with told_how_to_go_on(), _bars(shown=workers.is_first) as (on_stage, on_progress, on_candidate):
        machine = runs.Machine(
            workers=workers,
            data_dir=data_dir,
            checkpoint_seconds=checkpoint_seconds,
            about=about,
            on_stage=on_stage,
            on_progress=on_progress,
            on_candidate=on_candidate,
        )
        runs.run_recipe(read, folder, machine, beside=recipe.parent)
    if not workers.is_first:
        return
    click.echo(f"wrote {folder}")
    if embed and isinstance(read, TripletRecipe):
        entry = runs.embed(folder, Path(adaptive_smoothing_zoo.__file__).parent, limits)
        click.echo(f"embedded {entry.key}: {entry.weights.embedded}")


@contextmanager
def _bars(
    shown: bool,
) -> Iterator[
    tuple[Callable[[str], object], Callable[[Progress], object], Callable[[Candidate, float, float], object]]
]:
    """A line for each stage, a bar over its rounds, a line for each candidate."""
    from tqdm import tqdm

    with tqdm(unit="round", disable=not shown) as bar:

        def on_stage(what: str) -> None:
            if shown:
                bar.write(what)
                bar.reset()

        def on_progress(progress: Progress) -> None:
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
