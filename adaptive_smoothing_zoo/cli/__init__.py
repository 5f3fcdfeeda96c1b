"""The command line ``asz``. Each command is a thin call into the library."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from io import TextIOWrapper
from itertools import chain
from types import ModuleType

import click

from adaptive_smoothing_zoo.cli import adversarial_commands as adversarials
from adaptive_smoothing_zoo.cli import certify_commands as certification
from adaptive_smoothing_zoo.cli import evaluate_commands as evaluation
from adaptive_smoothing_zoo.cli import experiment_commands as experiments
from adaptive_smoothing_zoo.cli import model_commands as models
from adaptive_smoothing_zoo.cli import publish_commands as publishing
from adaptive_smoothing_zoo.cli import train_commands as training
from adaptive_smoothing_zoo.cli import tune_commands as tuning
from adaptive_smoothing_zoo.cli import weight_commands as weights
from adaptive_smoothing_zoo.cli.interruption import Terminated
from adaptive_smoothing_zoo.cli.options import example, units_told
from adaptive_smoothing_zoo.cli.versions import tell_versions
from adaptive_smoothing_zoo.errors import ZooError, reason
from adaptive_smoothing_zoo.machine.devices import is_out_of_memory


def main() -> None:
    """Run a command; errors that a user can fix end with one sentence and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name may be undecodable
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


class Sections(click.Group):
    """A group whose help lists the commands by topic."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, modules in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(c.name or "", c.get_short_help_str(200)) for c in commands_of(modules)])


def commands_of(modules: Iterable[ModuleType]) -> list[click.Command]:
    """The commands of modules, in source order, without those inside a group."""
    inner = certification.plot_command.commands.values()
    found = (value for module in modules for value in vars(module).values() if isinstance(value, click.Command))
    return [command for command in dict.fromkeys(found) if command not in inner]


SECTIONS = {
    "Look": (models,),
    "Evaluate": (evaluation, adversarials),
    "Certify, and draw": (certification,),
    "Make a mix": (tuning, training),
    "Publish": (publishing,),
    "Weights and entries": (weights,),
    "Reproduce the papers": (experiments,),
}


@click.group(
    cls=Sections,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("asz list", "asz info Demo2026Adaptive --dataset digits", "asz eval --help"),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=tell_versions,
    help="Show the versions of asz, torch and the extras and exit.",
)
def asz() -> None:
    """Adaptively smoothed classifiers: accurate and robust."""


for command in commands_of(chain.from_iterable(SECTIONS.values())):
    asz.add_command(command)
