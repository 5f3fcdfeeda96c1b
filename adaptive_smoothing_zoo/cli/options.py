"""Options that several commands have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.units import UnitsWarning

if TYPE_CHECKING:
    import torch

    from adaptive_smoothing_zoo.attacks.settings import AttackSettings, Plan
    from adaptive_smoothing_zoo.zoo.entry import Entry
    from adaptive_smoothing_zoo.zoo.triplet import Triplet

RESULTS = Path("results")

Command = Callable[..., None]
Option = Callable[[Command], Command]

OUT = click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
OVERWRITE = click.option(
    "--overwrite", is_flag=True, help="also a record of more examples, or of the entry's own radius"
)
DATA_DIR = click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
SEED = click.option("--seed", type=int, default=0, show_default=True)
CHANNELS_LAST = click.option(
    "--channels-last", is_flag=True, help="that memory format for the weights: faster for wide nets on CPUs"
)


def dataset_option(function: Callable[..., None]) -> Callable[..., None]:
    """The options that, with a name, choose a triplet."""
    function = click.option("--threat-model", default="Linf", show_default=True, help="Linf or L2")(function)
    return click.option("--dataset", default="cifar10", show_default=True, help="of the triplet")(function)


def examples_option(default: int | None, help: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``--n-examples N``, also spelled ``--n``: how many test images are taken, the first ones."""
    every = "all if not given" if default is None else "0 for all"
    text = help or f"number of test images, the first N; {every}"
    return click.option(
        "--n-examples", "--n", "n", type=int, default=default, show_default=True, metavar="N", help=text
    )


@contextmanager
def units_told() -> Iterator[None]:
    """Show each warning of units once, as a plain line, and other warnings as ever."""
    told: set[str] = set()
    with warnings.catch_warnings():
        as_ever = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, UnitsWarning):
                as_ever(message, category, *where, **more)
            elif str(message) not in told:
                told.add(str(message))
                click.echo(f"Warning: {message}", err=True)

        warnings.showwarning = show
        yield


def packed(kind: type[Any], argument: str, *options: Option) -> Option:
    """Options whose values reach the command together, as one object.

    Args:
        kind: a dataclass with a field for each option.
        argument: of the command, that gets the object.
    """
    names = [field.name for field in fields(kind)]

    def decorate(function: Command) -> Command:
        @wraps(function)
        def call(**given: Any) -> None:
            own = {name: given.pop(name) for name in names}
            function(**given, **{argument: kind(**own)})

        command: Command = call
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@dataclass(frozen=True)
class TripletChoice:
    """The triplet that a command is about."""

    name: str
    dataset: str
    threat_model: str
    model_dir: str | None

    def entry(self) -> Entry:
        """The zoo's entry; a folder that the user names must hold its weights.

        Its data set and threat model count: of a triplet outside the zoo they may be others than the options say.
        """
        from adaptive_smoothing_zoo.cli.model_dir import check_model_dir
        from adaptive_smoothing_zoo.zoo.registry import find_entry

        entry = find_entry(self.name, self.dataset, self.threat_model)
        check_model_dir(self.model_dir, entry)
        return entry

    def load(self, device: Any = None) -> Triplet:
        """The model."""
        from adaptive_smoothing_zoo.zoo.loading import load_model

        return load_model(self.name, self.model_dir, self.dataset, self.threat_model, device=device)


triplet_options = packed(
    TripletChoice,
    "triplet",
    click.argument("name"),
    dataset_option,
    click.option("--model-dir", default=None, help="a folder that save_pretrained wrote"),
)


@dataclass(frozen=True)
class AttackChoice:
    """How a command attacks."""

    version: str
    attacks: str | None
    iterations: int | None
    targets: int | None
    restarts: int | None
    queries: int | None
    eot: int | None
    individual: bool
    engine: str
    seed: int
    search_precision: str | None
    channels_last: bool
    batch_size: int | None

    def settings(self, device: torch.device) -> AttackSettings:
        """The same in one noun; what is not standard is told. Only CUDA rounds to TF32.

        Raises:
            UsageError: a version and attacks that say different things.
        """
        from adaptive_smoothing_zoo.attacks.catalogue import complete
        from adaptive_smoothing_zoo.attacks.settings import NUMBERS, VERSIONS, AttackSettings

        settings = AttackSettings(
            attacks=self._attacks(VERSIONS),
            engine=self.engine,
            seed=self.seed,
            search_precision=self.search_precision,  # type: ignore[arg-type]
            channels_last=self.channels_last,
            batch_size=self.batch_size,
            individual=self.individual,
        )
        numbers = {name: getattr(self, name) for name in NUMBERS}
        settings = complete(settings).limited(**numbers).on(device.type)
        if not settings.is_standard:
            click.echo(f"{settings.protocol}; no leaderboard takes the result", err=True)
        return settings

    def _attacks(self, versions: Mapping[str, tuple[Plan, ...]]) -> Any:
        """The plans of the version, or the names that are given."""
        if self.attacks is not None:
            if self.version not in ("standard", "custom"):
                raise click.UsageError(f"--attacks names other attacks than --version {self.version}; give one of both")
            return tuple(self.attacks.replace(" ", "").split(","))
        if self.version == "custom":
            raise click.UsageError("--version custom needs --attacks, the names of attacks separated by commas")
        return versions[self.version]


def _show_attacks(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from adaptive_smoothing_zoo.attacks.catalogue import Entry

    for name, entry in Entry.known.items():
        click.echo(" ".join([f"{name:22}", *(f"{number}={value}" for number, value in entry.numbers.items())]))
    context.exit()


attack_options = packed(
    AttackChoice,
    "attack",
    click.option(
        "--version",
        type=click.Choice(("standard", "plus", "rand", "custom")),
        default="standard",
        show_default=True,
        help="AutoAttack's; plus attacks more, rand is for randomized nets, custom is what --attacks names",
    ),
    click.option("--attacks", default=None, metavar="NAMES", help="separated by commas; the version's"),
    click.option("--iterations", type=int, default=None, help="of all attacks that have such, instead of their own"),
    click.option("--targets", type=int, default=None, help="likewise: wrong classes to attack toward"),
    click.option("--restarts", type=int, default=None, help="likewise: random starts"),
    click.option("--queries", type=int, default=None, help="likewise: changes that a random search tries"),
    click.option("--eot", type=int, default=None, help="likewise: passes that each gradient is the mean of"),
    click.option(
        "--individual", is_flag=True, help="each attack on all correctly classified images, not on those left"
    ),
    click.option("--engine", default="fast", show_default=True, help="fast, or reference: pyautoattack"),
    SEED,
    click.option(
        "--search-precision",
        default=None,
        help="float32, tf32 or bfloat16; tf32 on CUDA and else float32 if not given. What is found, float32 decides",
    ),
    CHANNELS_LAST,
    click.option("--batch-size", type=int, default=None, help="most points per pass; what memory holds if not given"),
    click.option(
        "--list-attacks", is_flag=True, expose_value=False, is_eager=True, callback=_show_attacks, help="and exit"
    ),
)
