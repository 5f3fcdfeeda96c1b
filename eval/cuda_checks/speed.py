"""Parts that ask how fast it is: against pyautoattack, RobustBench's classes and Cohen's loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo.attacks.autoattack.apgd import intervals
from adaptive_smoothing_zoo.attacks.losses import cross_entropy, loss_and_gradient
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.bit_resnet import fold_weight_standardization
from adaptive_smoothing_zoo.certification.certify import certify as certify_images
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.machine import graphs
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.machine.ready import ready
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, convert_mixing_network
from adaptive_smoothing_zoo.zoo.entry import Entry
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.triplet import load_triplet, meta_triplet
from cuda_checks.parts import Bar, Clock, Found, Place, Subject, cifar_triplet, digits, part, resnet_pair

SIZES = (32, 128, 256, 512, 1024)
# What a robust point costs in pyautoattack: passes forward, and passes forward and backward.
FORWARD, BOTH = 5947, 1910
TEST_SET = 10_000


def search_precision(place: Place) -> str:
    """In which the attacks search: TF32, or on a CPU, which has none, full precision."""
    return "tf32" if place.on_cuda else "float32"


@part
def autoattack_pair(place: Place) -> Found:
    """AutoAttack by three routes on a pair of ResNet-18; what a whole test set would take.

    On a CPU it should be the only part of a run: our routes change how the process keeps memory, for those after them.
    """
    # On CUDA as many points as fill the largest batches of every route.
    points, share = (4, 0.004) if place.tiny else (SIZES[-1], 0.04) if place.on_cuda else (64, 0.05)
    subject = resnet_pair(place, points, share)
    found, routes = _three_routes(place, subject)
    defaults, best, ours = (route.seconds for route in routes)
    found.bars += [
        Bar(f"{subject.name}: times as fast as RobustBench's defaults", defaults / ours, 5, "least", judged="cifar"),
        Bar(f"{subject.name}: times as fast as pyautoattack's best batches", best / ours, 1.5, "least", judged="both"),
    ]
    whole = ours / subject.scale * TEST_SET / len(subject.labels) / 60
    found.add("10,000 images, minutes, extrapolated from these points and this share of the iterations", whole)
    found.bars.append(
        Bar(f"{subject.name}: minutes for 10,000 images, extrapolated", whole, 15, "most", judged="cifar")
    )
    return found


@part
def autoattack_triplet(place: Place) -> Found:
    """The same on an embedded CIFAR-10 triplet."""
    if not (place.tiny or place.on_cuda):
        return Found([("left out", "too large for a CPU")])
    points, share = (2, 0.002) if place.tiny else (512, 0.05)
    return _three_routes(place, cifar_triplet(place, points, share))[0]


@dataclass
class Route:
    """How long a route took, and what it left robust."""

    name: str
    seconds: float
    robust: Tensor
    parts: dict[str, float]


def _three_routes(place: Place, subject: Subject) -> tuple[Found, list[Route]]:
    found, model = Found(), subject.model
    sizes = [size for size in SIZES if size <= max(32, len(subject.labels))][: place.sized(1, len(SIZES))]
    bare = _bare(place, model, subject.images, sizes)
    size = bare.forward_size if FORWARD * bare.forward > BOTH * bare.gradient else bare.gradient_size
    routes = [_reference(subject, 32, "RobustBench's defaults, batches of 32", as_benchmark=True)]
    routes.append(_reference(subject, size, f"pyautoattack, batches of {size}", as_benchmark=False))
    ours, floor = _ours(place, subject, sizes)
    routes.append(ours)
    found.add("subject", f"{subject.name}, {len(subject.labels)} points, {subject.source}")
    found.add("share of the protocol's iterations", subject.scale)
    for route in routes:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in route.parts.items())
        found.add(
            route.name, f"{route.seconds:.1f} s ({parts}), robust {100 * float(route.robust.float().mean()):.1f} %"
        )
    times = ours.seconds / floor
    found.bars.append(Bar(f"{subject.name}: time over that of its bare passes", times, 1.15, "most", judged="cifar"))
    return found, routes


def _reference(subject: Subject, batch_size: int, name: str, *, as_benchmark: bool) -> Route:
    """pyautoattack on the model as it is, in the precision that PyTorch sets by itself.

    Args:
        as_benchmark: as ``robustbench.benchmark``: weights not frozen, clean accuracy before and accuracy after.
    """
    from pyautoattack import AutoAttack

    model, images, labels = subject.model, subject.images, subject.labels
    runner = AutoAttack(
        model, norm=subject.threat.norm, eps=subject.threat.eps, version="standard", device=images.device
    )
    settings = subject.settings()
    for attack in (runner.apgd, runner.apgd_targeted, runner.fab):
        attack.n_iter = settings.plan("apgd-ce").iterations
        attack.n_iter_2, attack.size_decr, attack.n_iter_min = intervals(attack.n_iter)
    runner.square.n_queries = settings.plan("square").queries
    parts = dict.fromkeys(STANDARD_ATTACKS, 0.0)
    attacks = (runner.apgd, runner.apgd_targeted, runner.fab, runner.square)
    for attack_name, attack in zip(STANDARD_ATTACKS, attacks, strict=True):
        attack.perturb = _added_up(attack.perturb, parts, attack_name, images.device)
    _one_pass(model, images[:batch_size], gradient=True)
    model.requires_grad_(as_benchmark)
    clock = Clock(images.device)
    if as_benchmark:
        _predict(model, images, batch_size)
    adversarials, _ = runner.run_standard_evaluation(images, labels, batch_size=batch_size)
    robust = _predict(model, adversarials, batch_size) == labels
    seconds = clock()
    model.requires_grad_(False)
    return Route(name, seconds, robust, parts)


def _added_up(
    function: Callable[..., Tensor], parts: dict[str, float], name: str, device: torch.device
) -> Callable[..., Tensor]:
    def call(*arguments: object, **options: object) -> Tensor:
        clock = Clock(device)
        result = function(*arguments, **options)
        parts[name] += clock()
        return result

    return call


def _ours(place: Place, subject: Subject, sizes: list[int]) -> tuple[Route, float]:
    """The search of this package, checks and all; and the seconds of its passes alone."""
    images, labels, parts = subject.images, subject.labels, dict.fromkeys(STANDARD_ATTACKS, 0.0)
    sizes = list(SIZES) if place.on_cuda else sizes  # a point has several runs
    settings = subject.settings(search_precision=search_precision(place), batch_size=sizes[-1])
    with torch.no_grad():
        classes = subject.model(images[:1]).shape[1]
    # Shapes that come often are recorded; a shortened run meets them less often.
    often = patch.object(graphs, "OFTEN", max(2, round(graphs.OFTEN * subject.scale)))
    with ready(subject.model, place.device) as net, often:
        clock = Clock(place.device)
        engine = Search(net, subject.threat, settings, num_classes=classes, device=place.device)
        engine.check(images, labels)
        robust = _predict(net, images, engine.batch_size) == labels
        points = robust.nonzero().squeeze(1)
        part_clock = Clock(place.device)
        for verdict in engine.run(images[points], labels[points], points):
            parts[verdict.attack] += part_clock()
            part_clock = Clock(place.device)
            robust[points[verdict.points[verdict.broken].to(points.device)]] = False
        seconds = clock()
        bare = _bare(place, prepare(net, images[:8]), images, sizes, tf32=settings.tf32)
    answered = engine.answered
    with_gradient = answered["apgd-ce"] + answered["apgd-t"] + answered["fab-t"]
    floor = with_gradient * bare.gradient + (answered["fab-t"] + answered["square"]) * bare.forward
    return Route(f"ours, batches of {sizes[-1]}, search in {settings.search_precision}", seconds, robust, parts), floor


@torch.no_grad()
def _predict(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([model(batch).argmax(1) for batch in images.split(batch_size)])


@dataclass
class Bare:
    """Seconds per image of a bare pass, forward and with a gradient, each at its best batch size."""

    forward: float
    gradient: float
    forward_size: int
    gradient_size: int


def _bare(place: Place, model: nn.Module, images: Tensor, sizes: list[int], tf32: bool | None = None) -> Bare:
    """In TF32 or not; as PyTorch sets it if None."""
    best = []
    with nullcontext() if tf32 is None else float32_precision(tf32):
        for gradient in (False, True):
            times = []
            for size in sizes:
                batch = images.repeat(-(-size // len(images)), 1, 1, 1)[:size].contiguous()
                run = functools.partial(_one_pass, model, batch, gradient=gradient)
                times.append((_seconds(run, place, place.sized(1, 5)) / size, size))
            best.append(min(times))
    return Bare(best[0][0], best[1][0], best[0][1], best[1][1])


def _one_pass(model: nn.Module, images: Tensor, *, gradient: bool) -> None:
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    if gradient:
        loss_and_gradient(model, images, lambda logits: cross_entropy(logits, labels))
    else:
        with torch.no_grad():
            model(images)


def _seconds(run: Callable[[], object], place: Place, repeats: int) -> float:
    """Median time of a call, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        clock = Clock(place.device)
        run()
        times.append(clock())
    return median(times)


@part
def precisions(place: Place) -> Found:
    """Verdicts of a search in low precision and in float32 differ no more than those of two seeds."""
    subject = replace(digits(place, 6), scale=0.02) if place.tiny else cifar_triplet(place, 256, 0.1)
    low = search_precision(place) if place.on_cuda else "bfloat16"
    runs = {}
    for name, precision, seed in (("low", low, 0), ("float32", "float32", 0), ("other seed", "float32", 1)):
        settings = subject.settings(search_precision=precision, seed=seed, batch_size=len(subject.labels))
        images, labels = subject.images, subject.labels
        clock = Clock(place.device)
        runs[name] = evaluate(
            subject.model, images, labels, threat=subject.threat, settings=settings, device=place.device
        ).robust
        runs[name + " seconds"] = clock()
    apart, seeds = (int(np.sum(runs["float32"] != runs[name])) for name in ("low", "other seed"))
    found = Found()
    found.add("subject", f"{subject.name}, {len(subject.labels)} points, {subject.source}")
    found.add(f"search in {low}, in float32: seconds", f"{runs['low seconds']:.1f}, {runs['float32 seconds']:.1f}")
    found.add("robust, %", f"{100 * runs['low'].mean():.1f}, {100 * runs['float32'].mean():.1f}")
    found.add("verdicts that differ: the precisions', two seeds'", f"{apart}, {seeds}")
    # Where two seeds agree by chance, one point more is no finding.
    judged: Any = "cifar" if place.on_cuda else "everywhere"
    found.bars.append(Bar(f"verdicts that {low} changes, beyond two seeds'", apart - seeds, 1, "most", judged=judged))
    return found


@part
def digits_64(place: Place) -> Found:
    """The whole protocol on 64 digits, for which launches count more than arithmetic."""
    subject = digits(place, place.sized(4, 64))
    settings = AttackSettings(search_precision=search_precision(place))  # type: ignore[arg-type]
    settings = settings.limited(iterations=2, queries=10) if place.tiny else settings
    clock = Clock(place.device)
    result = evaluate(
        subject.model, subject.images, subject.labels, threat=subject.threat, settings=settings, device=place.device
    )
    found, seconds = Found(), clock()
    found.add("seconds by attack", ", ".join(f"{name} {each:.1f}" for name, each in result.seconds.items()))
    found.add("robust, %; batch size", f"{100 * result.robust_accuracy:.1f}; {result.batch_size}")
    found.bars.append(Bar("64 digits, the whole protocol: seconds", seconds, 15, "most", judged="cuda"))
    return found


@part
def certification(place: Place) -> Found:
    """``certify`` against Cohen's loop as its users write it, in each precision."""
    torch.manual_seed(0)
    net, shape = (build("small_cnn"), (1, 8, 8)) if place.tiny else (build("resnet18", width=32), (3, 32, 32))
    net = net.eval().requires_grad_(False).to(place.device)
    image, n = torch.rand(1, *shape, device=place.device), place.sized(100, 100_000)
    label, found = torch.zeros(1, dtype=torch.int64), Found()
    for precision in ("float32", "tf32", "bfloat16") if place.on_cuda else ("float32", "bfloat16"):
        with _precision_of(place, precision):
            theirs = _seconds(functools.partial(_cohen, net, image[0], n), place, 1)
        dtype: Any = precision if precision == "tf32" else getattr(torch, precision)
        words = {"sigma": 0.25, "n0": 100, "n": n, "dtype": dtype, "device": place.device}
        ours = _seconds(lambda words=words: certify_images(net, image.cpu(), label, **words), place, 1)
        found.add(f"us a sample in {precision}: Cohen's loop, ours", f"{1e6 * theirs / n:.2f}, {1e6 * ours / n:.2f}")
        times = theirs / ours
        found.bars.append(Bar(f"certify: times as fast as Cohen's loop, {precision}", times, 3, "least", judged="cuda"))
    return found


