"""The command line ``asz``. Each command is a thin call into the library."""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from pathlib import Path

import click

from adaptive_smoothing_zoo.cli import adversarial_commands as adversarials
from adaptive_smoothing_zoo.cli import certify_commands as certification
from adaptive_smoothing_zoo.cli import evaluate_commands as evaluation
from adaptive_smoothing_zoo.cli import experiment_commands as experiments
from adaptive_smoothing_zoo.cli import publish_commands as publishing
from adaptive_smoothing_zoo.cli import train_commands as training
from adaptive_smoothing_zoo.cli import tune_commands as tuning
from adaptive_smoothing_zoo.cli import weight_commands as weights
from adaptive_smoothing_zoo.cli.interruption import Terminated
from adaptive_smoothing_zoo.cli.options import RESULTS, ModelChoice, model_options, units_told
from adaptive_smoothing_zoo.errors import ZooError, reason
from adaptive_smoothing_zoo.machine.devices import is_out_of_memory


def main() -> None:
    """Run a command; what a user can put right ends with one sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the name of a file need be no text
    try:
        with units_told():
            asz(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Terminated:
        click.echo("terminated", err=True)
        sys.exit(143)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (ZooError, ValueError, OSError, ModuleNotFoundError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        click.echo(f"Error: memory ran out: {reason(error)}", err=True)
        sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="adaptive-smoothing-zoo")
def asz() -> None:
    """Accurate and robust at once: adaptively smoothed classifiers."""


@asz.command("list")
@click.option("--dataset", default=None, help="only of this data set")
@click.option("--threat-model", default=None, help="only of this threat model")
def list_command(dataset: str | None, threat_model: str | None) -> None:
    """List the triplets of the zoo."""
    from adaptive_smoothing_zoo.zoo.registry import list_models

    for entry in list_models(dataset, threat_model):
        alpha = entry.alpha
        weights = entry.weights
        original = "original files, " + ("verified" if weights.verified else "not verified yet")
        elsewhere = original if weights.components else "no weights"
        where = "embedded" if entry.comes_along else weights.hub_repo or elsewhere
        click.echo(
            f"{entry.name:28} {entry.dataset:9} {entry.threat_model:5} eps {entry.eps:6} "
            f"alpha [{alpha.alpha_min:g}, {alpha.alpha_max:g}]  {where}"
        )


@asz.command("info")
@model_options()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="of a net")
def info_command(choice: ModelChoice, results: Path) -> None:
    """Print the entry of MODEL as JSON: of a triplet its own, of a net what is kept next to its records."""
    from adaptive_smoothing_zoo.zoo.entry import entry_to_text

    click.echo(entry_to_text(choice.entry(results)), nl=False)


for module in (evaluation, adversarials, certification, tuning, training, experiments, publishing, weights):
    for command in vars(module).values():
        if isinstance(command, click.Command):
            asz.add_command(command)
