"""Make the digits triplet with a Lipschitz h, in less than a minute on one core.

    python eval/recipes/digits_lipschitz.py [--out DIR] [--choose-only]

h is a net of orthogonal layers, trained on the training split by the cross-entropy of its scaled logits; g is that of
``Demo2026Constant``. alpha is chosen on the validation split. Writes weights to ``DIR/pretrained`` and the entry to
``DIR/zoo/entries/digits/L2``; DIR defaults to the package itself. The test split is not read here. ``--choose-only``
takes the h that the package embeds.
"""

import time
from pathlib import Path

import click
import torch
from certified_alpha import RULE, choose_alpha
from demo_paper import PAPER
from torch import nn

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.lipschitz import LipschitzNet
from adaptive_smoothing_zoo.certification import certify_lipschitz
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.method.logit_maps import Scale
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.zoo.entry import (
    BaseNetConfig,
    ConstantAlphaConfig,
    Entry,
    ScaleConfig,
    Weights,
    entry_to_text,
)
from adaptive_smoothing_zoo.zoo.weights import write_safetensors

NAME = "Demo2026Lipschitz"
EPS = "1/4"
EPS_VALUE = 0.25
ROB_NET = BaseNetConfig(architecture="lipschitz", arguments={"widths": [128, 128], "patch": 8, "mean": [0.3]})
# Logits of a 1-Lipschitz net are close together, so the softmax gets a multiple: the larger, the smaller the margins
# that the training is content with.
SCALE = 3.0
TRAINING = BaseNetTraining(epochs=80, batch_size=64, learning_rate=0.1, weight_decay=0.0)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path(adaptive_smoothing_zoo.__file__).parent)
@click.option("--choose-only", is_flag=True)
def main(out: Path, choose_only: bool) -> None:
    start = time.time()
    donor = load_model("Demo2026Constant", dataset="digits")
    rob_model = load_model(NAME, dataset="digits", threat_model="L2").rob_model if choose_only else train()
    click.echo(f"{time.time() - start:.0f} s; h has the Lipschitz constant {rob_model.lipschitz:.7f}")
    held = load_data("digits", "validation")
    alpha = choose_alpha(lambda alpha: measure(donor.std_model, rob_model, alpha, held))
    click.echo(f"chosen: alpha {alpha}")
    save(out, MixedClassifier(donor.std_model, rob_model, alpha, rob_map=SCALE), donor.entry.std_model)


def train() -> LipschitzNet:
    """h, trained on the training split, its weights orthogonal and plain."""
    examples = load_data("digits", "train")
    torch.manual_seed(0)
    net = build(ROB_NET.architecture, num_classes=10, **ROB_NET.arguments).parametrize()
    train_base_net(nn.Sequential(net, Scale(SCALE)), examples.images, examples.labels, TRAINING)
    return net.freeze()


def measure(std_model: nn.Module, rob_model: nn.Module, alpha: float, examples: Examples) -> tuple[float, float]:
    """Clean accuracy of the mix, and its certified accuracy at the radius."""
    model = MixedClassifier(std_model, rob_model, alpha, rob_map=SCALE).eval()
    with torch.no_grad():
        clean = float((model(examples.images).argmax(1) == examples.labels).double().mean())
    at = {
        bound: float(
            certify_lipschitz(model, examples.images, examples.labels, bound=bound).certified_accuracy(EPS_VALUE)
        )
        for bound in ("theorem4", "sharp")
    }
    click.echo(f"  alpha {alpha}: clean {clean:.4f}, certified at {EPS}: {at}")
    return clean, at["sharp"]


def save(out: Path, model: MixedClassifier, std_net: BaseNetConfig) -> None:
    """Write the triplet's weights and entry."""
    file = f"{NAME}-digits-L2.safetensors"
    sha256 = write_safetensors(out / "pretrained" / file, model.state_dict())
    entry = Entry(
        name=NAME,
        dataset="digits",
        threat_model="L2",
        eps=EPS,
        description=(
            "A small triplet for scikit-learn's handwritten digits whose robust net is 1-Lipschitz in l_2 by "
            "construction, so that the mix is certified without sampling: within the radii of its card no perturbation "
            "changes a label, whatever the accurate net says. Embedded in the package; a demonstration, not a "
            "contribution to a leaderboard."
        ),
        num_classes=10,
        image_shape=(1, 8, 8),
        std_model=std_net,
        rob_model=ROB_NET,
        alpha=ConstantAlphaConfig(value=model.alpha.alpha_min),
        rob_map=ScaleConfig(factor=SCALE),
        weights=Weights(embedded=file, sha256=sha256),
        paper=PAPER,
        architecture="small CNN + orthogonal layers + constant alpha",
        additional_data=False,
        footnote="Demonstration on 8x8 digits. It uses an ensemble of networks.",
        training=(
            "g is that of `Demo2026Constant`. h by `eval/recipes/digits_lipschitz.py`: orthogonal matrices (Cayley "
            f"map) and sorted pairs, cross-entropy of {SCALE:g} times the logits, {TRAINING.epochs} epochs on the "
            "training split (index modulo 5 in 0, 1, 2). alpha was chosen on the validation split (index modulo 5 is "
            f"3): {RULE} at {EPS}. The test split (index modulo 5 is 4) was used for the results alone. The images "
            "come in the order of their writers, so writers are shared between the splits."
        ),
        limits=("8x8 gray digits; the radius is a quarter of the pixel range, in l_2.",),
    )
    write_text(out / "zoo" / "entries" / "digits" / "L2" / f"{NAME}.json", entry_to_text(entry))
    click.echo(f"{NAME}: {(out / 'pretrained' / file).stat().st_size} bytes, SHA-256 {sha256}")


if __name__ == "__main__":
    main()
