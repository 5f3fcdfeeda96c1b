"""How a mix trained on JPEG-compressed images takes images that were never compressed.

    python eval/compression_shift.py --test CIFAR10_TEST.npz --train CIFAR10_TRAIN.npz

The embedded CIFAR-10 triplets learned from compressed training images and are evaluated on lossless test images. Three
sets of clean images are classified by g, h and both mixes: the lossless test images, the same after compression, and
the training images on which alpha was chosen. Writes ``compression_shift.md`` next to the results.
"""

import io
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.data import Examples, load_data
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.provenance import installed_versions
from adaptive_smoothing_zoo.training.recipe import read_recipe
from adaptive_smoothing_zoo.training.runs import training_examples

RECIPE = "cifar10_adaptive"
HEAD = (
    "| clean images | n | g, % | h, % | Demo2026Constant, % | Demo2026Adaptive, % | alpha, mean | alpha_logit, mean |"
)


@click.command()
@click.option("--test", required=True, help="an .npz file with test images, or torchvision's folder")
@click.option("--train", required=True, help="an .npz file with the training images, or torchvision's folder")
@click.option("--quality", type=int, default=75, show_default=True, help="of the compression, as Pillow counts it")
@click.option("--batch-size", type=int, default=100, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("eval/results/cifar10/Linf"), show_default=True)
def main(test: str, train: str, quality: int, batch_size: int, out: Path) -> None:
    examples = load_data("cifar10", data_dir=test)
    _, held_out = training_examples(read_recipe(RECIPE).data, train)
    assert held_out is not None
    again = replace(examples, images=compressed(examples.images, quality))
    sets = {"test, lossless": examples, f"test, JPEG {quality}": again, "training, held out": held_out}
    lines = ["# Clean images, lossless and compressed", "", HEAD, "|" + " --- |" * (HEAD.count("|") - 1)]
    lines += [row(name, chosen, batch_size) for name, chosen in sets.items()]
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    lines += ["", f"Test: {examples.source}. Training: {held_out.source}. No attack; float32; {versions}."]
    path = out / "compression_shift.md"
    write_text(path, "\n".join(lines) + "\n")
    click.echo(path.read_text())


def compressed(images: Tensor, quality: int) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] after JPEG compression."""
    found = []
    for pixels in (255 * images).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        found.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float().div(255).contiguous()


@torch.no_grad()
def row(name: str, examples: Examples, batch_size: int) -> str:
    adaptive = load_model("Demo2026Adaptive", dataset="cifar10")
    constant = load_model("Demo2026Constant", dataset="cifar10")
    labels, batches = examples.labels, examples.images.split(batch_size)
    nets = {"g": adaptive.std_model, "h": adaptive.rob_model, "constant": constant, "adaptive": adaptive}
    right = {
        net: 100 * float((torch.cat([model(batch) for batch in batches]).argmax(1) == labels).double().mean())
        for net, model in nets.items()
    }
    alpha = float(torch.cat([adaptive.alpha_of(batch) for batch in batches]).mean())
    logit = float(torch.cat([adaptive.alpha_logit_of(batch) for batch in batches]).mean())
    cells = [name, str(len(labels)), *(f"{right[net]:.2f}" for net in nets), f"{alpha:.4f}", f"{logit:.2f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
