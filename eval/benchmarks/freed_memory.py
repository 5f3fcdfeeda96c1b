"""What passes cost with freed memory given back and with freed memory kept: page faults and milliseconds an image.

    python eval/benchmarks/freed_memory.py --threads 2

The net is a pair of untrained ResNet-20, prepared as attacks see it. Memory is first given back, as in a new process:
after the first use of ``freed_memory_kept`` glibc's thresholds are others.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import nullcontext

import click
import torch
from torch import Tensor

from adaptive_smoothing_zoo import MixedClassifier
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, loss_and_gradient
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.machine.allocator import freed_memory_kept
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions

PASSES = 30


def _measure(one: Callable[[], object], images: int) -> str:
    """Page faults of a pass, and milliseconds an image, the best and the median."""
    one()
    seconds, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(PASSES):
        start = time.perf_counter()
        one()
        seconds.append(time.perf_counter() - start)
    faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // PASSES
    best, median = (1e3 * value / images for value in (min(seconds), sorted(seconds)[PASSES // 2]))
    return f"{faults} | {best:.2f} | {median:.2f}"


@click.command()
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--batch-size", type=int, default=64, show_default=True)
def main(threads: int, batch_size: int) -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pair = MixedClassifier(build("resnet20"), build("resnet20"), 0.9).eval().requires_grad_(False)
    images, labels = torch.rand(batch_size, 3, 32, 32), torch.zeros(batch_size, dtype=torch.int64)
    net = prepare(pair, images[:8])

    @torch.no_grad()
    def forward() -> Tensor:
        return net(images)

    def with_gradient() -> object:
        return loss_and_gradient(net, images, lambda logits: cross_entropy(logits, labels, labels))

    click.echo(f"{device_name('cpu')}, torch {installed_versions()['torch']}, batches of {batch_size}\n")
    click.echo("| freed memory | pass | page faults | ms an image, best | median |\n| --- | --- | --: | --: | --: |")
    for what, kept in (("given back", nullcontext()), ("kept", freed_memory_kept())):
        with kept:
            for name, one in (("forward", forward), ("with a gradient", with_gradient)):
                click.echo(f"| {what} | {name} | {_measure(one, batch_size)} |")


if __name__ == "__main__":
    main()
