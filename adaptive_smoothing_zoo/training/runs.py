"""Carrying out a recipe: from data to weights in a folder; runs resume after any interruption.

The folder of a base net gets ``model.safetensors`` and ``training.json``. That of a triplet gets ``config.json`` as
well, so that ``Triplet.from_pretrained`` reads it, and ``entry.json``, the entry as the zoo would have it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.data import IMAGE_SHAPE, NUM_CLASSES, Examples, load_data
from adaptive_smoothing_zoo.errors import ResultsError, TrainingError
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.training.adversarial import train_base_net
from adaptive_smoothing_zoo.training.choose_alpha import Candidate, Chosen, OnCandidate, choose_alpha
from adaptive_smoothing_zoo.training.keeping import CHECKPOINT_FILE, CHECKPOINT_SECONDS, difference, read_log
from adaptive_smoothing_zoo.training.loop import OnProgress
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
from adaptive_smoothing_zoo.training.single_net import TrainingOptions
from adaptive_smoothing_zoo.training.smoothed import train_smoothed_net
from adaptive_smoothing_zoo.training.workers import Workers
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    BaseNetConfig,
    ConstantAlphaConfig,
    Entry,
    Weights,
    entry_to_text,
    read_entry,
)
from adaptive_smoothing_zoo.zoo.loading import load_model
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS, load_base_net
from adaptive_smoothing_zoo.zoo.triplet import Triplet
from adaptive_smoothing_zoo.zoo.weights import WEIGHTS_FILE, load_strictly, read_safetensors, write_safetensors

RECIPE_FILE, RECORD_FILE, ENTRY_FILE = "recipe.json", "training.json", "entry.json"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a recipe is carried out. Nothing of it is in the recipe.

    Attributes:
        workers: the processes and their device.
        data_dir: as in ``load_data``.
        checkpoint_seconds: time between two checkpoints.
        about: what the records shall say of software and machine. JSON values.
        on_stage: told, in words, what begins.
        on_progress: told of every finished round.
        on_candidate: told of every candidate for alpha that was attacked.
    """

    workers: Workers = field(default_factory=lambda: Workers(torch.device("cpu")))
    data_dir: str | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    about: Mapping[str, Any] = field(default_factory=dict)
    on_stage: Callable[[str], object] = lambda what: None
    on_progress: OnProgress | None = None
    on_candidate: OnCandidate | None = None


@own_surroundings()
def run_recipe(recipe: Recipe, out: Path, machine: Machine, *, beside: Path = Path()) -> nn.Module:
    """Carry out a recipe, or what is left of it.

    Args:
        out: folder of the results.
        beside: folder of the recipe, where recipes that it names are looked for first (then in the package); their
            results go next to ``out``.

    Returns:
        The base net or the :class:`Triplet`, in eval mode and frozen.

    Raises:
        ConfigError: a recipe that is named, or an entry, is not one.
        ResultsError: the folder belongs to another recipe.
        TrainingError: a loss is not finite, or no candidate for alpha reaches the target.
        ValueError: data that do not fit, or settings that do not fit the data.
    """
    with _owned(out, recipe, machine.workers) as finished:
        if isinstance(recipe, NetRecipe):
            return _read_net(out, recipe) if finished else _make_net(recipe, out, machine)
        return Triplet.from_pretrained(out) if finished else _make_triplet(recipe, out, machine, beside)


def embed(out: Path, package: Path, limits: tuple[str, ...] = ()) -> Entry:
    """Put a finished triplet into the package: its weights, in half precision if they are rounded to it, and its entry.

    Weights that a dependency ships are left out.

    Args:
        out: folder of a finished run.
        package: folder that has ``pretrained`` and ``zoo/entries``.
        limits: what the entry shall say beside the recipe's own limits; of the images that were at hand, for one.

    Raises:
        ResultsError: the folder holds no finished triplet.
    """
    if not (out / ENTRY_FILE).is_file():
        raise ResultsError(f"{out} holds no finished triplet: there is no {ENTRY_FILE}; run asz train first")
    entry = read_entry(out / ENTRY_FILE)
    shipped = tuple(f"{part}." for part in ("std_model", "rob_model") if getattr(entry, part).pretrained is not None)
    state = {k: v for k, v in read_safetensors(out / WEIGHTS_FILE).items() if not k.startswith(shipped)}
    if all(torch.equal(value, _rounded(value)) for value in state.values()):
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    file = f"{entry.key}.safetensors"
    sha256 = write_safetensors(package / "pretrained" / file, state)
    entry = replace(entry, weights=Weights(embedded=file, sha256=sha256), limits=(*entry.limits, *limits))
    path = package / "zoo" / "entries" / entry.dataset / entry.threat_model / f"{entry.name}.json"
    write_text(path, entry_to_text(entry))
    return entry


def training_examples(data: TrainingData, data_dir: str | None = None) -> tuple[Examples, Examples | None]:
    """The examples to learn from, and those held out for the choice of alpha (None if there are none)."""
    examples = load_data(data.dataset, "train", data_dir=data_dir)
    if data.dataset == "digits":
        return _thinned(examples, data.learn_every), load_data("digits", "validation")
    if not data.hold_out_every:
        return _thinned(examples, data.learn_every), None
    held = torch.arange(len(examples)) % data.hold_out_every == 0
    every = f"every {data.hold_out_every}th"
    others = _some(examples, ~held, f"without {every}")
    return _thinned(others, data.learn_every), _some(examples, held, f"{every} alone")


def _thinned(examples: Examples, every: int) -> Examples:
    if every == 1:
        return examples
    return _some(examples, torch.arange(len(examples)) % every == 0, f"of these every {every}th")


def _some(examples: Examples, chosen: Tensor, which: str) -> Examples:
    source = f"{examples.source}, {which}"
    return Examples(images=examples.images[chosen], labels=examples.labels[chosen], source=source)


@contextmanager
def _owned(out: Path, recipe: Recipe, workers: Workers) -> Iterator[bool]:
    """Check that a folder is this recipe's, or make it so; yields whether the run is finished.

    Raises:
        ResultsError: it is another recipe's.
    """
    if workers.is_first:
        check_folder(out, recipe)
        if not (out / RECIPE_FILE).exists():
            write_text(out / RECIPE_FILE, json.dumps(to_json(recipe), indent=2) + "\n")
    yield workers.from_first((out / RECORD_FILE).is_file())


def check_folder(out: Path, recipe: Recipe) -> None:
    """Raise ResultsError if a folder is another recipe's."""
    path, mine = out / RECIPE_FILE, json.loads(json.dumps(to_json(recipe)))
    if not path.exists():
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path} is damaged ({error}); choose another folder") from error
    if isinstance(theirs, dict) and theirs.get("kind") != "triplet" and isinstance(theirs.get("training"), dict):
        theirs["training"].setdefault("momentum", "nesterov")  # what it was before there was a choice
    if theirs != mine:
        raise ResultsError(
            f"{out} belongs to another recipe: its {difference('recipe', theirs, mine)}. Choose another folder "
            "with --out, or delete this one to begin again"
        )


def _make_net(recipe: NetRecipe, out: Path, machine: Machine) -> nn.Module:
    examples, _ = training_examples(recipe.data, machine.data_dir)
    machine.on_stage(f"{recipe.net.architecture} on {len(examples)} examples ({examples.source})")
    started = time.monotonic()
    net = _train(recipe, examples, out, machine).requires_grad_(False)
    if machine.workers.is_first:
        sha256 = write_safetensors(out / WEIGHTS_FILE, net.state_dict())
        found = {"examples": len(examples), "data": examples.source, "weights_sha256": sha256}
        _finish(out, machine, started, found | {"optimization": asdict(recipe.training.optimization)})
    machine.workers.wait()
    return net.cpu().to(memory_format=torch.contiguous_format)


def _train(recipe: NetRecipe, examples: Examples, out: Path, machine: Machine) -> nn.Module:
    return train_net_of(
        recipe,
        examples,
        workers=machine.workers,
        folder=out,
        checkpoint_seconds=machine.checkpoint_seconds,
        on_progress=machine.on_progress,
    )


def train_net_of(recipe: NetRecipe, examples: Examples, **options: Unpack[TrainingOptions]) -> nn.Module:
    """Train a recipe's net from its first weights."""
    data = _new_net(recipe), examples.images, examples.labels
    if isinstance(recipe, SmoothedNetRecipe):
        return train_smoothed_net(*data, recipe.training, **options)
    return train_base_net(*data, recipe.training, **options)


def _read_net(out: Path, recipe: NetRecipe) -> nn.Module:
    net = _new_net(recipe)
    sha256 = json.loads((out / RECORD_FILE).read_text(encoding="utf-8"))["weights_sha256"]
    load_strictly(net, read_safetensors(out / WEIGHTS_FILE, sha256), recipe.net.architecture)
    return net.eval().requires_grad_(False)


def _new_net(recipe: NetRecipe) -> nn.Module:
    with _seeded(recipe.training.seed):
        return build(recipe.net.architecture, num_classes=NUM_CLASSES[recipe.data.dataset], **recipe.net.arguments)


def _make_triplet(recipe: TripletRecipe, out: Path, machine: Machine, beside: Path) -> Triplet:
    std_model = _find_net(recipe.std_model, recipe, out, machine, beside)
    rob_model = _find_net(recipe.rob_model, recipe, out, machine, beside)
    triplet = new_triplet(recipe, beside)
    std_config, rob_config = triplet.entry.std_model, triplet.entry.rob_model
    load_strictly(triplet.std_model, std_model.state_dict(), "std_model")
    load_strictly(triplet.rob_model, rob_model.state_dict(), "rob_model")
    triplet = triplet.to(machine.workers.device).eval().requires_grad_(False)
    for net, config in ((triplet.std_model, std_config), (triplet.rob_model, rob_config)):
        if recipe.half and config.pretrained is None:  # what a dependency ships is loaded as it is
            round_to_half(net)
    train, held = training_examples(recipe.data, machine.data_dir)
    started = time.monotonic()
    found: dict[str, Any] = {"examples": len(train), "data": train.source}
    if recipe.training is not None:
        found["optimization"] = asdict(recipe.training.optimization)
        machine.on_stage(f"mixing network on {len(train)} examples ({train.source})")
        train_mixing_network(
            triplet,
            train.images,
            train.labels,
            recipe.training,
            workers=machine.workers,
            folder=out,
            checkpoint_seconds=machine.checkpoint_seconds,
            on_progress=machine.on_progress,
        )
        if recipe.half:
            round_to_half(triplet.alpha)
    chosen = None
    if recipe.choice is not None:
        if held is None:
            raise ValueError("a choice of alpha needs held-out examples; give data.hold_out_every in the recipe")
        machine.on_stage(f"alpha on {len(held)} held-out examples ({held.source})")
        chosen = machine.workers.from_first(_choose(recipe, triplet, held, out, machine))
        assert chosen is not None
        found |= {"held_out": held.source, "chosen": to_json(chosen)}
        _apply(triplet, chosen.candidate)
    triplet.entry = _entry(recipe, std_config, rob_config, triplet, _how(recipe, train, held, chosen))
    triplet = triplet.cpu()
    if machine.workers.is_first:
        triplet.save_pretrained(out)
        write_text(out / ENTRY_FILE, entry_to_text(triplet.entry))
        _finish(out, machine, started, found)
    machine.workers.wait()
    return triplet


def _choose(recipe: TripletRecipe, triplet: Triplet, held: Examples, out: Path, machine: Machine) -> Chosen | None:
    """In the first process; the others wait."""
    if recipe.choice is None or not machine.workers.is_first:
        return None
    return choose_alpha(
        triplet,
        held.images,
        held.labels,
        recipe.choice,
        eps=triplet.entry.eps_value,
        norm=recipe.threat_model,
        device=machine.workers.device,
        folder=out,
        on_candidate=machine.on_candidate,
    )


def _apply(triplet: Triplet, candidate: Candidate) -> None:
    """Give a triplet's alpha the chosen numbers."""
    triplet.alpha = candidate.applied_to(triplet).alpha


def new_triplet(recipe: TripletRecipe, beside: Path) -> Triplet:
    """A recipe's triplet: g and h with any weights, the mixing network with its first ones."""
    std_config, rob_config = (net_config(source, recipe, beside) for source in (recipe.std_model, recipe.rob_model))
    with _seeded(0 if recipe.training is None else recipe.training.seed):
        return Triplet(_entry(recipe, std_config, rob_config))


def net_config(source: NetSource, recipe: TripletRecipe, beside: Path) -> BaseNetConfig:
    """What an entry says of a base net; its weights need not exist."""
    if isinstance(source, PretrainedNet):
        known = BASE_NETS[source.name]
        arguments = {key: value for key, value in known.arguments.items() if key != "num_classes"}
        return BaseNetConfig(architecture=known.architecture, arguments=arguments, pretrained=source.name)
    if isinstance(source, TripletNet):
        threat_model = source.threat_model or recipe.threat_model
        entry = find_entry(source.name, recipe.data.dataset, threat_model)
        config: BaseNetConfig = getattr(entry, source.part)
        return config
    _, other = recipe_of(source, recipe, beside)
    if isinstance(source, TrainedSmoothedNet) and isinstance(other, SmoothedNetRecipe):
        base = {"architecture": other.net.architecture, "arguments": other.net.arguments}
        arguments = {"base": base, **_smoothing(other, source)}
        return BaseNetConfig(architecture="gaussian_smoothed", arguments=arguments)
    return other.net


def recipe_of(source: TrainedNet | TrainedSmoothedNet, recipe: TripletRecipe, beside: Path) -> tuple[Path, NetRecipe]:
    """The recipe that trains a net, and its file.

    Raises:
        ConfigError: there is none.
        ValueError: it trains another kind of net, or with other data.
    """
    path = find_recipe(source.recipe, beside)
    other = read_recipe(path)
    wanted = BaseNetRecipe if isinstance(source, TrainedNet) else SmoothedNetRecipe
    if not isinstance(other, wanted):
        raise ValueError(f"{path} is not the recipe of a {'base' if wanted is BaseNetRecipe else 'smoothed'} net")
    if replace(other.data, learn_every=1) != replace(recipe.data, learn_every=1):
        raise ValueError(
            f"{path} has other data ({other.data}) than the triplet ({recipe.data}); what is held out must be held "
            "out from both"
        )
    return path, other


def _find_net(source: NetSource, recipe: TripletRecipe, out: Path, machine: Machine, beside: Path) -> nn.Module:
    """A base net on the CPU, trained first if it must be."""
    if isinstance(source, PretrainedNet):
        return load_base_net(source.name)
    if isinstance(source, TripletNet):
        threat_model = source.threat_model or recipe.threat_model
        triplet = load_model(source.name, dataset=recipe.data.dataset, threat_model=threat_model)
        net: nn.Module = getattr(triplet, source.part)
        return net
    path, other = recipe_of(source, recipe, beside)
    net = run_recipe(other, folder_of(path, out), machine, beside=path.parent)
    if isinstance(source, TrainedSmoothedNet) and isinstance(other, SmoothedNetRecipe):
        return GaussianSmoothed(net, **_smoothing(other, source)).eval().requires_grad_(False)
    return net


def folder_of(path: Path, out: Path) -> Path:
    """Where the results of a recipe go that another one names, whose results go to ``out``."""
    return out.parent / path.name.removesuffix(".toml")


def _smoothing(recipe: SmoothedNetRecipe, source: TrainedSmoothedNet) -> dict[str, Any]:
    """How a net that was trained for it is smoothed."""
    return {
        "sigma": recipe.training.sigma,
        "image_shape": list(IMAGE_SHAPE[recipe.data.dataset]),
        "num_noises": source.num_noises,
        "votes": source.votes,
        "logit_scale": source.logit_scale,
    }


