"""Options that several commands have."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptive_smoothing_zoo.units import UnitsWarning

if TYPE_CHECKING:
    import torch

    from adaptive_smoothing_zoo.attacks.settings import AttackSettings, Plan
    from adaptive_smoothing_zoo.publishing.description import Description
    from adaptive_smoothing_zoo.zoo.entry import ModelEntry, NetEntry
    from adaptive_smoothing_zoo.zoo.named import Named
    from adaptive_smoothing_zoo.zoo.triplet import Triplet

RESULTS = Path("results")

Command = Callable[..., None]
Option = Callable[[Command], Command]

OUT = click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
RESULTS_OPTION = click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
OVERWRITE = click.option(
    "--overwrite",
    is_flag=True,
    help="replace a record of another model, seed, radius or attacks, or of more examples, too",
)
DATA_DIR = click.option("--data-dir", default=None, help="torchvision's data folder, an image folder, or an .npz file")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda")
SEED = click.option("--seed", type=int, default=0, show_default=True)
CHANNELS_LAST = click.option(
    "--channels-last", is_flag=True, help="channels_last memory format for the weights: faster for wide nets on CPUs"
)


def dataset_option(threat_model: str | None = "Linf") -> Option:
    """The options --dataset and --threat-model; ``threat_model`` is the default of the latter."""
    one = "Linf or L2" if threat_model else "Linf or L2; default that of the triplet, if its name has only one"

    def decorate(function: Command) -> Command:
        function = click.option("--threat-model", default=threat_model, show_default=True, help=one)(function)
        return click.option("--dataset", default="cifar10", show_default=True, help="of the model")(function)

    return decorate


def examples_option(default: int | None, help: str = "", names: Sequence[str] = ("--n-examples", "--n", "n")) -> Option:
    """``--n-examples N``, also spelled ``--n``: use the first N test images; without a default, 0 becomes None."""
    every = "default all, as 0" if default is None else "0 for all"
    return click.option(
        *names,
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        metavar="N",
        help=help or f"use the first N test images; {every}",
        callback=lambda context, option, n: None if default is None and n == 0 else n,
    )


def example(*calls: str) -> str:
    """Example calls for the end of a command's help, printed verbatim; a test parses each."""
    return "\n".join(["\b", "Examples:" if len(calls) > 1 else "Example:", *(f"  {call}" for call in calls)])