@contextmanager
def _precision_of(place: Place, precision: str) -> Iterator[None]:
    lowered = torch.autocast(place.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with float32_precision(precision == "tf32"), lowered:
        yield


@torch.no_grad()
def _cohen(model: nn.Module, image: Tensor, n: int, batch_size: int = 1000) -> np.ndarray:
    """Votes as published: batches of copies with fresh noise, counted one by one on the host [CRK19]."""
    counts = np.zeros(10, dtype=int)
    for begin in range(0, n + 100, batch_size):
        batch = image.repeat((min(batch_size, n + 100 - begin), 1, 1, 1))
        for prediction in model(batch + torch.randn_like(batch) * 0.25).argmax(1).cpu().numpy():
            counts[prediction] += 1
    return counts


@part
def published(place: Place) -> Found:
    """Passes of a published triplet of full size with random weights: this package against RobustBench's class."""
    if find_spec("robustbench") is None:
        return Found([("left out", "RobustBench is not installed")])
    found = Found()
    theirs, ours = _composites(place)
    with torch.no_grad(), float32_precision(tf32=False):
        images = torch.rand(2, 3, 32, 32, device=place.device)
        apart = float((theirs(images) - ours(images)).abs().max())
    found.bars.append(Bar("published triplet: largest difference of logits", apart, 2e-3, "most"))
    for precision in ("tf32", "bfloat16") if place.on_cuda else ("float32",):
        for gradient in (False, True):
            for size in (1,) if place.tiny else (40, 256):
                # RobustBench's class switches autocast off for itself, whoever has switched it on.
                same = patch.object(torch.cuda.amp, "autocast", lambda **_: nullcontext())
                with _precision_of(place, precision), same:
                    rates = [_rate(place, model, size, gradient) for model in (theirs, ours)]
                what = f"{precision}, {'with gradient' if gradient else 'forward'}, {size}: images/s and GiB"
                said = " | ".join(f"{rate:.0f} and {gib:.1f}" for rate, gib in rates)
                found.add(f"{what}, RobustBench's and ours", said.replace(" | ", "; "))
    return found


def _rate(place: Place, model: nn.Module, size: int, gradient: bool) -> tuple[float, float]:
    """Images a second, and the peak of memory; not a number where that runs out."""
    images = torch.rand(size, 3, 32, 32, device=place.device)
    if place.on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(place.device)
    try:
        seconds = _seconds(functools.partial(_one_pass, model, images, gradient=gradient), place, place.sized(1, 3))
    except torch.OutOfMemoryError:
        return float("nan"), float("nan")
    peak = torch.cuda.max_memory_allocated(place.device) if place.on_cuda else 0
    return size / seconds, peak / 2**30


def _composites(place: Place) -> tuple[nn.Module, nn.Module]:
    """RobustBench's composite and ours, with the same random weights; reduced ones if all is tiny."""
    adaptive_smoothing_zoo.register()
    comp_model = import_module("robustbench.model_zoo.architectures.comp_model")
    entry = find_entry("Bai2023Improving_edm", "cifar100", "Linf")
    torch.manual_seed(0)
    with ExitStack() as stack:
        # The constructor of RobustBench's BiT asks for a GPU. Both are made on the CPU.
        stack.enter_context(patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self))
        if place.tiny:
            entry = _reduced(entry, comp_model, stack.enter_context)
        theirs = comp_model.get_composite_model("edm", "cifar100").eval().requires_grad_(False)
    inner, skeleton = theirs._comp_model, meta_triplet(entry)
    mixing = {"model": inner.policy_net.state_dict(), "bn": inner.bn.state_dict()}
    parts = {
        "std_model": convert_base_net(inner.models[0].state_dict(), entry.std_model, skeleton.std_model, "g"),
        "rob_model": convert_base_net(inner.models[1].state_dict(), entry.rob_model, skeleton.rob_model, "h"),
        "alpha": convert_mixing_network(mixing, skeleton.alpha, "the mixing network"),
    }
    state = {f"{name}.{key}": value.clone() for name, found in parts.items() for key, value in found.items()}
    ours = load_triplet(entry, state)
    fold_weight_standardization(ours)
    ours = ours.eval().requires_grad_(False).to(place.device).to(memory_format=torch.channels_last)
    return theirs.to(place.device), ours


def _reduced(entry: Entry, comp_model: Any, enter: Callable[[AbstractContextManager[Any]], object]) -> Entry:
    """Small base nets in RobustBench's classes and in the entry."""
    std, rob = {"depth": (1, 1, 1, 1), "width": 1}, {"depth": 10, "width": 4}
    std_net = functools.partial(comp_model.bit_rn.ResNetV2, std["depth"], std["width"])
    rob_net, network = comp_model.dm_rn.WideResNet, comp_model.MixingNetV4
    enter(patch.dict(comp_model.bit_rn.KNOWN_MODELS, {"BiT-M-R152x2": std_net}))
    enter(patch.object(comp_model.dm_rn, "WideResNet", lambda **given: rob_net(**{**given, **rob})))
    enter(patch.object(comp_model, "MixingNetV4", lambda _: network({"in_planes": (256, 64)})))
    return replace(
        entry,
        std_model=replace(entry.std_model, arguments={**entry.std_model.arguments, **std}),
        rob_model=replace(entry.rob_model, arguments={**entry.rob_model.arguments, **rob}),
        alpha=replace(entry.alpha, planes=(384, 640, 1024)),
    )
