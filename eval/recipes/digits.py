"""Make the two digits triplets that the package embeds, from nothing, in a few minutes on 2 cores.

    python eval/recipes/digits.py [--out DIR] [--choose-only]

Trains g (standard), h (PGD adversarial training) and the mixing network on the training split, chooses alpha (its
constant, or its range, scale and bias) on the validation split, and writes weights to ``DIR/pretrained`` and entries to
``DIR/zoo/entries/digits/Linf``. DIR defaults to the package itself. The test split is not read here. ``--choose-only``
takes the nets that the package embeds and chooses alpha again.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path

import click
import torch
from demo_paper import PAPER
from torch import Tensor, nn

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo import AdaptiveAlpha, MixedClassifier, MixingNetwork, load_model
from adaptive_smoothing_zoo.attacks.pgd import cross_entropy, pgd
from adaptive_smoothing_zoo.attacks.randomized import Randomization
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.mixing_training import MixingTraining, TrainingAttack, train_mixing_network
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    BaseNetConfig,
    ConstantAlphaConfig,
    Entry,
    Weights,
    entry_to_text,
)
from adaptive_smoothing_zoo.zoo.weights import write_safetensors

EPS = "1/5"
EPS_VALUE = 0.2
NORMALIZATION = {"mean": [0.3], "std": [0.37]}  # of the training images, rounded
STD_NET = BaseNetConfig(architecture="small_cnn", arguments={"widths": [24, 48], **NORMALIZATION})
ROB_NET = BaseNetConfig(architecture="small_cnn", arguments={"widths": [8, 16], **NORMALIZATION})
STD_TRAINING = BaseNetTraining(epochs=40, batch_size=64, learning_rate=0.05, padding=1)
# A radius above the evaluated one gives a robust net whose clean accuracy shows the trade-off.
ROB_TRAINING = BaseNetTraining(
    epochs=60, batch_size=64, learning_rate=0.05, eps=0.3, attack_steps=7, attack_step_size=0.1
)
MIXING_ATTACK = TrainingAttack(setting="B", eps=EPS_VALUE, randomization=Randomization(steps=10))
MIXING_TRAINING = MixingTraining(epochs=30, batch_size=64, learning_rate=1e-3, attack=MIXING_ATTACK, padding=1)
PLANES = (32, 48, 64)
KEPT = 0.95  # the share of h's robust accuracy that the mix must keep on the validation split


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path(adaptive_smoothing_zoo.__file__).parent)
@click.option("--choose-only", is_flag=True)
def main(out: Path, choose_only: bool) -> None:
    start = time.time()
    validation = load_data("digits", "validation")
    mixed = load_model("Demo2026Adaptive", dataset="digits") if choose_only else train_all()
    std_model, rob_model = mixed.std_model, mixed.rob_model
    needed = KEPT * robust_accuracy(rob_model, validation)
    click.echo(
        f"{time.time() - start:.0f} s; validation: g {accuracy(std_model, validation):.4f} clean; h "
        f"{accuracy(rob_model, validation):.4f} clean, {needed / KEPT:.4f} attacked; the mix must keep {needed:.4f}"
    )
    constant = choose_constant(std_model, rob_model, validation, needed)
    adaptive = choose_adaptive(mixed, validation, needed)
    click.echo(f"{time.time() - start:.0f} s; chosen: alpha {constant.value}; {adaptive}")
    save(out, "Demo2026Constant", MixedClassifier(std_model, rob_model, constant.value), constant)
    save(out, "Demo2026Adaptive", mixed, adaptive)


def train_all() -> MixedClassifier:
    """g, h and the mixing network, trained on the training split."""
    train = load_data("digits", "train")
    std_model = train_base_net(_new(STD_NET), train.images, train.labels, STD_TRAINING)
    rob_model = train_base_net(_new(ROB_NET), train.images, train.labels, ROB_TRAINING)
    torch.manual_seed(MIXING_TRAINING.seed)
    mixed = MixedClassifier(std_model, rob_model, AdaptiveAlpha(MixingNetwork(8 + 24, 16 + 48, PLANES)))
    return train_mixing_network(mixed, train.images, train.labels, MIXING_TRAINING)


def _new(config: BaseNetConfig) -> nn.Module:
    torch.manual_seed(0)
    return build(config.architecture, num_classes=10, **config.arguments)


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples) -> float:
    return float((model(examples.images).argmax(1) == examples.labels).double().mean())


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far the best wrong class is above the right one, (N,)."""
    right = logits.gather(1, labels[:, None]).squeeze(1)
    return logits.scatter(1, labels[:, None], -torch.inf).amax(1) - right