@contextmanager
def units_told() -> Iterator[None]:
    """Show each units warning once, as a plain line, and other warnings as usual."""
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
    """Pass the values of several options to the command as one object.

    Args:
        kind: a dataclass with a field for each option.
        argument: the command's argument that receives the object.
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
class ModelChoice:
    """The model of a command: a triplet, or any net."""

    reference: str
    dataset: str
    threat_model: str | None
    model_dir: str | None
    checkpoint: Path | None
    name: str | None
    num_classes: int | None

    def entry(self, results: Path, eps: str | None = None, data_dir: str | None = None) -> ModelEntry:
        """A triplet's own entry; for a net, the entry stored next to its records, or a new one.

        A triplet's own data set and threat model take precedence over the options. A folder that the user names must
        contain its weights.

        Args:
            results: folder of the net's records.
            eps: radius of a new entry if the data set has no usual one.
            data_dir: the images' folder or file, which describes the user's own data.
        """
        from adaptive_smoothing_zoo.cli.model_dir import check_model_dir
        from adaptive_smoothing_zoo.zoo.references import is_triplet
        from adaptive_smoothing_zoo.zoo.registry import find_entry

        if not is_triplet(self.reference):
            return self._net_entry(results, eps, data_dir)
        if self.name is not None or self.num_classes is not None:
            raise click.UsageError(
                f"{self.reference} is a triplet: its entry sets the name and number of classes; "
                "asz describe FOLDER --name renames it"
            )
        entry = find_entry(
            self.reference, self.dataset, self.threat_model or known_threat_model(self.reference, self.dataset)
        )
        check_model_dir(self.model_dir, entry)
        return entry

    def load(self, entry: ModelEntry, device: Any = None) -> Named:
        """The model of the entry that ``entry`` gave."""
        from adaptive_smoothing_zoo.zoo.entry import NetEntry
        from adaptive_smoothing_zoo.zoo.loading import load_model
        from adaptive_smoothing_zoo.zoo.named import Named, named_net
        from adaptive_smoothing_zoo.zoo.references import Wanted

        if isinstance(entry, NetEntry):
            model_dir = None if self.model_dir is None else Path(self.model_dir)
            wanted = Wanted(
                dataset=entry.dataset,
                threat_model=entry.threat_model,
                num_classes=entry.num_classes,
                checkpoint=self.checkpoint,
                model_dir=model_dir,
            )
            return named_net(self.reference, wanted, entry, device)
        triplet = load_model(
            self.reference, self.model_dir, entry.dataset, entry.threat_model, self.checkpoint or "", device=device
        )
        return Named(entry=triplet.entry, net=triplet)

    def triplet(self, what: str) -> Triplet:
        """The triplet, for a command that takes no other model; ``what`` is the command's name."""
        from adaptive_smoothing_zoo.zoo.loading import load_model
        from adaptive_smoothing_zoo.zoo.references import check_triplet

        check_triplet(self.reference, what)
        entry = self.entry(RESULTS)
        return load_model(self.reference, self.model_dir, entry.dataset, entry.threat_model, self.checkpoint or "")

    def _net_entry(self, results: Path, eps: str | None, data_dir: str | None) -> NetEntry:
        from adaptive_smoothing_zoo.data import kind_of
        from adaptive_smoothing_zoo.publishing.kept_entry import find_kept
        from adaptive_smoothing_zoo.threat import check_norm
        from adaptive_smoothing_zoo.zoo.entry import NetEntry
        from adaptive_smoothing_zoo.zoo.named import (
            USUAL_EPS,
            architecture_of,
            checked_name,
            preprocessing_for,
            record_name,
            reference_with,
        )

        if self.model_dir is not None and not self.reference.startswith("robustbench:"):
            raise click.UsageError(f"{self.reference} takes no --model-dir; use --checkpoint for a file of weights")
        reference = reference_with(self.reference, self.checkpoint)
        threat_model = self.threat_model or known_threat_model(self.reference, self.dataset)
        name = None if self.name is None else checked_name(self.name)
        kept = find_kept(results / self.dataset / threat_model, reference, name)
        if kept is not None:
            return kept if self.num_classes is None else replace(kept, num_classes=self.num_classes)
        check_norm(threat_model)
        image_shape, num_classes = kind_of(self.dataset, data_dir)
        radius = eps or usual_eps(self.dataset, threat_model, "with asz eval --eps or asz describe --eps")
        return NetEntry(
            name=name or record_name(reference),
            dataset=self.dataset,
            threat_model=threat_model,  # type: ignore[arg-type]
            eps=USUAL_EPS.get((self.dataset, threat_model), radius),
            num_classes=self.num_classes or num_classes,
            image_shape=image_shape,
            preprocessing=preprocessing_for(self.reference, self.dataset, threat_model),
            architecture=architecture_of(self.reference),
            reference=reference,
        )


def usual_eps(dataset: str, threat_model: str, set_it: str) -> str:
    """The usual radius of a data set, which it prints; UsageError if there is none, with ``set_it`` as the way out."""
    from adaptive_smoothing_zoo.zoo.named import USUAL_EPS

    usual = USUAL_EPS.get((dataset, threat_model))
    if usual is None:
        raise click.UsageError(f"{dataset} has no usual {threat_model} radius; set one {set_it}")
    click.echo(f"eps {usual}, the usual {threat_model} radius for {dataset}", err=True)
    return usual


def known_threat_model(reference: str, dataset: str) -> str:
    """The threat model of the triplet if its name is unique in the zoo; l_inf for other models."""
    from adaptive_smoothing_zoo.threat import LINF
    from adaptive_smoothing_zoo.zoo.registry import entries_named

    own = {entry.threat_model for entry in entries_named(reference) if entry.dataset == dataset}
    if len(own) > 1:
        raise click.UsageError(f"{reference} exists for {' and '.join(sorted(own))}; pass --threat-model")
    return next(iter(own), LINF)


