"""What Winograd's algorithm saves in a net's passes on one CPU core, and how far from float64's its results are.

python eval/benchmarks/winograd.py base:cifar10_resnet18_nfgsm wide_resnet
"""

import copy
import time
from statistics import median

import click
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.machine.winograd import use_winograd
from adaptive_smoothing_zoo.zoo.references import resolve


@click.command()
@click.argument("references", nargs=-1, required=True)
@click.option("--n", type=int, default=64, show_default=True)
@click.option("--size", type=int, default=32, show_default=True, help="Pixels along each side.")
@click.option("--repeats", type=int, default=5, show_default=True)
def main(references: tuple[str, ...], n: int, size: int, repeats: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.rand(n, 3, size, size)
    for reference in references:
        net = build("wide_resnet", depth=28, width=10) if reference == "wide_resnet" else resolve(reference).net
        plain = net.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        quick = copy.deepcopy(plain)
        layers = use_winograd(quick, images[:1])
        exact = _logits_and_gradient(copy.deepcopy(net).double(), images[:8].double())
        click.echo(f"{reference}: {layers} layers; {n} images; ms per image without and with, and the ratio:")
        for name, grad in (("forward", False), ("with gradient", True)):
            times: dict[nn.Module, list[float]] = {plain: [], quick: []}
            for _ in range(repeats):  # interleaved, so that a busy machine slows both alike
                for model, found in times.items():
                    start = time.process_time()
                    _logits_and_gradient(model, images) if grad else _logits(model, images)
                    found.append(1e3 * (time.process_time() - start) / n)
            before, after = median(times[plain]), median(times[quick])
            click.echo(f"  {name}: {before:.2f}, {after:.2f}, {before / after:.2f}")
        for name, model in (("without", plain), ("with", quick)):
            errors = [_distance(*pair) for pair in zip(_logits_and_gradient(model, images[:8]), exact, strict=True)]
            click.echo(f"  median distance from float64, {name}: logits {errors[0]:.1e}, gradient {errors[1]:.1e}")


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    found: Tensor = model(images)
    return found


def _logits_and_gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    points = images.clone().requires_grad_()
    logits: Tensor = model(points)
    return logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), points)[0]


def _distance(found: Tensor, exact: Tensor) -> float:
    """Median over images, since a unit close to zero can switch in float32 and then changes one image's gradient."""
    apart = (found.double() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(apart.median())


if __name__ == "__main__":
    main()
