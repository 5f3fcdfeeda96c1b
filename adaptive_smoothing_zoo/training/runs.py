"""Running a recipe: from data to weights in a folder; runs resume after any interruption.

A base net's folder gets ``model.safetensors`` and ``training.json``. A triplet's also gets ``config.json``, so that
``Triplet.from_pretrained`` reads it, and ``entry.json``, its entry for the zoo.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.data import Examples, find_data_set, load_data
from adaptive_smoothing_zoo.errors import ResultsError, TrainingError, reason
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.storage.bound_state import check_same, remove_state
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.training.base_nets import train_base_net
from adaptive_smoothing_zoo.training.choose_alpha import CHOICE, Chosen, OnCandidate, choose_alpha
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_SECONDS, forget, last_row
from adaptive_smoothing_zoo.training.loop import OnProgress, TrainingOptions
from adaptive_smoothing_zoo.training.mixing_training import train_mixing_network
from adaptive_smoothing_zoo.training.recipe import (
    BaseNetRecipe,
    NetRecipe,
    NetSource,
    PretrainedNet,
    Recipe,
    SmoothedNetRecipe,
    TrainedNet,
    TrainedSmoothedNet,
    TrainingData,
    TripletNet,
    TripletRecipe,
    find_recipe,
    read_recipe,
)
from adaptive_smoothing_zoo.training.smoothed import train_smoothed_net
from adaptive_smoothing_zoo.training.workers import Workers
from adaptive_smoothing_zoo.zoo.building import entry_of
from adaptive_smoothing_zoo.zoo.embedding import rounded_to_half
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, Entry, entry_to_text
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS, load_base_net
from adaptive_smoothing_zoo.zoo.triplet import Triplet
from adaptive_smoothing_zoo.zoo.weights import WEIGHTS_FILE, load_strictly, read_safetensors, write_safetensors

RECIPE_FILE, RECORD_FILE, ENTRY_FILE = "recipe.json", "training.json", "entry.json"

FORMER_LOSSES: dict[str, dict[str, Any]] = {
    "smoothadv": {"search": "pgd"},
    "smoothmix": {"max_norm": None, "printed": False},
}
"""Settings of losses, by kind, that recipes of earlier versions did not have, with the values these versions used."""

R = TypeVar("R", bound=BaseNetRecipe | SmoothedNetRecipe | TripletRecipe)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a recipe runs, and who is told of progress. Recipes contain nothing of this."""

    workers: Workers = field(default_factory=lambda: Workers(torch.device("cpu")))
    data_dir: str | None = None  # as in load_data
    checkpoint_seconds: float = CHECKPOINT_SECONDS  # between two checkpoints
    about: Mapping[str, Any] = field(default_factory=dict)  # software and machine, for records; JSON values
    on_stage: Callable[[str], object] = lambda what: None  # called with a description of each stage that begins
    on_progress: OnProgress | None = None  # called after each round
    on_candidate: OnCandidate = lambda candidate, clean, robust: None  # called for every attacked candidate for alpha


@own_surroundings()
def run_recipe(recipe: Recipe, out: Path, machine: Machine, *, beside: Path = Path()) -> nn.Module:
    """Run a recipe, or what is left of it.

    Args:
        out: folder of the results.
        beside: folder of the recipe. Recipes that it names are searched there first, then in the package; their results
            go next to ``out``.

    Returns:
        The base net or the :class:`Triplet`, on the CPU, in eval mode and frozen.

    Raises:
        ConfigError: a named recipe or entry does not exist or is invalid.
        ResultsError: the folder belongs to another recipe, or a file in it is damaged.
        TrainingError: a loss or a weight is not finite, or no candidate for alpha reaches the target.
        ValueError: invalid data, or settings that do not fit the data.
    """
    net: nn.Module = job_of(recipe, out, machine, beside).run()
    return net