def model_options(threat_model: str | None = "Linf", checkpoint: str = "--checkpoint") -> Option:
    """The options that choose a model, for an argument ``choice``.

    Args:
        threat_model: the option's default; None for the triplet's, if its name is unique.
        checkpoint: name of the option for a file of weights.
    """
    return packed(
        ModelChoice,
        "choice",
        click.argument("reference", metavar="MODEL"),
        dataset_option(threat_model),
        click.option("--model-dir", default=None, help="a folder that save_pretrained wrote, or RobustBench's cache"),
        click.option(
            checkpoint, "checkpoint", type=click.Path(path_type=Path), help="a file of weights to load into the model"
        ),
        click.option(
            "--name", default=None, help="name of a net's records, instead of one made from its reference; stored"
        ),
        click.option("--num-classes", type=click.IntRange(min=2), help="of a net; default the data set's"),
    )


@dataclass(frozen=True)
class WordChoice:
    """The descriptive options of a model; None if not given."""

    title: str | None
    authors: str | None
    venue: str | None
    link: str | None
    additional_data: bool | None
    architecture: str | None
    license: str | None
    chosen_on: str | None

    def description(self) -> Description:
        """The same for an entry."""
        from adaptive_smoothing_zoo.publishing.description import Description

        return Description(**vars(self))


words_options = packed(
    WordChoice,
    "words",
    click.option("--title", default=None, help="of the paper"),
    click.option("--authors", default=None, help="comma separated"),
    click.option("--venue", default=None, help="venue and year"),
    click.option("--link", default=None, help="to the paper"),
    click.option(
        "--additional-data/--no-additional-data",
        default=None,
        help="whether training used more than the data set's own training images",
    ),
    click.option("--architecture", default=None, help="as a leaderboard shows it"),
    click.option("--license", default=None, help="of the weights, as the Hub names it: mit, apache-2.0, ..."),
    click.option(
        "--chosen-on",
        default=None,
        metavar="SPLIT:FIRST:END",
        help="images that chose or trained it, as test:5000:10000",
    ),
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
        """The settings; prints a note if they are not standard. Only CUDA rounds to TF32.

        Raises:
            UsageError: ``--version`` and ``--attacks`` contradict each other.
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
            click.echo(f"{settings.protocol}; leaderboards do not accept the result", err=True)
        return settings

    def _attacks(self, versions: Mapping[str, tuple[Plan, ...]]) -> Any:
        """The plans of the version, or the given names."""
        if self.attacks is not None:
            if self.version not in ("standard", "custom"):
                raise click.UsageError(f"--attacks and --version {self.version} differ; give one of the two")
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
        help="version of AutoAttack; plus has more attacks, rand is for randomized nets, custom runs --attacks",
    ),
    click.option("--attacks", default=None, metavar="NAMES", help="separated by commas; default the version's"),
    click.option("--iterations", type=int, default=None, help="gradient steps, for all attacks that have them"),
    click.option(
        "--targets", type=int, default=None, help="wrong classes to attack toward, for all attacks that have them"
    ),
    click.option("--restarts", type=int, default=None, help="random starts, for all attacks that have them"),
    click.option("--queries", type=int, default=None, help="queries of a random search"),
    click.option(
        "--eot", type=int, default=None, help="passes averaged in each gradient, for all attacks that have it"
    ),
    click.option(
        "--individual", is_flag=True, help="run each attack on all correctly classified images, not only on robust ones"
    ),
    click.option("--engine", default="fast", show_default=True, help="fast, or reference (pyautoattack)"),
    SEED,
    click.option(
        "--search-precision",
        default=None,
        help="of the search: float32, tf32 or bfloat16; default tf32 on CUDA, else float32. Verdicts use float32",
    ),
    CHANNELS_LAST,
    click.option("--batch-size", type=int, default=None, help="maximal points per pass; default what memory holds"),
    click.option(
        "--list-attacks", is_flag=True, expose_value=False, is_eager=True, callback=_show_attacks, help="and exit"
    ),
)
