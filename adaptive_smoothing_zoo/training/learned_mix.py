"""A mix of two given nets: its mixing network is trained by a recipe, and alpha is chosen on held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.storage.bound_state import remove_state
from adaptive_smoothing_zoo.storage.identity import tensor_bytes
from adaptive_smoothing_zoo.surroundings import own_surroundings
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.training.choose_alpha import CHOICE, Choice, Chosen, choose_alpha
from adaptive_smoothing_zoo.training.mixing_training import train_mixing_network
from adaptive_smoothing_zoo.training.recipe import TripletRecipe, find_recipe, read_recipe
from adaptive_smoothing_zoo.training.runs import Machine, seeded
from adaptive_smoothing_zoo.tuning.tune import Target
from adaptive_smoothing_zoo.zoo.building import build_alpha, build_map
from adaptive_smoothing_zoo.zoo.entry import AdaptiveAlphaConfig

STATE = "learning"  # subfolder for the training's checkpoints and log
DEFAULT_RECIPE = "cifar10_adaptive"


def mixing_recipe(
    dataset: str, threat: ThreatModel, name: str | None = None, changes: Sequence[str] = ()
) -> TripletRecipe:
    """The recipe for training a mixing network for given nets.

    Its alpha, logit maps, training and choice are used; its data, nets and entry are ignored.

    Args:
        threat: replaces the recipe's.
        name: see :func:`find_recipe`; default: the package's "<dataset>_adaptive", else ``DEFAULT_RECIPE``.
        changes: see :func:`read_recipe`.

    Raises:
        ConfigError: an unknown recipe, or one without a mixing network.
    """
    if name is None:
        name = f"{dataset}_adaptive"
        try:
            find_recipe(name)
        except ConfigError:
            name = DEFAULT_RECIPE
    ball = (f'eps="{threat.eps!r}"', f'threat_model="{threat.norm}"')
    recipe = read_recipe(name, (*changes, *ball))
    if not isinstance(recipe, TripletRecipe) or recipe.training is None:
        raise ConfigError(
            f"the recipe {name} trains no mixing network; asz recipes says what each recipe of the package trains"
        )
    return recipe


def choice_for(recipe: TripletRecipe, target: Target) -> Choice:
    """The recipe's choice of alpha, with ``target``, if given, in place of its own.

    Raises:
        ConfigError: neither has a target.
    """
    if target.clean is None and target.robust is None:
        if recipe.choice is None:
            raise ConfigError("the recipe has no choice of alpha; give a target, --clean or --robust")
        return recipe.choice
    rule, share = ("clean", target.clean) if target.clean is not None else ("robust", target.robust)
    assert share is not None
    wanted = {"rule": rule, "target": share, "relative": rule == "robust"}
    return Choice(**wanted) if recipe.choice is None else replace(recipe.choice, **wanted)  # type: ignore[arg-type]


def without(train: Examples, held: Examples) -> Examples:
    """The training examples without the images that are also held out, compared bit for bit.

    Raises:
        ConfigError: no image remains.
    """
    out = {tensor_bytes(image) for image in held.images}
    kept = torch.tensor([tensor_bytes(image) not in out for image in train.images], dtype=torch.bool)
    if not bool(kept.any()):
        raise ConfigError(f"all images of {train.source} are held out; choose other training images")
    if bool(kept.all()):
        return train
    source = f"{train.source}, without {int((~kept).sum())} that are held out"
    return Examples(images=train.images[kept], labels=train.labels[kept], source=source)


@own_surroundings()
def learn_mix(
    nets: tuple[nn.Module, nn.Module],
    recipe: TripletRecipe,
    choice: Choice,
    train: Examples,
    held: Examples,
    folder: Path,
    machine: Machine,
) -> tuple[MixedClassifier, Chosen]:
    """Train a mixing network for two nets and choose alpha; the same call resumes after any interruption.

    Args:
        nets: g and h, with timm's interface. They become part of the mix: their weights are not changed, but they are
            frozen, in eval mode, and end on the CPU.
        recipe, choice: see ``mixing_recipe`` and ``choice_for``.
        train, held: training examples, and held-out examples for choosing alpha.
        folder: folder for checkpoints.

    Returns:
        The mix with the chosen alpha, on the CPU, in eval mode and frozen; and what was chosen.

    Raises:
        ValueError: nets without feature maps, or a recipe that does not fit the data.
        TrainingError: no alpha reaches the target.
        ResultsError: the folder belongs to another training or choice.
    """
    assert recipe.training is not None
    assert isinstance(recipe.alpha, AdaptiveAlphaConfig)
    with seeded(recipe.training.seed):
        alpha = build_alpha(recipe.alpha, *nets)
    maps = {"std_map": build_map(recipe.std_map), "rob_map": build_map(recipe.rob_map)}
    mix = MixedClassifier(*nets, alpha, **maps).eval().requires_grad_(False)
    machine.on_stage(f"mixing network on {len(train)} examples ({train.source})")
    train_mixing_network(
        mix,
        train.images,
        train.labels,
        recipe.training,
        workers=machine.workers,
        folder=folder / STATE,
        checkpoint_seconds=machine.checkpoint_seconds,
        on_progress=machine.on_progress,
    )
    machine.on_stage(f"alpha on {len(held)} held-out examples ({held.source})")
    chosen = choose_alpha(
        mix,
        held.images,
        held.labels,
        choice,
        threat=recipe.threat,
        device=machine.workers.device,
        folder=folder,
        on_candidate=machine.on_candidate,
    )
    remove_state(folder / CHOICE)
    mix.alpha = chosen.candidate.alpha_like(mix.alpha)
    return mix.cpu().eval().requires_grad_(False), chosen