def job_of(recipe: Recipe, out: Path, machine: Machine, beside: Path) -> NetJob | TripletJob:
    """The job that runs a recipe; for the arguments see ``run_recipe``."""
    if isinstance(recipe, TripletRecipe):
        return TripletJob(recipe, out, machine, beside)
    return NetJob(recipe, out, machine, beside)


@dataclass(frozen=True)
class Job(ABC, Generic[R]):
    """A recipe with its folders and machine; see ``run_recipe``."""

    recipe: R
    out: Path
    machine: Machine
    beside: Path

    def run(self) -> Any:
        """The result: read if the job is finished, else made."""
        if self.machine.workers.is_first:
            self.check_folder()
            if not (self.out / RECIPE_FILE).exists():
                write_text(self.out / RECIPE_FILE, json.dumps(to_json(self.recipe), indent=2) + "\n")
        return self._read() if self.machine.workers.from_first(self.is_finished) else self._make()

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds the finished result."""
        return (self.out / RECORD_FILE).is_file()

    def check_folder(self) -> None:
        """Raise ResultsError if the folder is another recipe's."""
        path = self.out / RECIPE_FILE
        if not path.exists():
            return
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ResultsError(f"{path} is damaged ({error}); --out names another folder") from error
        if isinstance(theirs, dict) and theirs.get("kind") != "triplet" and isinstance(theirs.get("training"), dict):
            theirs["training"].setdefault("momentum", "nesterov")  # the only momentum of earlier versions
            if isinstance(loss := theirs["training"].get("loss"), dict):
                theirs["training"]["loss"] = FORMER_LOSSES.get(str(loss.get("kind")), {}) | loss
        try:
            check_same({"recipe": theirs}, {"recipe": to_json(self.recipe)}, self.out)
        except ResultsError as error:
            raise ResultsError(f"{self.out} belongs to another recipe: {error}; --out names another folder") from None

    def examples(self) -> tuple[Examples, Examples | None]:
        """The examples to learn from, and those held out; see ``training_examples``."""
        return training_examples(self.recipe.data, self.machine.data_dir)

    @cached_property
    def rounds(self) -> int:
        """Number of rounds of its training; 0 without one."""
        training, (examples, _) = self.recipe.training, self.examples()
        return 0 if training is None else training.epochs * (len(examples) // training.batch_size)

    @abstractmethod
    def train_anew(self, on_progress: OnProgress) -> object:
        """Train from the initial weights without saving anything, to time a round."""

    @abstractmethod
    def _read(self) -> Any: ...

    @abstractmethod
    def _make(self) -> Any: ...

    def _options(self) -> TrainingOptions:
        machine = self.machine
        return {
            "workers": machine.workers,
            "folder": self.out,
            "checkpoint_seconds": machine.checkpoint_seconds,
            "on_progress": machine.on_progress,
        }

    def _finish(self, started: float, found: Mapping[str, Any]) -> None:
        """Write the record, which marks the job as finished, then delete the checkpoint."""
        training = self.recipe.training
        if training is not None:
            found = {**found, "optimization": asdict(training.optimization)}
        about = {"last_round": last_row(self.out), "processes": self.machine.workers.size}
        record = {**found, **about, "seconds": round(time.monotonic() - started, 1), **self.machine.about}
        write_text(self.out / RECORD_FILE, json.dumps(record, indent=2) + "\n")
        forget(self.out)


class NetJob(Job[NetRecipe]):
    """The job of a base net's recipe."""

    def new_net(self) -> nn.Module:
        """The net with its initial weights."""
        net, classes = self.recipe.net, find_data_set(self.recipe.data.dataset).num_classes
        with seeded(self.recipe.training.seed):
            return build(net.architecture, num_classes=classes, **net.arguments)

    def train_anew(self, on_progress: OnProgress) -> object:
        return self._train(self.examples()[0], workers=self.machine.workers, on_progress=on_progress)

    def _train(self, examples: Examples, **options: Unpack[TrainingOptions]) -> nn.Module:
        data = self.new_net(), examples.images, examples.labels
        if isinstance(self.recipe, SmoothedNetRecipe):
            return train_smoothed_net(*data, self.recipe.training, **options)
        return train_base_net(*data, self.recipe.training, **options)

    def _read(self) -> nn.Module:
        net, path = self.new_net(), self.out / RECORD_FILE
        try:
            sha256 = json.loads(path.read_text(encoding="utf-8"))["weights_sha256"]
        except (ValueError, LookupError, TypeError) as error:
            raise ResultsError(f"{path} is damaged ({reason(error)}); delete it to train again") from error
        load_strictly(net, read_safetensors(self.out / WEIGHTS_FILE, sha256), self.recipe.net.architecture)
        return net.eval().requires_grad_(False)

    def _make(self) -> nn.Module:
        examples, _ = self.examples()
        self.machine.on_stage(f"{self.recipe.net.architecture} on {len(examples)} examples ({examples.source})")
        started = time.monotonic()
        net = self._train(examples, **self._options()).requires_grad_(False)
        if self.machine.workers.is_first:
            sha256 = write_safetensors(self.out / WEIGHTS_FILE, net.state_dict())
            self._finish(started, {"examples": len(examples), "data": examples.source, "weights_sha256": sha256})
        self.machine.workers.wait()
        return net.cpu().to(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class BaseNet:
    """g or h of a triplet."""

    config: BaseNetConfig  # its description in an entry; its weights need not exist yet
    load: Callable[[], nn.Module]  # returns the net on the CPU, trained first if it must be
    what: str = ""  # its source, in words
    job: NetJob | None = None  # the job that trains it, if any


class TripletJob(Job[TripletRecipe]):
    """The job of a triplet's recipe."""

    def base_net(self, source: NetSource) -> BaseNet:
        """The net that a recipe's ``std_model`` or ``rob_model`` names.

        Raises:
            ConfigError: a named recipe, entry or net does not exist.
            ValueError: a named recipe trains another kind of net, or with other data.
        """
        dataset, threat_model = self.recipe.data.dataset, self.recipe.threat_model
        if isinstance(source, PretrainedNet):
            known, name = BASE_NETS[source.name], source.name
            arguments = {key: value for key, value in known.arguments.items() if key != "num_classes"}
            config = BaseNetConfig(architecture=known.architecture, arguments=arguments, pretrained=name)
            return BaseNet(config, lambda: load_base_net(name), f"{known.architecture}, shipped ({name})")
        if isinstance(source, TripletNet):
            key = {"dataset": dataset, "threat_model": source.threat_model or threat_model}
            return BaseNet(
                getattr(find_entry(source.name, **key), source.part),
                lambda: getattr(load_model(source.name, **key), source.part),  # type: ignore[arg-type]
                f"{source.part} of {source.name}",
            )
        job = self._job_of(source)
        if not (isinstance(source, TrainedSmoothedNet) and isinstance(job.recipe, SmoothedNetRecipe)):
            return BaseNet(job.recipe.net, job.run, job=job)
        smoothing: dict[str, Any] = {
            "sigma": job.recipe.training.sigma,
            "image_shape": list(find_data_set(dataset).image_shape),
            "num_noises": source.num_noises,
            "votes": source.votes,
            "logit_scale": source.logit_scale,
        }
        base = {"architecture": job.recipe.net.architecture, "arguments": job.recipe.net.arguments}
        config = BaseNetConfig(architecture="gaussian_smoothed", arguments={"base": base, **smoothing})
        return BaseNet(config, lambda: GaussianSmoothed(job.run(), **smoothing), job=job)

    def _job_of(self, source: TrainedNet | TrainedSmoothedNet) -> NetJob:
        """The job that trains a net, in a folder next to this one's."""
        path = find_recipe(source.recipe, self.beside)
        recipe = read_recipe(path)
        wanted = BaseNetRecipe if isinstance(source, TrainedNet) else SmoothedNetRecipe
        if not isinstance(recipe, wanted):
            raise ValueError(f"{path} is not the recipe of a {'base' if wanted is BaseNetRecipe else 'smoothed'} net")
        if replace(recipe.data, learn_every=1) != replace(self.recipe.data, learn_every=1):
            raise ValueError(
                f"{path} has other data ({recipe.data}) than the triplet ({self.recipe.data}); both must hold out the "
                "same examples"
            )
        return NetJob(recipe, self.out.parent / path.name.removesuffix(".toml"), self.machine, path.parent)

    def new_triplet(self) -> Triplet:
        """The triplet: g and h with random weights, the mixing network with its initial ones."""
        recipe, training = self.recipe, self.recipe.training
        std_model, rob_model = (self.base_net(source).config for source in (recipe.std_model, recipe.rob_model))
        passes = (net.arguments.get("num_noises", 1) for net in (std_model, rob_model))
        entry = Entry(
            **vars(recipe.entry),
            dataset=recipe.data.dataset,
            threat_model=recipe.threat_model,
            eps=recipe.eps,
            num_classes=find_data_set(recipe.data.dataset).num_classes,
            image_shape=find_data_set(recipe.data.dataset).image_shape,
            std_model=std_model,
            rob_model=rob_model,
            alpha=recipe.alpha,
            std_map=recipe.std_map,
            rob_map=recipe.rob_map,
            number_forward_passes=sum(map(int, passes)),
        )
        with seeded(0 if training is None else training.seed):
            return Triplet(entry)

    def train_anew(self, on_progress: OnProgress) -> object:
        triplet = self.new_triplet().to(self.machine.workers.device).eval()
        return self._train(triplet, self.examples()[0], workers=self.machine.workers, on_progress=on_progress)

    def _train(self, triplet: Triplet, examples: Examples, **options: Unpack[TrainingOptions]) -> MixedClassifier:
        assert self.recipe.training is not None
        return train_mixing_network(triplet, examples.images, examples.labels, self.recipe.training, **options)

    def _read(self) -> Triplet:
        return Triplet.from_pretrained(self.out)

    def _make(self) -> Triplet:
        recipe, machine = self.recipe, self.machine
        triplet = self._with_base_nets()
        train, held = self.examples()
        started = time.monotonic()
        found: dict[str, Any] = {"examples": len(train), "data": train.source}
        sentences = [recipe.entry.training] if recipe.entry.training else []
        if recipe.training is not None:
            machine.on_stage(f"mixing network on {len(train)} examples ({train.source})")
            self._train(triplet, train, **self._options())
            if recipe.half:
                round_to_half(triplet.alpha)
            sentences.append(self._how_trained(train))
        if recipe.choice is not None:
            assert held is not None  # the recipe refuses a choice without held-out examples
            machine.on_stage(f"alpha on {len(held)} held-out examples ({held.source})")
            chosen = self._choose(triplet, held)
            found |= {"held_out": held.source, "chosen": to_json(chosen)}
            triplet.alpha = chosen.candidate.alpha_like(triplet.alpha)
            sentences.append(self._how_chosen(held, chosen))
        triplet.entry = replace(entry_of(triplet, triplet.entry), training=" ".join(sentences))
        triplet = triplet.cpu()
        if machine.workers.is_first:
            triplet.save_pretrained(self.out)
            write_text(self.out / ENTRY_FILE, entry_to_text(triplet.entry))
            self._finish(started, found)
            if recipe.choice is not None:
                remove_state(self.out / CHOICE)
        machine.workers.wait()
        return triplet

    def _with_base_nets(self) -> Triplet:
        """The triplet with its base nets' weights, frozen, on the device, before alpha is learned."""
        sources = {"std_model": self.recipe.std_model, "rob_model": self.recipe.rob_model}
        states = {name: self.base_net(source).load().state_dict() for name, source in sources.items()}
        triplet = self.new_triplet()
        for name, state in states.items():
            load_strictly(getattr(triplet, name), state, name)
        triplet = triplet.to(self.machine.workers.device).eval().requires_grad_(False)
        for name in states:
            if self.recipe.half and getattr(triplet.entry, name).pretrained is None:  # shipped weights stay as they are
                round_to_half(getattr(triplet, name))
        return triplet

    def _choose(self, triplet: Triplet, held: Examples) -> Chosen:
        """The choice of alpha, made by the first process while the others wait."""
        workers, found = self.machine.workers, None
        if workers.is_first:
            assert self.recipe.choice is not None
            found = choose_alpha(
                triplet,
                held.images,
                held.labels,
                self.recipe.choice,
                threat=self.recipe.threat,
                device=workers.device,
                folder=self.out,
                on_candidate=self.machine.on_candidate,
            )
        chosen = workers.from_first(found)
        assert chosen is not None
        return chosen

    def _how_trained(self, train: Examples) -> str:
        """How the mixing network was trained, for the entry."""
        assert self.recipe.training is not None
        attack, loss = self.recipe.training.attack, self.recipe.training.loss
        constants = f"c_CE {loss.c_ce:g}, c_BCE {loss.c_bce:g}, c_prod {loss.c_prod:g}"
        return (
            f"Mixing network: {self.recipe.training.in_epochs()} on {len(train)} examples ({train.source}), attacked "
            f"in setting {attack.setting}; loss constants {constants}."
        )

    def _how_chosen(self, held: Examples, chosen: Chosen) -> str:
        """How alpha's numbers were chosen, for the entry."""
        assert self.recipe.choice is not None
        choice = self.recipe.choice
        best = {"clean": "the most robust one", "robust": "the most accurate one"}[choice.rule]
        robust = f"{100 * chosen.robust:.2f} % under {', '.join(choice.attacks)} (n = {chosen.robust_examples})"
        return (
            f"alpha: {best} whose {choice.rule} accuracy on held-out examples ({held.source}) is at least "
            f"{100 * chosen.target:.2f} %; there it has {100 * chosen.clean:.2f} % clean (n = {chosen.clean_examples})"
            f"{f' and {robust}' if choice.attacks else ''}."
        )


def training_examples(data: TrainingData, data_dir: str | None = None) -> tuple[Examples, Examples | None]:
    """The examples to learn from, and those held out for the choice of alpha (None without any)."""
    examples, held = load_data(data.dataset, "train", data_dir=data_dir), None
    if data.dataset == "digits":
        held = load_data("digits", "validation")
    elif data.hold_out_every:
        out, every = torch.arange(len(examples)) % data.hold_out_every == 0, f"every {_ordinal(data.hold_out_every)}"
        examples, held = _some(examples, ~out, f"without {every}"), _some(examples, out, f"{every} alone")
    if data.learn_every > 1:
        kept = torch.arange(len(examples)) % data.learn_every == 0
        examples = _some(examples, kept, f"of these every {_ordinal(data.learn_every)}")
    return examples, held


def _ordinal(number: int) -> str:
    """2nd, 3rd, 4th, ..., 11th, ..., 21st."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _some(examples: Examples, chosen: Tensor, which: str) -> Examples:
    source = f"{examples.source}, {which}"
    return Examples(images=examples.images[chosen], labels=examples.labels[chosen], source=source)


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round all weights and statistics to half precision, in place; they stay float32.

    Raises:
        TrainingError: one is too large for it.
    """
    for name, value in module.state_dict().items():
        rounded = rounded_to_half(value)
        if not bool(rounded.isfinite().all()):
            raise TrainingError(f"{name} has values that half precision cannot hold")
        value.copy_(rounded)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block, seed torch's random numbers on the CPU; afterwards their state is restored."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield
