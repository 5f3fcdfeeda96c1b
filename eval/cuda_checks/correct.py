"""Parts that ask whether the answers are right."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import Tensor, nn

from adaptive_smoothing_zoo import list_models, load_model
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.losses import loss_and_gradient
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.cli import asz
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.evaluation import Evaluation, evaluate
from adaptive_smoothing_zoo.evaluation.adapt import evaluate_adaptive
from adaptive_smoothing_zoo.machine import graphs
from adaptive_smoothing_zoo.machine.folding import prepare
from adaptive_smoothing_zoo.machine.graphs import Graphed, Rerun, recorder_of, waiting_refused
from adaptive_smoothing_zoo.machine.precision import float32_precision
from adaptive_smoothing_zoo.machine.ready import ready
from cuda_checks import killed
from cuda_checks.parts import Bar, Found, Place, digits, part, resnet_pair


@part
def parity(place: Place) -> Found:
    """Logits and gradients of every embedded triplet, as it is, prepared, and replayed, against the CPU's."""
    found, worst, left_out = Found(), [0.0, 0.0, 0.0], 0
    for entry in list_models():
        if not entry.comes_along:
            continue
        model = load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model).requires_grad_(False)
        images = _images(entry.dataset, entry.image_shape, place.sized(1, 16))
        with float32_precision(tf32=False):
            expected = _answers(model, images)
            if not torch.equal(model(images), expected[0]):
                found.add(f"{entry.name} ({entry.dataset})", "does not answer the same twice; left out")
                left_out += 1
                continue
            apart = _apart(expected, model.to(place.device), images.to(place.device))
        worst = [max(pair) for pair in zip(worst, apart, strict=True)]
        found.add(f"{entry.name} ({entry.dataset}): logits, gradients differ by", f"{apart[0]:.1e}, {apart[1]:.1e}")
    names = "parity: largest difference of logits", "parity: of gradients, in terms of the largest"
    found.bars += [Bar(name, value, 1e-3, "most") for name, value in zip(names, worst, strict=False)]
    found.bars.append(Bar("parity: passes of a triplet that no recording replays", worst[2], 0, "most"))
    found.bars.append(Bar("parity: triplets that do not answer the same twice", left_out, 0, "most"))
    return found


def _images(dataset: str, shape: tuple[int, ...], n: int) -> Tensor:
    if dataset == "digits":
        return load_data("digits").first(n).images
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def _answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    logits, _, gradient = loss_and_gradient(
        model, images, lambda logits: F.cross_entropy(logits, labels, reduction="none")
    )
    return logits, gradient


def _apart(expected: tuple[Tensor, Tensor], model: nn.Module, images: Tensor) -> list[float]:
    """The largest differences of what the device says in three ways, of logits and of gradients; and whether the last
    way, a replay with a gradient, ran as the net itself (1) or not (0).
    """
    prepared, largest = prepare(model, images), float(expected[1].abs().max().clamp(min=1e-12))
    replayed = Graphed(prepared, recorder_of(images.device) or Rerun(), often=1)
    logits, gradients = 0.0, 0.0
    with patch.object(graphs, "WORTH", float("inf")):  # also where it is no faster
        for net in (model, prepared, replayed, replayed):
            before = replayed.recorder.replays
            found = [tensor.cpu() for tensor in _answers(net, images)]
            logits = max(logits, float((found[0] - expected[0]).abs().max()))
            gradients = max(gradients, float((found[1] - expected[1]).abs().max()) / largest)
    return [logits, gradients, float(replayed.recorder.replays == before)]


@part
def stalls(place: Place) -> Found:
    """Steps of the attacks, in which nothing may make the host wait for the device."""
    found, subject, waiting = Found(), digits(place, 8), 0
    images, labels, keys = subject.images, subject.labels, torch.arange(8, device=place.device)
    settings = subject.settings(batch_size=32)
    with ready(subject.model, place.device) as net:
        search = Search(net, subject.threat, settings, num_classes=10, device=place.device)
        for name in settings.names:
            attack, model = search.made(name, images)
            state = attack.start(images, labels, (labels + 1) % 10, keys)
            attack.step(state, model)  # what is copied once is copied here
            try:
                with waiting_refused() if place.on_cuda else nullcontext():
                    for _ in range(3):
                        attack.step(state, model)
            except RuntimeError as error:
                waiting += 1
                found.add(name, f"waits: {error}")
    found.bars.append(Bar("stalls: attacks whose steps wait for the device", waiting, 0, "most"))
    return found


@part
def resume(place: Place) -> Found:
    """A process is killed in its second attack; the same call then ends as one that nothing has happened to."""
    found, n, state = Found(), place.sized(6, 64), place.folder / "killed.state"
    device = str(place.device)
    words = [sys.executable, "-m", "cuda_checks.killed", device, str(n), str(state.absolute())]
    home = Path(killed.__file__).parent.parent
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=home) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.kill()
    if not said:
        raise RuntimeError("the process that was to be killed has ended by itself")
    resumed, expected = killed.whole(device, n, state=state), killed.whole(device, n)
    found.add("points, of which robust", f"{n}, {int(expected.robust.sum())}")
    found.bars.append(Bar("resume: verdicts that a kill changes", _differ(resumed, expected), 0, "most"))
    return found


def _differ(one: Evaluation, other: Evaluation) -> int:
    return int((one.robust != other.robust).sum())


class Hungry(nn.Module):
    """A net whose memory holds so many images and no more, where memory cannot be taken away."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most = net, most

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory, as is simulated on a CPU")
        return self.net(images)  # type: ignore[no-any-return]


@part
def memory(place: Place) -> Found:
    """Memory runs out, since another tensor holds most of it; batches are halved, and the verdicts stay."""
    found, n = Found(), 2048 if place.on_cuda else 16
    subject = resnet_pair(place, n, 0.02)
    settings = AttackSettings(attacks=("apgd-ce",), batch_size=n).limited(iterations=2)
    model, held = subject.model, None

    def run(model: nn.Module, settings: AttackSettings) -> Evaluation:
        images, labels = subject.images, subject.labels
        return evaluate(model, images, labels, threat=subject.threat, settings=settings, device=place.device)

    expected = run(model, AttackSettings(attacks=settings.attacks, batch_size=n // 16))
    if place.on_cuda:
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(place.device)[0]
        held = torch.empty(max(0, free - 3 * 2**30), dtype=torch.uint8, device=place.device)
    got = run(model if place.on_cuda else Hungry(model, n // 4), settings)
    del held
    found.add("batch size asked for, and used", f"{n}, {got.batch_size}")
    found.bars.append(Bar("memory: halvings of the batch", len(got.remarks), 1, "least"))
    found.bars.append(Bar("memory: verdicts that change, %", 100 * _differ(got, expected) / n, 1, "most"))
    return found


@part
def adapt(place: Place) -> Found:
    """Adaptive attacks, short, on what a short standard evaluation left."""
    found, subject = Found(), digits(place, place.sized(6, 64), "Demo2026Adaptive")
    images, labels = subject.images, subject.labels
    more = {"threat": subject.threat, "device": place.device}
    lengths = {"iterations": 5, "queries": 20, "restarts": 1, "targets": 2}
    standard = evaluate(subject.model, images, labels, settings=AttackSettings().limited(**lengths), **more)
    names = ("apgd-ce-pinned", "apgd-t-lowering", "apgd-p-nudging")
    settings = complete(AttackSettings(attacks=names, batch_size=64)).limited(**lengths)
    adaptive = evaluate_adaptive(subject.model, images, labels, standard, settings=settings, **more)
    found.add("accuracy after each", ", ".join(f"{k} {100 * v:.0f} %" for k, v in adaptive.accuracy_after.items()))
    lost = int((adaptive.robust & ~standard.robust).sum())
    found.bars.append(Bar("adapt: points that become robust again", lost, 0, "most"))
    return found


@part
def validate(place: Place) -> Found:
    """``asz validate``, all checks; two if all is tiny."""
    only = ("--only", "repeated_forward", "--only", "finite_gradients") if place.tiny else ()
    n = place.sized(4, 16)
    return _commanded(place, "validate", "Demo2026Constant", "--dataset", "digits", "--n", n, *only)


@part
def certify(place: Place) -> Found:
    """``asz certify`` of a smoothed net."""
    words = ("Demo2026Constant", "--dataset", "digits", "--part", "rob_model", "--sigma", 0.25)
    return _commanded(place, "certify", *words, "--n", place.sized(100, 10000), "--n-examples", 4)


@part
def train(place: Place) -> Found:
    """``asz train`` of a small robust net, one epoch."""
    words = ("digits_rob", "--set", "training.epochs=1", "--set", f"training.attack_steps={place.sized(1, 7)}")
    return _commanded(place, "train", *words)


def _commanded(place: Place, command: str, *words: object) -> Found:
    """A command of ``asz`` that has to end well."""
    found, folder = Found(), place.folder / command
    arguments = [command, *map(str, words), "--device", str(place.device), "--out", str(folder)]
    result = CliRunner().invoke(asz, arguments)
    if result.exit_code not in (0, 1) or (result.exception and not isinstance(result.exception, SystemExit)):
        raise RuntimeError(f"asz {command} ended with {result.exit_code}: {result.output[-500:]}") from result.exception
    found.add("asz " + " ".join(arguments[: len(words) + 1]), f"exit code {result.exit_code}")
    found.bars.append(Bar(f"{command}: exit code", result.exit_code, 0, "most"))
    return found
