"""What the fast engine saves: AutoAttack "standard" by three routes, on the same points, one after the other.

    python eval/benchmarks/autoattack.py Demo2026Adaptive --dataset digits --n 64
    python eval/benchmarks/autoattack.py resnet20-pair --n 32 --scale 0.05

The routes: pyautoattack as RobustBench's ``benchmark`` calls it (batches of 32, weights not frozen by the caller, clean
accuracy before and after); pyautoattack with frozen weights in the batches that suit the model best; and the fast
engine. For the fast engine a second table says what it was busy with, how far it is from the floor (the protocol's
passes, each in the best time that a bare pass of the prepared net was seen to take), and what its two ways to spare
passes save.

Times are CPU seconds of this process with one thread, and wall seconds otherwise: on a shared machine only the former
are worth comparing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks import apgd, fab
from adaptive_smoothing_zoo.attacks.fast import FastEngine
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, loss_and_gradient
from adaptive_smoothing_zoo.attacks.prepare import prepare
from adaptive_smoothing_zoo.attacks.reference import STANDARD_ATTACKS, collect_warnings
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.precision import float32_precision
from adaptive_smoothing_zoo.publishing.results import device_name, installed_versions

PAIR = "resnet20-pair"
BATCH_SIZES = (32, 64, 128, 256, 512)
# A robust point costs this many passes forward and this many forward and backward in pyautoattack.
FORWARD, BOTH = 5947, 1910


@dataclass
class Row:
    """Seconds in all and of each attack, and the robust accuracy."""

    seconds: float
    parts: dict[str, float]
    accuracy: float


@dataclass
class Subject:
    """What is attacked, and where."""

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    norm: str
    eps: float
    device: torch.device
    scale: float

    @property
    def iterations(self) -> int:
        return max(2, round(100 * self.scale))

    @property
    def queries(self) -> int:
        return max(10, round(5000 * self.scale))


class Clock:
    """Seconds since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.read = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        self._start = self._now()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.read()

    def __call__(self) -> float:
        return self._now() - self._start


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


def _reference(subject: Subject, batch_size: int, *, as_benchmark: bool) -> Row:
    """pyautoattack's own class on the model as it is."""
    from pyautoattack import AutoAttack

    model, images, labels = subject.model, subject.images, subject.labels
    runner = AutoAttack(model, norm=subject.norm, eps=subject.eps, version="standard", device=subject.device)
    for part in (runner.apgd, runner.apgd_targeted, runner.fab):
        part.n_iter = subject.iterations
        part.n_iter_2, part.n_iter_min, part.size_decr = (
            max(int(share * part.n_iter), 1) for share in (0.22, 0.06, 0.03)
        )
    runner.square.n_queries = subject.queries
    parts = dict.fromkeys(STANDARD_ATTACKS, 0.0)
    attackers = (runner.apgd, runner.apgd_targeted, runner.fab, runner.square)
    for name, attacker in zip(STANDARD_ATTACKS, attackers, strict=True):
        attacker.perturb = _added_up(attacker.perturb, parts, name, subject.device)
    clock = Clock(subject.device)
    if as_benchmark:
        _predict(model, images, batch_size)
    adversarials, _ = runner.run_standard_evaluation(images, labels, batch_size=batch_size)
    if as_benchmark:
        _predict(model, images, batch_size)
    seconds = clock()
    return Row(seconds, parts, float((_predict(model, adversarials, batch_size) == labels).float().mean()))


def _added_up(
    function: Callable[..., Tensor], parts: dict[str, float], name: str, device: torch.device
) -> Callable[..., Tensor]:
    def call(*arguments: object, **options: object) -> Tensor:
        clock = Clock(device)
        result = function(*arguments, **options)
        parts[name] += clock()
        return result

    return call


def _engine(subject: Subject, batch_size: int, classes: int) -> FastEngine:
    engine = FastEngine(
        subject.model,
        norm=subject.norm,
        eps=subject.eps,
        seed=0,
        batch_size=batch_size,
        num_classes=classes,
        device=subject.device,
    )
    engine.iterations, engine.queries = subject.iterations, subject.queries
    return engine


def _fast(subject: Subject, engine: FastEngine) -> tuple[Row, float, Tensor]:
    """The row, the seconds in the net, and the points that were left for Square."""
    model, images, labels = subject.model, subject.images, subject.labels
    parts = {}
    clock = Clock(subject.device)
    engine.check(images, labels)
    engine.prepare(images)
    robust = _predict(model, images, engine.batch_size) == labels
    left = robust
    with _time_in_net(engine, subject.device) as in_net:
        for name in STANDARD_ATTACKS:
            left = robust.nonzero().squeeze(1)
            part = Clock(subject.device)
            robust = _attack(subject, engine, name, robust)
            parts[name] = part()
    return Row(clock(), parts, float(robust.float().mean())), sum(in_net), left


def _attack(subject: Subject, engine: FastEngine, name: str, robust: Tensor) -> Tensor:
    """Which points are robust after one more attack."""
    left, robust = robust.nonzero().squeeze(1), robust.clone()
    for positions, candidates in engine.attack(name, subject.images[left], subject.labels[left], left):
        predicted = _predict(subject.model, candidates, engine.batch_size)
        robust[left[positions]] = predicted == subject.labels[left[positions]]
    return robust


@torch.no_grad()
def _predict(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([model(batch).argmax(1) for batch in images.split(batch_size)])


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

    net, bounds = engine.prepared, engine.bounds
    assert net is not None
    forward, whole = net.forward, timed(loss_and_gradient)
    with ExitStack() as stack:
        for module in (apgd, fab):
            stack.enter_context(patch.object(module, "loss_and_gradient", whole))
        # Passes with a gradient are timed as a whole.
        quick = timed(forward)
        stack.enter_context(patch.object(net, "forward", lambda x: (forward if x.requires_grad else quick)(x)))
        if bounds is not None:
            stack.enter_context(patch.object(engine, "bounds", timed(bounds)))
        yield seconds


def _square_without(subject: Subject, engine: FastEngine, left: Tensor, *, bounds: bool, twins: bool) -> float:
    """Seconds of Square on the points left for it, with only some of the ways to spare passes."""
    alone = _engine(subject, engine.batch_size, engine.num_targets + 1)
    alone.num_targets = engine.num_targets
    alone.prepare(subject.images)
    alone.bounds = alone.bounds if bounds else None
    alone.deterministic = alone.deterministic and twins
    robust = torch.zeros(len(subject.labels), dtype=torch.bool, device=left.device)
    robust[left] = True
    clock = Clock(subject.device)
    _attack(subject, alone, "square", robust)
    return clock()


@click.command()
@click.argument("name", default="Demo2026Adaptive")
@click.option("--dataset", default="digits", show_default=True)
@click.option("--data-dir", default=None)
@click.option("--n", type=int, default=64, show_default=True)
@click.option("--norm", type=click.Choice(["Linf", "L2"]), default="Linf", show_default=True)
@click.option("--eps", type=float, default=None, help="The radius, if not the model's own.")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Share of the protocol's iterations to time.")
@click.option("--spared", is_flag=True, help="Also time Square without what spares it passes.")
@click.option("--skip-defaults", is_flag=True, help="Leave out the run in batches of 32.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Append the tables to this file.")
def main(
    name: str,
    dataset: str,
    data_dir: str | None,
    n: int,
    norm: str,
    eps: float | None,
    threads: int,
    device: str,
    scale: float,
    spared: bool,
    skip_defaults: bool,
    out: Path | None,
) -> None:
    torch.set_num_threads(threads)
    place = torch.device(device)
    model, images, labels, radius = _model(name, dataset, n, data_dir)
    radius = radius if eps is None else eps
    subject = Subject(name, model.to(place).eval(), images.to(place), labels.to(place), norm, radius, place, scale)
    with torch.no_grad():
        classes = subject.model(subject.images[:1]).shape[1]
    lines: list[str] = []

    def say(line: str = "") -> None:
        lines.append(line)
        click.echo(line)

    kind = "CPU seconds" if Clock(place).read is time.process_time else "wall seconds"
    versions = installed_versions()
    say(f"## {name}, {n} points, {norm} {radius:g}")
    say()
    say(
        f"{device_name(device)}, {kind}; torch {versions['torch']}, pyautoattack {versions['pyautoattack']}; "
        f"{subject.iterations} iterations of APGD and FAB, {subject.queries} queries of Square."
    )
    say()
    say("| route | " + " | ".join(("all", *STANDARD_ATTACKS)) + " | robust, % | fast is faster by |")
    say("| --- " * (len(STANDARD_ATTACKS) + 4) + "|")

    def tell(what: str, row: Row, ratio: float | None) -> None:
        times = " | ".join(f"{seconds:.1f}" for seconds in (row.seconds, *row.parts.values()))
        say(f"| {what} | {times} | {100 * row.accuracy:.2f} | {'' if ratio is None else f'{ratio:.2f}'} |")

    with float32_precision(False), collect_warnings():
        fast_forward, fast_size = _best_pass(prepare(subject.model, subject.images[:8]), subject.images, False)
        engine = _engine(subject, min(n, fast_size), classes)
        fast, in_net, left = _fast(subject, engine)
        assert engine.prepared is not None
        fast_forward = min(fast_forward, _best_pass(engine.prepared, subject.images, False)[0])
        fast_both, _ = _best_pass(engine.prepared, subject.images, True)
        tell(f"fast, batches of {engine.batch_size}", fast, None)
        if not skip_defaults:
            row = _reference(subject, 32, as_benchmark=True)
            tell("`robustbench.benchmark`'s defaults, batches of 32", row, row.seconds / fast.seconds)
        subject.model.requires_grad_(False)
        forward, forward_size = _best_pass(subject.model, subject.images, False)
        both, both_size = _best_pass(subject.model, subject.images, True)
        best_size = min(n, forward_size if FORWARD * forward > BOTH * both else both_size)
        row = _reference(subject, best_size, as_benchmark=False)
        tell(f"pyautoattack, batches of {best_size}", row, row.seconds / fast.seconds)
        square = {
            what: _square_without(subject, engine, left, bounds=bounds, twins=twins)
            for what, bounds, twins in (
                ("", True, True),
                ("bounds", False, True),
                ("looking back", True, False),
                ("either", False, False),
            )
            if spared
        }
    protocol = engine.answered
    gradients = protocol["apgd-ce"] + protocol["apgd-t"] + protocol["fab-t"]
    plain = protocol["fab-t"] + protocol["square"]
    asked = sum(engine.asked.values()) + engine.asked["fab-t"]
    floor = gradients * fast_both + plain * fast_forward
    say()
    say("| fast engine | |")
    say("| --- | --- |")
    say(f"| passes of the protocol, of these with a gradient | {plain + gradients}, {gradients} |")
    say(f"| passes made | {asked}, {asked / fast.seconds:.0f} a second |")
    say(
        f"| bare pass per image, forward / with gradient | {1e3 * forward:.3f} / {1e3 * both:.3f} ms as the model is, "
        f"{1e3 * fast_forward:.3f} / {1e3 * fast_both:.3f} ms prepared |"
    )
    say(f"| time outside the net | {100 * (1 - in_net / fast.seconds):.1f} % |")
    say(f"| time over (passes of the protocol x best bare pass) | {fast.seconds / floor:.2f} |")
    if engine.bounds is not None:
        bounds = engine.bounds
        say(
            f"| Square: passes asked for, g and the mixing network ran for | {engine.asked['square']} of "
            f"{protocol['square']}, {bounds.std_runs}, {bounds.mixing_runs} |"
        )
    for what, seconds in square.items():
        say(f"| Square {'alone' if not what else f'without {what}'} | {seconds:.1f} s |")
    say()
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
