"""What the fast engine saves: AutoAttack "standard" by three routes, on the same points, one after the other.

python eval/benchmarks/autoattack.py Demo2026Adaptive --dataset digits --n 100
python eval/benchmarks/autoattack.py resnet20-pair --n 64 --scale 0.02

The routes: pyautoattack as RobustBench's ``benchmark`` calls it (batches of 32, weights not frozen by the caller);
pyautoattack through our reference engine at the batch size that suits the model best; and the fast engine. For the
fast engine the table also says how much of the time is spent outside the net, and how far it is from the floor: the
passes it makes, each in the best time a bare pass of the prepared net was seen to take.

Times are CPU seconds of this process with one thread and wall seconds otherwise: on a shared machine only the former
are worth comparing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks import apgd, fab
from adaptive_smoothing_zoo.attacks.fast import FastEngine
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, loss_and_gradient
from adaptive_smoothing_zoo.attacks.prepare import prepare
from adaptive_smoothing_zoo.attacks.reference import STANDARD_ATTACKS, ReferenceEngine, collect_warnings
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.precision import float32_precision

PAIR = "resnet20-pair"
BATCH_SIZES = (32, 64, 128, 256, 512)
# A robust point costs this many passes forward and this many forward and backward in pyautoattack.
FORWARD, BOTH = 5947, 1910


class Clock:
    """Seconds since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._read = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        self._start = self.seconds_of_process()

    def seconds_of_process(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self._read()

    def __call__(self) -> float:
        return self.seconds_of_process() - self._start


def _model(name: str, dataset: str, n: int, data_dir: str | None) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Model, images, labels and radius. The pair is untrained, with a radius at which it hardly ever fails."""
    if name == PAIR:
        torch.manual_seed(0)
        pair = MixedClassifier(build("resnet20"), build("resnet20"), 0.9).eval()
        images = torch.rand(n, 3, 32, 32)
        with torch.no_grad():
            return pair, images, pair(images).argmax(1), 1e-6
    model = load_model(name, dataset=dataset)
    examples = load_data(dataset, data_dir=data_dir).first(n)
    return model, examples.images, examples.labels, model.entry.eps_value


def _best_pass(model: nn.Module, images: Tensor, gradient: bool) -> tuple[float, int]:
    """Seconds per image of a bare pass at the best of the batch sizes, and that size."""
    times = []
    for size in BATCH_SIZES:
        batch = images.repeat(-(-size // len(images)), 1, 1, 1)[:size].contiguous()
        labels = torch.zeros(size, dtype=torch.int64, device=batch.device)

        def one(batch: Tensor = batch, labels: Tensor = labels) -> None:
            if gradient:
                loss_and_gradient(model, batch, lambda logits: cross_entropy(logits, labels, labels))
            else:
                with torch.no_grad():
                    model(batch)

        one()
        seconds = []
        for _ in range(max(3, 512 // size)):
            clock = Clock(batch.device)
            one()
            seconds.append(clock())
        times.append((min(seconds) / size, size))
    return min(times)


@contextmanager
def _time_in_net(engine: FastEngine, device: torch.device) -> Iterator[list[float]]:
    """Collect the seconds spent in passes of the prepared model, forward and backward."""
    seconds: list[float] = []

    def timed(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            clock = Clock(device)
            result = function(*arguments)
            seconds.append(clock())
            return result

        return call

    net = engine.prepared
    assert net is not None
    forward = net.forward
    whole = timed(loss_and_gradient)
    net.forward = lambda images: (forward if images.requires_grad else timed(forward))(images)  # type: ignore[method-assign]
    bounds = engine.bounds
    if bounds is not None:
        engine.bounds = timed(bounds)  # type: ignore[assignment]
    apgd.loss_and_gradient = fab.loss_and_gradient = whole  # type: ignore[assignment]
    try:
        yield seconds
    finally:
        engine.bounds = bounds
        apgd.loss_and_gradient = fab.loss_and_gradient = loss_and_gradient
        del net.forward


def _shorten(engine: ReferenceEngine, scale: float) -> None:
    """Give pyautoattack's attacks a share of their iterations, for timings of nets that are slow."""
    parts = engine._autoattack
    for part in (parts.apgd, parts.apgd_targeted, parts.fab):
        part.n_iter = _iterations(scale)
        part.n_iter_2, part.n_iter_min, part.size_decr = (
            max(int(share * part.n_iter), 1) for share in (0.22, 0.06, 0.03)
        )
    parts.square.n_queries = _queries(scale)


def _iterations(scale: float) -> int:
    return max(2, round(100 * scale))


def _queries(scale: float) -> int:
    return max(10, round(5000 * scale))


def _protocol(
    attack: Callable[[str, Tensor, Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
) -> tuple[dict[str, float], float]:
    """Seconds of each attack on the points that are left, and the accuracy in the end."""
    seconds = {}
    robust = _predict(model, images) == labels
    for name in STANDARD_ATTACKS:
        left = robust.nonzero().squeeze(1)
        clock = Clock(device)
        if len(left):
            for positions, candidates in attack(name, images[left], labels[left], left):
                robust[left[positions]] = _predict(model, candidates) == labels[left[positions]]
        seconds[name] = clock()
    return seconds, float(robust.float().mean())


@torch.no_grad()
def _predict(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch).argmax(1) for batch in images.split(256)])


@click.command()
@click.argument("model", default="Demo2026Adaptive")
@click.option("--dataset", default="digits", show_default=True)
@click.option("--data-dir", default=None)
@click.option("--n", type=int, default=64, show_default=True)
@click.option("--norm", type=click.Choice(["Linf", "L2"]), default="Linf", show_default=True)
@click.option("--eps", type=float, default=None, help="The radius, if not the model's own.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Share of the protocol's iterations to time.")
@click.option("--skip-defaults", is_flag=True, help="Leave out the run in batches of 32.")
def main(
    model: str,
    dataset: str,
    data_dir: str | None,
    n: int,
    norm: str,
    eps: float | None,
    threads: int,
    device: str,
    seed: int,
    scale: float,
    skip_defaults: bool,
) -> None:
    torch.set_num_threads(threads)
    place = torch.device(device)
    net, images, labels, radius = _model(model, dataset, n, data_dir)
    radius = radius if eps is None else eps
    net, images, labels = net.to(place).eval(), images.to(place), labels.to(place)
    classes = net(images[:1]).shape[1]
    common = {"norm": norm, "eps": radius, "seed": seed, "num_classes": classes, "device": place}
    with float32_precision(False), collect_warnings():
        rows = {}
        if not skip_defaults:
            # RobustBench hands over the model as it was loaded and measures accuracy before and after.
            engine = ReferenceEngine(net, batch_size=32, **common)
            _shorten(engine, scale)
            clock = Clock(place)
            for _ in range(2):
                _predict(net, images)
            seconds, accuracy = _protocol(engine.attack, net, images, labels, place)
            rows["pyautoattack, batches of 32"] = clock(), seconds, accuracy
        net.requires_grad_(False)
        forward, forward_size = _best_pass(net, images, False)
        both, both_size = _best_pass(net, images, True)
        best_size = forward_size if FORWARD * forward > BOTH * both else both_size
        engine = ReferenceEngine(net, batch_size=min(best_size, n), **common)
        _shorten(engine, scale)
        clock = Clock(place)
        seconds, accuracy = _protocol(engine.attack, net, images, labels, place)
        rows[f"pyautoattack, batches of {min(best_size, n)}"] = clock(), seconds, accuracy
        fast_size = min(n, _best_pass(prepare(net, images[:8]), images, False)[1])
        fast = FastEngine(net, batch_size=fast_size, **common)
        fast.iterations, fast.queries = _iterations(scale), _queries(scale)
        clock = Clock(place)
        fast.prepare(images)
        with _time_in_net(fast, place) as in_net:
            seconds, accuracy = _protocol(fast.attack, net, images, labels, place)
        whole = clock()
        rows[f"fast, batches of {fast_size}"] = whole, seconds, accuracy
        assert fast.prepared is not None
        fast_forward, _ = _best_pass(fast.prepared, images, False)
        fast_both, _ = _best_pass(fast.prepared, images, True)
    asked = fast.asked
    gradients = asked["apgd-ce"] + asked["apgd-t"] + asked["fab-t"]
    plain = asked["fab-t"] + asked["square"]
    floor = gradients * fast_both + plain * fast_forward
    kind = "CPU seconds" if clock._read is time.process_time else "wall seconds"
    click.echo(
        f"{model}, {n} points, {norm} {radius:g}, {threads} threads, {device}, share of iterations {scale:g}; {kind}"
    )
    for what, (seconds_of_all, parts, accuracy) in rows.items():
        split = ", ".join(f"{name} {value:.1f}" for name, value in parts.items())
        click.echo(
            f"{what:34} {seconds_of_all:8.1f} s  ({split})  accuracy {100 * accuracy:.2f} %  "
            f"fast is {seconds_of_all / whole:.2f} times as fast"
        )
    passes = plain + gradients
    if fast.bounds is not None:
        points, std, mixing = fast.bounds.asked, fast.bounds.std_runs, fast.bounds.mixing_runs
        click.echo(
            f"Square: g ran for {std / points:.0%} of {points} points, the mixing network for {mixing / points:.0%}"
        )
    click.echo(
        f"bare pass per image, forward / with gradient: {1e3 * forward:.3f} / {1e3 * both:.3f} ms as it is, "
        f"{1e3 * fast_forward:.3f} / {1e3 * fast_both:.3f} ms prepared\n"
        f"fast: {passes} passes ({gradients} of them with a gradient), {passes / whole:.0f} a second, "
        f"{100 * (1 - sum(in_net) / whole):.1f} % of the time outside the net, {whole / floor:.2f} times the floor"
    )


if __name__ == "__main__":
    main()