def robust_accuracy(model: nn.Module, examples: Examples) -> float:
    """Under the union of PGD-40 runs, the true model as judge; a screening number, weaker than AutoAttack.

    Cross-entropy and margin loss through the model itself and, where alpha adapts, both losses through the mix with
    alpha pinned at alpha_min: a mixing network can hide the gradient, and a single white-box run then flatters it.
    """
    surrogates = [model]
    if isinstance(model, MixedClassifier) and isinstance(model.alpha, AdaptiveAlpha):
        surrogates.append(MixedClassifier(model.std_model, model.rob_model, model.alpha.alpha_min).eval())
    robust = torch.ones(len(examples), dtype=torch.bool)
    for surrogate in surrogates:
        for loss in (cross_entropy, margin):
            attacked = pgd(
                surrogate,
                examples.images,
                examples.labels,
                eps=EPS_VALUE,
                step_size=EPS_VALUE / 8,
                steps=40,
                random_start=True,
                loss=loss,
                generator=torch.Generator().manual_seed(0),
            )
            robust &= model(attacked).argmax(1) == examples.labels
    return float(robust.double().mean())


def choose_constant(
    std_model: nn.Module, rob_model: nn.Module, examples: Examples, needed: float
) -> ConstantAlphaConfig:
    """The most accurate constant alpha that keeps the needed robustness."""
    return best(
        (MixedClassifier(std_model, rob_model, value), ConstantAlphaConfig(value=value))
        for value in (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
    )(examples, needed)


def choose_adaptive(model: MixedClassifier, examples: Examples, needed: float) -> AdaptiveAlphaConfig:
    """The most accurate range, scale and bias that keep the needed robustness."""
    network = model.alpha.mixing_network

    def candidates():
        for alpha_min in (0.7, 0.8, 0.85, 0.9):
            for scale in (1.0, 2.0):
                for bias in (0.0, 1.0):
                    config = AdaptiveAlphaConfig(
                        alpha_min=alpha_min, alpha_max=1.0, logit_scale=scale, logit_bias=bias, planes=PLANES
                    )
                    alpha = AdaptiveAlpha(
                        network, alpha_min=alpha_min, alpha_max=1.0, logit_scale=scale, logit_bias=bias
                    )
                    alpha.norm = model.alpha.norm
                    yield MixedClassifier(model.std_model, model.rob_model, alpha).eval(), config

    return best(candidates())(examples, needed)


def best(candidates: Iterable):
    """Pick the configuration of highest clean accuracy, then robustness, among those robust enough."""

    def pick(examples: Examples, needed: float):
        scored = []
        for model, config in candidates:
            model.eval()
            scored.append((accuracy(model, examples), robust_accuracy(model, examples), config))
            click.echo(f"  clean {scored[-1][0]:.4f}, attacked {scored[-1][1]:.4f}: {config}")
        enough = [candidate for candidate in scored if candidate[1] >= needed]
        if not enough:
            raise click.ClickException(f"no candidate keeps a robust accuracy of {needed:.4f}")
        return max(enough, key=lambda candidate: candidate[:2])[2]

    return pick


def save(out: Path, name: str, model: MixedClassifier, alpha: ConstantAlphaConfig | AdaptiveAlphaConfig) -> None:
    """Write a triplet's weights and entry."""
    file = f"{name}-digits-Linf.safetensors"
    sha256 = write_safetensors(out / "pretrained" / file, model.state_dict())
    adaptive = isinstance(alpha, AdaptiveAlphaConfig)
    kind = "a mixing network" if adaptive else "a constant alpha"
    entry = Entry(
        name=name,
        dataset="digits",
        threat_model="Linf",
        eps=EPS,
        description=(
            f"A small triplet for scikit-learn's handwritten digits with {kind}, embedded in the package so that "
            "everything can be tried without a download. It is a demonstration, not a contribution to a leaderboard."
        ),
        num_classes=10,
        image_shape=(1, 8, 8),
        std_model=STD_NET,
        rob_model=ROB_NET,
        alpha=alpha,
        weights=Weights(embedded=file, sha256=sha256),
        paper=PAPER,
        architecture=f"small CNN + small CNN + {'mixing network' if adaptive else 'constant alpha'}",
        additional_data=False,
        footnote="Demonstration on 8x8 digits. It uses an ensemble of networks.",
        training=(
            f"By `eval/recipes/digits.py`: g by standard training ({STD_TRAINING.epochs} epochs), h by PGD adversarial "
            f"training ({ROB_TRAINING.epochs} epochs, {ROB_TRAINING.attack_steps} steps, l_inf radius "
            f"{ROB_TRAINING.eps}), "
            + (
                f"the mixing network on clean and attacked images ({MIXING_TRAINING.epochs} epochs, white-box "
                f"PGD-{MIXING_ATTACK.randomization.steps} that also lowers alpha), "
                if adaptive
                else ""
            )
            + "all on the training split (index modulo 5 in 0, 1, 2). alpha was chosen on the validation split (index "
            f"modulo 5 is 3): highest clean accuracy among candidates that keep {KEPT:.0%} of h's accuracy under "
            "several PGD-40 attacks. The test split (index modulo 5 is 4) was used for the results alone. The "
            "images come in the order of their writers, so writers are shared between the splits."
        ),
        limits=("8x8 gray digits; the radius is a fifth of the pixel range.",),
    )
    write_text(out / "zoo" / "entries" / "digits" / "Linf" / f"{name}.json", entry_to_text(entry))
    click.echo(json.dumps({"name": name, "bytes": (out / "pretrained" / file).stat().st_size, "sha256": sha256}))


if __name__ == "__main__":
    main()
