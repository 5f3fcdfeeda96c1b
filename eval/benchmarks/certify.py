"""Certification by Cohen's published algorithm, one image at a time, against ``certify``: the same net, n and sigma.

python eval/benchmarks/certify.py --images 5 --n 10000
python eval/benchmarks/certify.py --net resnet20 --n 1000
"""

import math
import time
from statistics import median

import click
import numpy as np
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification.certify import certify

NETS = {
    "linear": (
        (1, 8, 8),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
    ),
    "digits": ((1, 8, 8), lambda: build("small_cnn")),
    "resnet20": ((3, 32, 32), lambda: build("resnet20")),
}


class PublishedCertify:
    """CERTIFY as published: per image, batches of copies with fresh noise, and votes counted one by one on the host."""

    def __init__(self, model: nn.Module, classes: int, sigma: float) -> None:
        self.model, self.classes, self.sigma = model, classes, sigma

    @torch.no_grad()
    def certify(self, image: Tensor, n0: int, n: int, failure_probability: float, batch_size: int) -> tuple[int, float]:
        top = int(self.count_votes(image, n0, batch_size).argmax())
        votes = int(self.count_votes(image, n, batch_size)[top])
        p_lower = beta.ppf(failure_probability, votes, n - votes + 1) if votes else 0.0
        if p_lower < 0.5:
            return -1, 0.0
        return top, self.sigma * norm.ppf(p_lower)

    def count_votes(self, image: Tensor, samples: int, batch_size: int) -> np.ndarray:
        counts = np.zeros(self.classes, dtype=int)
        for _ in range(math.ceil(samples / batch_size)):
            size = min(batch_size, samples)
            samples -= size
            batch = image.repeat((size, 1, 1, 1))
            predictions = self.model(batch + torch.randn_like(batch) * self.sigma).argmax(1).cpu().numpy()
            for prediction in predictions:
                counts[prediction] += 1
        return counts


@click.command()
@click.option("--net", type=click.Choice(sorted(NETS)), default="digits", show_default=True)
@click.option("--images", "count", type=int, default=8, show_default=True)
@click.option("--n0", type=int, default=100, show_default=True)
@click.option("--n", type=int, default=10_000, show_default=True)
@click.option("--batch-size", type=int, default=1000, show_default=True, help="Of the published algorithm.")
@click.option("--our-batch-size", type=int, default=None, help="Of ours; its own choice by default.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Of our layers.")
@click.option("--repeats", type=int, default=5, show_default=True)
def main(
    net: str, count: int, n0: int, n: int, batch_size: int, our_batch_size: int | None, dtype: str, repeats: int
) -> None:
    shape, make = NETS[net]
    torch.manual_seed(0)
    model = make().eval()
    images = torch.rand(count, *shape)
    labels = torch.zeros(count, dtype=torch.int64)
    published = PublishedCertify(model, 10, 0.25)

    def by_published() -> list[tuple[int, float]]:
        return [published.certify(image, n0, n, 0.001, batch_size) for image in images]

    def by_ours() -> list[tuple[int, float]]:
        ours = certify(
            model, images, labels, sigma=0.25, n0=n0, n=n, batch_size=our_batch_size, dtype=getattr(torch, dtype)
        )
        return list(zip(ours.prediction.tolist(), ours.radius.tolist(), strict=True))

    seconds: dict[str, list[float]] = {"published": [], "ours": []}
    cpu_seconds: dict[str, list[float]] = {"published": [], "ours": []}
    results: dict[str, list[tuple[int, float]]] = {}
    for _ in range(repeats):  # interleaved, so that a busy machine slows both alike
        for name, run in (("published", by_published), ("ours", by_ours)):
            start, cpu_start = time.perf_counter(), time.process_time()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
    same = sum(a[0] == b[0] for a, b in zip(results["published"], results["ours"], strict=True))
    apart = max(abs(a[1] - b[1]) for a, b in zip(results["published"], results["ours"], strict=True))
    theirs, ours = median(seconds["published"]), median(seconds["ours"])
    cpu_ratio = median(cpu_seconds["published"]) / median(cpu_seconds["ours"])
    click.echo(
        f"{net}, {count} images, n = {n}: the same class for {same}, radii at most {apart:.4f} apart (other noise); "
        f"published {1e3 * theirs / count:.1f} ms per image, ours {1e3 * ours / count:.1f} ms "
        f"({theirs / ours:.2f} times faster, {cpu_ratio:.2f} in CPU time)"
    )


if __name__ == "__main__":
    main()