def _entry(
    recipe: TripletRecipe,
    std_model: BaseNetConfig,
    rob_model: BaseNetConfig,
    triplet: Triplet | None = None,
    training: str = "",
) -> Entry:
    """The entry; with the numbers of a triplet's alpha if one is given."""
    alpha: ConstantAlphaConfig | AdaptiveAlphaConfig = recipe.alpha
    if triplet is not None:
        numbers: dict[str, Any] = triplet.alpha.numbers()
        alpha = replace(alpha, **numbers)
    text = recipe.entry
    return Entry(
        name=text.name,
        dataset=recipe.data.dataset,
        threat_model=recipe.threat_model,
        eps=recipe.eps,
        description=text.description,
        num_classes=NUM_CLASSES[recipe.data.dataset],
        image_shape=IMAGE_SHAPE[recipe.data.dataset],
        std_model=std_model,
        rob_model=rob_model,
        alpha=alpha,
        std_map=recipe.std_map,
        rob_map=recipe.rob_map,
        paper=text.paper,
        architecture=text.architecture,
        additional_data=text.additional_data,
        number_forward_passes=_passes(std_model) + _passes(rob_model),
        footnote=text.footnote,
        training=training,
        limits=text.limits,
    )


def _passes(net: BaseNetConfig) -> int:
    """How many passes of a net one answer takes."""
    return int(net.arguments["num_noises"]) if net.architecture == "gaussian_smoothed" else 1


def _how(recipe: TripletRecipe, train: Examples, held: Examples | None, chosen: Chosen | None) -> str:
    """How the weights and numbers came to be, in words."""
    sentences = [recipe.entry.training] if recipe.entry.training else []
    if recipe.training is not None:
        attack, loss = recipe.training.attack, recipe.training.loss
        epochs = f"{recipe.training.epochs} epoch{'s' if recipe.training.epochs > 1 else ''}"
        constants = f"c_CE {loss.c_ce:g}, c_BCE {loss.c_bce:g}, c_prod {loss.c_prod:g}"
        sentences.append(
            f"Mixing network: {epochs} on {len(train)} examples ({train.source}), attacked in "
            f"setting {attack.setting}; loss constants {constants}."
        )
    if chosen is not None and held is not None and recipe.choice is not None:
        rule = {"clean": "the most robust one", "robust": "the most accurate one"}[recipe.choice.rule]
        sentences.append(
            f"alpha: {rule} whose {recipe.choice.rule} accuracy on held-out examples ({held.source}) is at least "
            f"{100 * chosen.target:.2f} %; there it has {100 * chosen.clean:.2f} % clean (n = {chosen.clean_examples}) "
            f"and {100 * chosen.robust:.2f} % under {', '.join(recipe.choice.attacks)} (n = {chosen.robust_examples})."
        )
    return " ".join(sentences)


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round all weights and statistics to half precision, in place; they stay float32.

    Raises:
        TrainingError: one is too large for it.
    """
    for name, value in module.state_dict().items():
        rounded = _rounded(value)
        if not bool(rounded.isfinite().all()):
            raise TrainingError(f"{name} has values that half precision cannot hold")
        value.copy_(rounded)


def _rounded(value: Tensor) -> Tensor:
    return value.half().to(value.dtype) if value.is_floating_point() else value


def _finish(out: Path, machine: Machine, started: float, found: Mapping[str, Any]) -> None:
    """Write the record, by whose presence a run is known to be finished, and drop the checkpoint."""
    log = read_log(out)[-1] if (out / CHECKPOINT_FILE).exists() else {}
    seconds = round(time.monotonic() - started, 1)
    record = {**found, "last_round": log, "processes": machine.workers.size, "seconds": seconds, **machine.about}
    write_text(out / RECORD_FILE, json.dumps(record, indent=2) + "\n")
    (out / CHECKPOINT_FILE).unlink(missing_ok=True)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from a seed, within the block."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield
