"""What the fast engine saves: AutoAttack "standard" by three routes, on the same points, one after the other.

    python eval/benchmarks/engines.py Demo2026Adaptive --dataset digits --n 64
    python eval/benchmarks/engines.py resnet20-pair --n 32 --scale 0.05

The routes: pyautoattack as RobustBench's ``benchmark`` calls it (batches of 32, weights not frozen by the caller, clean
accuracy before and after); pyautoattack with frozen weights in the batches that suit the model best; and the fast
engine. For the fast engine a second table says what it was busy with, how far it is from the floor (the protocol's
passes, each in the best time that a bare pass of the prepared net was seen to take), and what its two ways to spare
passes save.

On a CPU pyautoattack's routes run in processes of their own, since the fast engine changes how this one's memory is
managed. Times are CPU seconds of the process with one thread, and wall seconds otherwise: on a shared machine only the
former are worth comparing, and even these depend on who else is there. So the routes take turns, and of each attack the
best time by each route counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import click
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo import MixedClassifier, ThreatModel, load_model
from adaptive_smoothing_zoo.attacks.autoattack import apgd, fab, square
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, loss_and_gradient
from adaptive_smoothing_zoo.attacks.margin_bounds import BoundedMargins
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.machine.allocator import freed_memory_kept
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.storage.provenance import device_name, installed_versions

PAIRS = {"resnet20-pair": "resnet20", "resnet18-pair": "resnet18"}  # untrained
BATCH_SIZES = {"cpu": (32, 64, 128, 256, 512), "cuda": (32, 128, 256, 512, 1024, 2048)}
DEFAULTS = "`robustbench.benchmark`'s defaults, batches of 32"
# What spares Square passes: what to call it, whether bounds are used, whether it looks back.
SPARED = (
    ("as it is", True, True),
    ("without bounds", False, True),
    ("without looking back", True, False),
    ("without either", False, False),
)
BOUNDS: list[BoundedMargins] = []  # with which Square asked a mix last
# A robust point costs this many passes forward and this many forward and backward in pyautoattack.
FORWARD, BOTH = 5947, 1910


@dataclass
class Row:
    """Seconds of each attack and of all the rest, and the robust accuracy."""

    parts: dict[str, float]
    rest: float
    accuracy: float

    @property
    def seconds(self) -> float:
        return sum(self.parts.values()) + self.rest

    def best(self, other: Row) -> Row:
        parts = {name: min(seconds, other.parts[name]) for name, seconds in self.parts.items()}
        return Row(parts, min(self.rest, other.rest), self.accuracy)


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


@dataclass
class Bare:
    """Seconds per image of a bare pass, forward and with a gradient, each at the best batch size, and these sizes."""

    forward: float
    gradient: float
    forward_size: int
    gradient_size: int

    def best(self, other: Bare) -> Bare:
        forward = min((self.forward, self.forward_size), (other.forward, other.forward_size))
        gradient = min((self.gradient, self.gradient_size), (other.gradient, other.gradient_size))
        return Bare(forward[0], gradient[0], forward[1], gradient[1])


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
    """Model, images, labels and radius. A pair is untrained, with a radius at which it hardly ever fails."""
    if name in PAIRS:
        torch.manual_seed(0)
        pair = MixedClassifier(build(PAIRS[name]), build(PAIRS[name]), 0.9).eval()
        images = torch.rand(n, 3, 32, 32)
        with torch.no_grad():
            return pair, images, pair(images).argmax(1), 1e-6
    model = load_model(name, dataset=dataset)
    examples = load_data(dataset, data_dir=data_dir).first(n)
    return model, examples.images, examples.labels, model.entry.eps_value


def _bare(model: nn.Module, images: Tensor) -> Bare:
    forward, gradient = (_best_pass(model, images, with_gradient) for with_gradient in (False, True))
    return Bare(forward[0], gradient[0], forward[1], gradient[1])


def _best_pass(model: nn.Module, images: Tensor, gradient: bool) -> tuple[float, int]:
    times = []
    for size in BATCH_SIZES[images.device.type]:
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


def _apart(route: Callable[..., Row], subject: Subject, batch_size: int, *, as_benchmark: bool) -> Row:
    """A route in a process of its own, on a CPU."""
    if subject.device.type != "cpu":
        return route(subject, batch_size, as_benchmark=as_benchmark)
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as process:
        return process.submit(route, subject, batch_size, as_benchmark=as_benchmark).result()


def _reference(subject: Subject, batch_size: int, *, as_benchmark: bool) -> Row:
    """pyautoattack's own class on the model as it is, after a first pass that sets things up."""
    from pyautoattack import AutoAttack

    model, images, labels = subject.model, subject.images, subject.labels
    first = labels[:batch_size]
    loss_and_gradient(model, images[:batch_size], lambda logits: cross_entropy(logits, first, first))
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
    rest = clock() - sum(parts.values())
    return Row(parts, rest, float((_predict(model, adversarials, batch_size) == labels).float().mean()))


def _added_up(
    function: Callable[..., Tensor], parts: dict[str, float], name: str, device: torch.device
) -> Callable[..., Tensor]:
    def call(*arguments: object, **options: object) -> Tensor:
        clock = Clock(device)
        result = function(*arguments, **options)
        parts[name] += clock()
        return result

    return call


def _engine(subject: Subject, batch_size: int, classes: int) -> Search:
    settings = AttackSettings(batch_size=batch_size).limited(iterations=subject.iterations, queries=subject.queries)
    threat = ThreatModel(subject.norm, subject.eps)
    return Search(subject.model, threat, settings, num_classes=classes, device=subject.device)


def _fast(subject: Subject, engine: Search) -> tuple[Row, float, Tensor]:
    """The row, the share of its time outside the net, and the points that were left for Square."""
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
    seconds = clock()
    row = Row(parts, seconds - sum(parts.values()), float(robust.float().mean()))
    return row, 1 - sum(in_net) / seconds, left


def _attack(subject: Subject, engine: Search, name: str, robust: Tensor) -> Tensor:
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
def _time_in_net(engine: Search, device: torch.device) -> Iterator[list[float]]:
    """Collect the seconds spent in passes of the prepared model, forward and backward."""
    seconds: list[float] = []

    def timed(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            clock = Clock(device)
            result = function(*arguments)
            seconds.append(clock())
            return result

        return call

    net, bounded_margins = engine.prepared, square.bounded_margins
    assert net is not None
    forward, whole = net.forward, timed(loss_and_gradient)
    with ExitStack() as stack:
        for module in (apgd, fab):
            stack.enter_context(patch.object(module, "loss_and_gradient", whole))
        # Passes with a gradient are timed as a whole.
        quick = timed(forward)
        stack.enter_context(patch.object(net, "forward", lambda x: (forward if x.requires_grad else quick)(x)))

        def timed_bounds(model: nn.Module) -> object:
            bounds = bounded_margins(model)
            BOUNDS[:] = [bounds] if bounds is not None else []
            return None if bounds is None else timed(bounds)

        stack.enter_context(patch.object(square, "bounded_margins", timed_bounds))
        yield seconds


def _square_without(subject: Subject, engine: Search, left: Tensor, *, bounds: bool, twins: bool) -> float:
    """Seconds of Square on the points left for it, with only some of the ways to spare passes."""
    alone = _engine(subject, engine.batch_size, engine.num_classes)
    alone.prepare(subject.images)
    alone.deterministic = alone.deterministic and twins
    robust = torch.zeros(len(subject.labels), dtype=torch.bool, device=left.device)
    robust[left] = True
    clock = Clock(subject.device)
    with nullcontext() if bounds else patch.object(square, "bounded_margins", lambda model: None):
        _attack(subject, alone, "square", robust)
    return clock()


@dataclass
class Measured:
    """All of the best of several turns: the routes; bare passes of the model and of the prepared one; the share of the
    fast engine's time outside the net; seconds of Square without what spares it passes; and a fast engine that ran.
    """

    rows: dict[str, Row]
    model: Bare
    prepared: Bare
    outside: float
    square: dict[str, float]
    engine: Search


def _measure(subject: Subject, turns: int, spared: bool) -> Measured:
    model, images = subject.model, subject.images
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    bare = _bare(model, images)
    with freed_memory_kept():
        prepared = _bare(prepare(model, images[:8]), images)
    best_size = bare.forward_size if FORWARD * bare.forward > BOTH * bare.gradient else bare.gradient_size
    best_size, fast_size = min(len(images), best_size), min(len(images), prepared.forward_size)
    rows: dict[str, Row] = {}
    square: dict[str, float] = {}
    outside = 1.0
    for _ in range(turns):
        for parameter in trainable:  # RobustBench leaves them so
            parameter.requires_grad_(True)
        found = {DEFAULTS: _apart(_reference, subject, 32, as_benchmark=True)}
        model.requires_grad_(False)
        found[f"pyautoattack, batches of {best_size}"] = _apart(_reference, subject, best_size, as_benchmark=False)
        engine = _engine(subject, fast_size, classes)
        with freed_memory_kept():  # as evaluate does
            found[f"fast, batches of {fast_size}"], share, left = _fast(subject, engine)
            assert engine.prepared is not None
            prepared = prepared.best(_bare(engine.prepared, images))
        outside = min(outside, share)
        bare = bare.best(_bare(model, images))
        rows = {route: row.best(rows.get(route, row)) for route, row in found.items()}
        for route, row in found.items():
            click.echo(f"{route}: {row.seconds:.1f} s", err=True)
        for what, bounds, twins in SPARED if spared else ():
            with freed_memory_kept():
                seconds = _square_without(subject, engine, left, bounds=bounds, twins=twins)
            square[what] = min(seconds, square.get(what, seconds))
    return Measured(rows, bare, prepared, outside, square, engine)


def _report(subject: Subject, measured: Measured, turns: int) -> list[str]:
    """Two tables in Markdown."""
    kind = "CPU seconds" if Clock(subject.device).read is time.process_time else "wall seconds"
    versions = installed_versions()
    fast = list(measured.rows.values())[-1]
    lines = [
        f"## {subject.name}, {len(subject.labels)} points, {subject.norm} {subject.eps:g}",
        "",
        f"{device_name(str(subject.device))}, {kind}, best of {turns}; torch {versions['torch']}, pyautoattack "
        f"{versions['pyautoattack']}; {subject.iterations} iterations of APGD and FAB, {subject.queries} queries of "
        "Square.",
        "",
        "| route | " + " | ".join(("all", *STANDARD_ATTACKS)) + " | robust, % | fast is faster by |",
        "| --- " * (len(STANDARD_ATTACKS) + 4) + "|",
    ]
    for route, row in measured.rows.items():
        times = " | ".join(f"{seconds:.1f}" for seconds in (row.seconds, *row.parts.values()))
        ratio = "" if row is fast else f"{row.seconds / fast.seconds:.2f}"
        lines.append(f"| {route} | {times} | {100 * row.accuracy:.2f} | {ratio} |")
    return [*lines, "", *_inside(measured, fast), ""]


def _inside(measured: Measured, fast: Row) -> list[str]:
    """What the fast engine was busy with."""
    engine, bare, prepared = measured.engine, measured.model, measured.prepared
    protocol = engine.answered
    gradients = protocol["apgd-ce"] + protocol["apgd-t"] + protocol["fab-t"]
    plain = protocol["fab-t"] + protocol["square"]
    made = sum(engine.asked.values()) + engine.asked["fab-t"]
    floor = gradients * prepared.gradient + plain * prepared.forward
    lines = [
        "| fast engine | |",
        "| --- | --- |",
        f"| passes of the protocol, of these with a gradient | {plain + gradients}, {gradients} |",
        f"| passes made | {made}, {made / fast.seconds:.0f} a second |",
        f"| bare pass per image, forward / with gradient | {1e3 * bare.forward:.3f} / {1e3 * bare.gradient:.3f} ms as "
        f"the model is, {1e3 * prepared.forward:.3f} / {1e3 * prepared.gradient:.3f} ms prepared |",
        f"| time outside the net | {100 * measured.outside:.1f} % |",
        f"| time over (passes of the protocol x best bare pass) | {fast.seconds / floor:.2f} |",
    ]
    if BOUNDS:
        lines.append(
            f"| Square: passes that g and the mixing network made of {engine.asked['square']} | "
            f"{BOUNDS[0].std_runs}, {BOUNDS[0].mixing_runs} |"
        )
    for what, seconds in measured.square.items():
        lines.append(f"| Square alone, {what} | {seconds:.1f} s |")
    return lines


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
@click.option("--turns", type=int, default=2, show_default=True, help="How often each route is timed.")
@click.option("--spared", is_flag=True, help="Also time Square without what spares it passes.")
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
    turns: int,
    spared: bool,
    out: Path | None,
) -> None:
    torch.set_num_threads(threads)
    place = torch.device(device)
    model, images, labels, radius = _model(name, dataset, n, data_dir)
    radius = radius if eps is None else eps
    subject = Subject(name, model.to(place).eval(), images.to(place), labels.to(place), norm, radius, place, scale)
    with float32_precision(False):
        measured = _measure(subject, turns, spared)
    text = "\n".join(_report(subject, measured, turns))
    click.echo(text)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
