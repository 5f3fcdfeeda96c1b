"""Strange inputs of the library: every call gives a result that can be, or refuses with a sentence."""

import math
from contextlib import suppress

import numpy as np
import pytest
import torch
from fuzzing import HUGE, STRANGE_TEXTS, attempt_call, cases
from PIL import Image
from short_attacks import shorten
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification import Certificates, certify, certify_lipschitz, mix_certificates
from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.bounds.margin import margin_needed
from adaptive_smoothing_zoo.certification.bounds.sharp import sharp_smoothing_radius
from adaptive_smoothing_zoo.certification.bounds.theorem4 import gaussian_lipschitz, lipschitz_radius
from adaptive_smoothing_zoo.certification.bounds.theorem5 import smoothing_radius
from adaptive_smoothing_zoo.certification.confidence import betting_lower, clopper_pearson_lower
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.adapt import evaluate_adaptive
from adaptive_smoothing_zoo.evaluation.screening import screen
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork

CLASSES = 6
NAN, INF = float("nan"), float("inf")
NUMBERS = (*HUGE, 0.3, 1.0, 1e-9, -1e-9, 2, 3, -INF, 1e38, np.float32(0.5), np.int64(2), True)
DEVICES = ("cpu", "auto", "cuda", "cuda:7", "meta", "cpu:3", "", "tpu", "mps", "cuda:-1", 0, -1, 1.5, b"cpu", None)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an empty text names the working folder


@pytest.fixture(autouse=True)
def short_attacks(monkeypatch):
    """The same machinery with fewer iterations."""
    shorten(monkeypatch, iterations=2, queries=4)


def small(widths=(4, 6)):
    return build("small_cnn", widths=widths, num_classes=CLASSES).eval()


def bit_and_wide():
    """Two nets whose feature maps fit each other at 32 x 32 alone, and a mixing network on them."""
    std = build("bit_resnet", depth=(1, 1, 1, 1), width=1, image_size=128, num_classes=CLASSES)
    rob = build("ra_wide_resnet", stem_width=4, depths=(1, 1, 1), widths=(4, 8, 16), num_classes=CLASSES)
    first, second = (std.feature_info[i]["num_chs"] + rob.feature_info[i]["num_chs"] for i in (0, 1))
    return MixedClassifier(std, rob, AdaptiveAlpha(MixingNetwork(first, second, (8, 8, 8))))


@pytest.fixture(scope="module")
def models():
    """Mixes of each kind by name, with the shape of their images."""
    torch.manual_seed(0)
    return {
        "adaptive": (load_model("Demo2026Adaptive", dataset="digits"), (1, 8, 8)),
        "constant": (MixedClassifier(small(), small(), 0.9).eval(), (1, 8, 8)),
        "g alone": (MixedClassifier(small(), small(), 0.0).eval(), (1, 8, 8)),
        "h alone": (MixedClassifier(small(), small(), 1.0).eval(), (1, 8, 8)),
        "two sizes": (bit_and_wide().eval(), (3, 32, 32)),
    }


def strange_images(rng, shape):
    """Images of a shape and a batch size from 0 to 3, changed in one way or several, or not at all."""
    count = rng.choice([0, 1, 1, 2, 3])
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    images = torch.rand((count, *shape), generator=generator)
    for change in rng.sample([_other_values, _other_shape, _other_layout, _other_dtype], rng.choice([0, 1, 1, 2, 4])):
        with suppress(RuntimeError, NotImplementedError):  # PyTorch has no such tensor
            images = change(images, rng)
    return images


def _other_values(images, rng):
    images = images.clone()
    if images.numel() and images.is_floating_point():
        for _ in range(rng.choice([1, 1, 50])):
            values = [NAN, INF, -INF, -0.5, 1.5, 3e38, 1e-45, -0.0, 1.0 + 1e-6, 255.0]
            images.view(-1)[rng.randrange(images.numel())] = rng.choice(values)
    return images


def _other_shape(images, rng):
    n, c, h, w = images.shape if images.ndim == 4 else (1, 1, 8, 8)
    ways = [
        lambda: images.flatten(),
        lambda: images.unsqueeze(0),
        lambda: images.squeeze(),
        lambda: images[0] if len(images) else images.new_zeros(()),
        lambda: images.sum(),
        lambda: images.permute(0, *range(2, images.ndim), 1) if images.ndim > 2 else images,
        lambda: images.new_full((n, 0, h, w), 0.5),
        lambda: images.new_full((n, c + 1, h, w), 0.5),
        lambda: images.new_full((n, c, 0, w), 0.5),
        lambda: images.new_full((n, c, h, 0), 0.5),
        lambda: images.new_full((n, c, 1, 1), 0.5),
        lambda: images.new_full((n, c, h + 1, w), 0.5),
        lambda: images.new_full((n, c, h, 3 * w), 0.5),
        lambda: images.new_full((n, c, 1, 65), 0.5),
    ]
    return rng.choice(ways)()


def _other_layout(images, rng):
    ways = [
        lambda: images.transpose(-1, -2) if images.ndim > 1 else images,
        lambda: images.flip(0) if images.ndim else images,
        lambda: images.repeat_interleave(2, dim=-1)[..., ::2] if images.ndim else images,
        lambda: images[:1].expand(3, *images.shape[1:]) if images.ndim and len(images) else images,
        lambda: images.to(memory_format=torch.channels_last) if images.ndim == 4 else images,
        lambda: torch.cat([images.flatten(), images.flatten()])[images.numel() :].view(images.shape),
        lambda: images.detach().requires_grad_() if images.is_floating_point() else images,
        lambda: (images.detach().requires_grad_() * 1.0) if images.is_floating_point() else images,
        lambda: images.to("meta"),
        lambda: images.to_sparse() if images.ndim else images,
        lambda: nn.Parameter(images.detach()) if images.is_floating_point() else images,
        lambda: torch.complex(images, images).real if images.dtype == torch.float32 else images,
        lambda: torch.empty(0),
    ]
    return rng.choice(ways)()


def _other_dtype(images, rng):
    real = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
    return images.to(rng.choice([*real, torch.uint8, torch.int8, torch.int64, torch.bool, torch.complex64]))


def strange_objects(rng, images):
    """What somebody may give in place of a tensor."""
    return rng.choice([None, images.tolist() if images.layout == torch.strided else [], 3, "images", {}, (images,)])


def is_plain(images, shape):
    """Whether images are what every model of that shape must take."""
    return (
        images.layout == torch.strided
        and images.device.type == "cpu"
        and images.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        and images.ndim == 4
        and tuple(images.shape[1:]) == shape
    )


def attempt_images(images, shape, function, *arguments, **settings):
    """``attempt_call``; PyTorch itself refuses other devices, and sizes that fit no convolution."""
    try:
        return attempt_call(function, *arguments, **settings)
    except RuntimeError as error:
        if images.is_meta or (images.ndim == 4 and tuple(images.shape[1:]) != shape):
            return None, error
        raise


def test_mixed_classifiers(models):
    """Images in [0, 1] of the right shape, however they lie in memory, give what their float32 copies give.

    Anything else gives probabilities, too, or is refused; what one image holds changes nothing for another.
    """
    refused = 0
    for number, rng in cases("mixed classifiers", 1500):
        name = rng.choice(sorted(models) if number % 10 == 0 else ["adaptive", "constant", "g alone", "h alone"])
        model, shape = models[name]
        images = strange_images(rng, shape)
        given = strange_objects(rng, images) if rng.random() < 0.03 and not images.is_meta else images
        method = rng.choice(["forward", "forward", "alpha_of", "sweep", "predict"])
        arguments = (rng.choice([[0.5], [0.0, 1.0], torch.tensor([0.2, 0.7])]),) if method == "sweep" else ()
        found, error = attempt_images(images, shape, getattr(model, method), given, *arguments)
        if error is not None:
            refused += 1
            assert given is not images or not is_plain(images, shape), (number, repr(error))
            continue
        assert given is images, number
        if images.is_meta:
            continue
        expected = {"forward": (len(images), model.num_classes), "sweep": (len(found), len(images), model.num_classes)}
        assert tuple(found.shape) == expected.get(method, (len(images),)), number
        single = images.detach().to_dense().float().contiguous()
        inside = ((single >= 0) & (single <= 1)).flatten(1).all(dim=1)
        rows = found[:, inside] if method == "sweep" else found[inside]
        assert torch.isfinite(rows).all(), number
        if method == "alpha_of":
            assert ((rows >= 0) & (rows <= 1)).all(), number
        elif method != "predict":
            assert torch.allclose(rows.exp().sum(-1), torch.ones(rows.shape[:-1], dtype=rows.dtype), atol=1e-4), number
        alone = [getattr(model, method)(image[None], *arguments) for image in single[inside]]
        if alone:
            together = torch.cat(alone, dim=1 if method == "sweep" else 0)
            if method == "predict":
                assert _labels_agree(model(single[inside]), rows), number
            else:
                assert torch.allclose(rows.float(), together.float(), rtol=2e-3, atol=2e-3), number
    assert 100 < refused < 1300


def _labels_agree(output, labels):
    """Labels of the largest outputs, up to a rounding."""
    return bool((output.amax(dim=1) - output.gather(1, labels[:, None]).squeeze(1) < 1e-3).all())


def test_alphas_of_any_value(models):
    """A constant alpha and the alphas of a sweep are numbers in [0, 1] or refused."""
    model, shape = models["constant"]
    images = torch.rand(2, *shape)
    for number, rng in cases("alphas", 600):
        alphas = [rng.choice([*NUMBERS, "0.5", None, [0.5]]) for _ in range(rng.randrange(4))]
        given = rng.choice([alphas, tuple(alphas), alphas[0] if alphas else 7])
        found, error = attempt_call(model.sweep, images, given)
        if error is None:
            values = [float(alpha) for alpha in given]
            assert all(0.0 <= value <= 1.0 for value in values), number
            assert found.shape == (len(values), 2, CLASSES), number
            assert torch.isfinite(found).all(), number
        alpha, scale = rng.choice(NUMBERS), rng.choice(NUMBERS)
        made, error = attempt_call(MixedClassifier, model.std_model, model.rob_model, alpha, std_map=scale)
        if error is None:
            assert 0.0 <= alpha <= 1.0, number
            assert 0.0 < scale < INF, number
            assert torch.isfinite(made(images)).all(), number


def strange_labels(rng, n, classes=CLASSES, outside=CLASSES):
    good = torch.tensor([rng.randrange(classes) for _ in range(n)], dtype=torch.int64)
    if rng.random() < 0.5:
        return good
    ways = [
        lambda: good[:-1],
        lambda: torch.cat([good, good]),
        lambda: good.float(),
        lambda: good.to(torch.int32),
        lambda: good.to(torch.uint8),
        lambda: good[:, None],
        lambda: good + outside,
        lambda: good - outside,
        lambda: good.to("meta"),
        lambda: good.bool(),
        lambda: good.tolist(),
        lambda: good.numpy(),
        lambda: torch.stack([good, good], 1)[:, 0],
        lambda: torch.tensor(0),
        lambda: None,
    ]
    return rng.choice(ways)()


def assert_evaluation(found, images, labels, norm, eps, number):
    """The parts of an evaluation fit each other, the data and the ball."""
    n = len(images)
    assert len(found) == n, number
    assert set(np.unique(found.broken_by)) <= {"", "clean", "apgd-ce", "apgd-t", "fab-t", "square"}, number
    assert np.array_equal(found.robust, found.broken_by == ""), number
    assert not (found.robust & ~found.clean_correct).any(), number
    moved = (torch.from_numpy(found.adversarials).double() - images.double()).flatten(1)
    size = moved.abs().amax(1) if norm == "Linf" else moved.norm(dim=1)
    assert (size <= float(eps) + 1e-6).all(), number
    assert ((found.adversarials >= 0) & (found.adversarials <= 1)).all(), number
    assert math.isclose(list(found.accuracy_after.values())[-1], found.robust_accuracy), number


def test_evaluations(tmp_path):
    """Images, labels and settings of an evaluation: refused, or verdicts that fit them."""
    torch.manual_seed(1)
    net = small()
    evaluated = 0
    for number, rng in cases("evaluations", 500):
        images = strange_images(rng, (1, 8, 8)) if rng.random() < 0.6 else torch.rand(3, 1, 8, 8)
        n = len(images) if images.ndim else 0
        labels = strange_labels(rng, n)
        if rng.random() < 0.5 and isinstance(labels, torch.Tensor) and is_plain(images, (1, 8, 8)) and n:
            with torch.no_grad():
                labels = net(images.float()).argmax(dim=1)
        settings = {"eps": 0.05, "engine": "fast", "device": "cpu"}
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            name, values = rng.choice(
                [
                    ("eps", [*NUMBERS, "0.1", None, torch.tensor(0.05), torch.tensor([0.1, 0.2])]),
                    ("norm", ["Linf", "L2", "linf", "L1", *STRANGE_TEXTS, None, 2]),
                    ("seed", [*NUMBERS, "1", None, -5]),
                    ("batch_size", [*NUMBERS, 1, 2, "8"]),
                    ("device", DEVICES),
                    ("engine", ["fast", "Fast", None, *STRANGE_TEXTS]),
                    ("channels_last", [True, False]),
                    ("shard", [(0, 1), (0, 2), (1, 2), (2, 2), (-1, 2), (0, 0), (0,), None, "0/2", (0.0, 1.0), (7, 9)]),
                    ("flush_seconds", NUMBERS),
                    ("state", [tmp_path / f"{number}", tmp_path / ("x" * 300), "", "\0", tmp_path / "file" / "a"]),
                ]
            )
            settings[name] = rng.choice(list(values))
        (tmp_path / "file").write_text("in the way")
        before = images.detach().clone()
        found, error = attempt_images(images, (1, 8, 8), evaluate, net, images, labels, **settings)
        if not images.is_meta:
            assert torch.equal(images.detach().to_dense(), before.to_dense()) or not _finite(before), number
        assert not any(parameter.requires_grad is False for parameter in net.parameters()), number
        if error is not None:
            continue
        evaluated += 1
        first, count = settings.get("shard", (0, 1))
        images = images.detach()[first::count]
        assert_evaluation(found, images, labels, settings.get("norm", "Linf"), settings["eps"], number)
    assert evaluated > 100


def _finite(images):
    return images.layout == torch.strided and images.is_floating_point() and bool(torch.isfinite(images).all())


class Answers(nn.Module):
    """A net whose answers are changed on the way out."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, images):
        return self.change(self.net(images))


def strange_answers(rng):
    ways = {
        "as they are": lambda logits: logits,
        "one row": lambda logits: logits[:1],
        "no rows": lambda logits: logits[:0],
        "twice the rows": lambda logits: torch.cat([logits, logits]),
        "three dimensions": lambda logits: logits[None],
        "one dimension": lambda logits: logits.flatten(),
        "one class": lambda logits: logits[:, :1],
        "three classes": lambda logits: logits[:, :3],
        "no classes": lambda logits: logits[:, :0],
        "a tuple": lambda logits: (logits, logits),
        "nothing": lambda logits: None,
        "an array": lambda logits: logits.detach().numpy(),
        "labels": lambda logits: logits.argmax(dim=1),
        "NaN": lambda logits: logits * NAN,
        "infinity": lambda logits: logits + INF,
        "some NaN": lambda logits: torch.where(logits > logits.mean(), NAN, logits),
        "halves": lambda logits: logits.half(),
        "doubles": lambda logits: logits.double(),
        "complex numbers": lambda logits: torch.complex(logits, logits),
        "whole numbers": lambda logits: (10 * logits).long(),
        "truth values": lambda logits: logits > 0,
        "no gradient": lambda logits: logits.detach(),
        "constant": lambda logits: torch.zeros_like(logits),
        "huge": lambda logits: logits * 1e30,
        "on no device": lambda logits: logits.to("meta"),
        "sparse": lambda logits: logits.to_sparse(),
    }
    return rng.choice(sorted(ways.items()))


def test_nets_that_answer_strangely():
    """An evaluation of a net that answers something else than logits is refused; and so are screening and pgd."""
    torch.manual_seed(1)
    net = small()
    images = torch.rand(3, 1, 8, 8)
    fine = {"as they are", "huge", "a tuple"}
    for number, rng in cases("answers", 200):
        name, change = strange_answers(rng)
        model = Answers(net, change).eval()
        labels = torch.tensor([rng.randrange(3) for _ in range(3)])
        settings = {"eps": 0.05, "batch_size": rng.choice([2, 3, 8]), "device": "cpu"}
        function = rng.choice([evaluate, evaluate, screen])
        if function is evaluate:
            settings["engine"] = "fast"
        found, error = attempt_call(function, model, images, labels, **settings)
        assert error is not None or name in fine, (number, name)
        assert error is None or name != "as they are", (number, repr(error))
        if error is None and function is evaluate:
            assert_evaluation(found, images, labels, "Linf", 0.05, number)


def test_adaptive_evaluations(models):
    model, shape = models["adaptive"]
    images = torch.rand(3, *shape)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    for number, rng in cases("adaptive evaluations", 100):
        robust = np.array([True, False, True])
        given = rng.choice([robust, robust[:2], robust.astype(int), robust[None], robust[::-1]])
        settings = {"eps": 0.0, "device": "cpu"}
        for _ in range(rng.choice([0, 1, 2])):
            name, values = rng.choice(
                [
                    ("eps", [value for value in NUMBERS if not (isinstance(value, float) and 0 < value < 1e300)]),
                    ("norm", ["L2", *STRANGE_TEXTS]),
                    ("batch_size", [0, -1, NAN, 2, 3.5]),
                    ("device", DEVICES),
                    ("seed", NUMBERS),
                    ("attacks", [[], ["no such attack"], "square", [None], [""]]),
                ]
            )
            settings[name] = rng.choice(list(values))
        if settings["eps"] in (True, 1.0, 2, 3, 2**31, 1 << 40, np.int64(2)):
            settings["eps"] = -1
        used = images if rng.random() < 0.7 else strange_images(rng, shape)
        found, error = attempt_images(used, shape, evaluate_adaptive, model, used, labels, given, **settings)
        if error is None:
            assert found.robust.shape == (3,), number
            assert not (found.robust & ~given).any(), number


def test_pgd():
    """PGD stays in the ball and the box whatever it is given, or refuses."""
    torch.manual_seed(1)
    net = small()
    moved = 0
    for number, rng in cases("pgd", 700):
        images = strange_images(rng, (1, 8, 8)) if rng.random() < 0.6 else torch.rand(3, 1, 8, 8)
        n = len(images) if images.ndim else 0
        labels = strange_labels(rng, n, outside=0)
        settings = {"eps": 0.1, "step_size": 0.05, "steps": rng.choice([0, 1, 3])}
        per_example = [torch.full((n,), 0.1), torch.full((n + 1,), 0.1), torch.tensor(0.1), torch.full((1,), 0.1)]
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            name, values = rng.choice(
                [
                    ("eps", [*NUMBERS, *per_example, -per_example[0]]),
                    ("step_size", [*NUMBERS, *per_example]),
                    ("steps", [-1, 2, 2.5, "3", None, NAN]),
                    ("norm", ["Linf", "L2", "l2", None, *STRANGE_TEXTS]),
                    ("momentum", [*NUMBERS, *per_example]),
                    ("random_start", [True]),
                    ("restarts", [0, -1, 1, 2, 1.5, None]),
                    ("keep", ["best", "last", "first", None]),
                    ("seed", [*NUMBERS, "1"]),
                    ("indices", [torch.arange(n), torch.arange(n + 1), torch.rand(n), list(range(n)), None]),
                ]
            )
            settings[name] = rng.choice(list(values))
        found, error = attempt_images(images, (1, 8, 8), pgd, net, images, labels, **settings)
        if error is not None:
            continue
        assert found.shape == images.shape, number
        if images.is_meta:
            continue
        moved += 1
        inside = ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
        away = (found.double() - images.detach().double())[inside].flatten(1)
        size = away.abs().amax(dim=1) if settings.get("norm", "Linf") == "Linf" else away.norm(dim=1)
        radius = torch.as_tensor(settings["eps"], dtype=torch.float64).expand(len(images))[inside]
        slack = 1e-6 if images.dtype in (torch.float32, torch.float64) else 1e-2
        assert (size <= radius + slack).all(), number
        assert ((found[inside] >= 0) & (found[inside] <= 1)).all(), number
    assert moved > 100


def test_certify(tmp_path):
    """Certificates are of the images given, with radii that the number of samples allows, or there are none."""
    torch.manual_seed(1)
    net = small()
    certified = 0
    for number, rng in cases("certify", 300):
        images = strange_images(rng, (1, 8, 8)) if rng.random() < 0.5 else torch.rand(3, 1, 8, 8)
        n = len(images) if images.ndim else 0
        labels = strange_labels(rng, n)
        settings = {"sigma": 0.25, "n0": 4, "n": 20, "failure_probability": 0.01, "fold": False}
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            name, values = rng.choice(
                [
                    ("sigma", [*NUMBERS, "0.5", None]),
                    ("n0", [0, -1, 1, 2.5, NAN, None, "4"]),
                    ("n", [0, -1, 1, 7.5, INF, None, "4"]),
                    ("failure_probability", [*NUMBERS, "0.1", None]),
                    ("batch_size", [0, -1, 1, 7, 2.5, "8"]),
                    ("seed", [*NUMBERS, "1"]),
                    ("indices", [range(n), range(n, 0, -1), [0] * n, np.arange(n) + 0.5, range(n + 1), [NAN] * n]),
                    ("indices", [[2**70] * n, [-1] * n, np.array(["a"] * n), np.arange(n) == 1, torch.arange(n)]),
                    ("device", DEVICES),
                    ("votes", ["hard", "soft", "both", None]),
                    ("dtype", [torch.float32, torch.bfloat16, torch.int8, "float32", None]),
                    ("log", [tmp_path / f"{number}.tsv", tmp_path, "", "\0", tmp_path / ("x" * 300)]),
                ]
            )
            settings[name] = rng.choice(list(values))
        found, error = attempt_images(images, (1, 8, 8), certify, net, images, labels, **settings)
        if error is not None:
            continue
        certified += 1
        assert len(found) == n, number
        assert np.array_equal(found.label, labels.numpy()), number
        places = settings.get("indices")
        assert np.array_equal(found.index, np.arange(n) if places is None else np.array(list(places))), number
        largest = cohen_radius(
            clopper_pearson_lower(settings["n"], settings["n"], settings["failure_probability"]), settings["sigma"]
        )
        assert (found.radius <= largest + 1e-9).all(), number
    assert certified > 40


def strange_values(rng, low, high):
    """A number, an array, a list or a tensor of values, most of them in [low, high]."""
    shape = rng.choice([(), (1,), (3,), (2, 3), (0,), (4,)])
    array = np.array([rng.uniform(low, high) for _ in range(math.prod(shape))], dtype=float).reshape(shape)
    if rng.random() < 0.3:
        array = np.round(array)
    if rng.random() < 0.3 and array.size:
        array.flat[rng.randrange(array.size)] = float(
            rng.choice([NAN, INF, -INF, -1, low, high, 1 + high, 1e308, 5e-324])
        )
    ways = [
        lambda: array,
        lambda: array.tolist(),
        lambda: torch.tensor(array),
        lambda: torch.tensor(array, dtype=torch.float32),
        lambda: array.astype(np.float32),
        lambda: float(array.flat[0]) if array.size else 0.5,
        lambda: array[..., None].repeat(2, axis=-1)[..., 0],
        lambda: array.astype(complex),
        lambda: array.astype(str),
        lambda: array.astype(object),
        lambda: None,
        lambda: "0.5",
    ]
    weights = [4, 2, 2, 2, 2, 4, 1, 0.2, 0.2, 0.2, 0.1, 0.1]
    return rng.choices(ways, weights)[0]()


def test_bounds():
    """Lower confidence bounds lie in [0, 1]."""
    counted = 0
    for number, rng in cases("bounds", 1000):
        failure = rng.choice([*NUMBERS, *[0.05, 0.001, 0.5, 1e-300] * 10])
        votes, samples = rng.choice([(3, 10), (strange_values(rng, 0, 30), strange_values(rng, 1, 60))])
        if rng.random() < 0.5:
            low, error = attempt_call(clopper_pearson_lower, votes, samples, failure)
        else:
            low, error = attempt_call(betting_lower, strange_values(rng, 0, 1), failure)
        if error is None:
            counted += 1
            assert ((low >= 0) & (low <= 1)).all(), number
    assert counted > 200


def test_radii():
    """Certified radii are not negative, not NaN, and no larger with a smaller alpha."""
    found_some = 0
    for number, rng in cases("radii", 1500):
        top, runner_up = strange_values(rng, 0, 1), strange_values(rng, 0, 0.5)
        alpha, sigma = strange_values(rng, 0.5, 1), strange_values(rng, 0.1, 2)
        function, arguments = rng.choice(
            [
                (smoothing_radius, (top, runner_up, alpha, sigma)),
                (sharp_smoothing_radius, (top, runner_up, alpha, sigma)),
                (cohen_radius, (top, sigma)),
                (lipschitz_radius, (top, alpha, sigma)),
                (gaussian_lipschitz, (sigma,)),
                (margin_needed, (alpha,)),
            ]
        )
        found, error = attempt_call(function, *arguments)
        if error is None:
            found_some += 1
            assert (found >= 0).all(), number
            if function in (smoothing_radius, sharp_smoothing_radius):
                smaller = function(top, runner_up, 0.9 * np.asarray(alpha, dtype=float), sigma)
                assert (smaller <= found).all(), number
    assert found_some > 300


def strange_certificates(rng):
    """What ``Certificates`` takes, consistent, or with some of it changed."""
    n = rng.choice([0, 1, 3])
    given = {
        "index": np.arange(n),
        "label": np.arange(n) % 3,
        "prediction": np.arange(n) % 2,
        "radius": np.linspace(0.0, 1.0, n),
        "correct": np.arange(n) % 3 == np.arange(n) % 2,
        "seconds": np.ones(n),
    }
    for name in rng.sample(sorted(given), rng.choice([0, 1, 1, 2])):
        ways = [
            strange_values(rng, -1, 3),
            given[name][::-1],
            np.full(n, rng.choice([NAN, INF, -1, 2**62, 0.5])),
            [2**70] * n,
            None,
        ]
        given[name] = rng.choice(ways)
    return given


def test_certificates():
    """Certificates are consistent or refused; those of mixes are never larger than those of h."""
    for number, rng in cases("certificates", 800):
        given = strange_certificates(rng)
        made, error = attempt_call(Certificates, **given)
        if error is not None:
            continue
        assert len(made.index) == len(set(made.index.tolist())), number
        assert (made.radius >= 0).all(), number
        for name, value in given.items():
            exact = np.asarray(value.numpy() if isinstance(value, torch.Tensor) else value)
            kept = getattr(made, name)
            assert np.array_equal(kept.astype(float), exact.astype(float), equal_nan=True), (number, name)
        alpha, sigma = rng.choice([*NUMBERS, 0.9]), rng.choice([*NUMBERS, 0.5])
        bound = rng.choice(["theorem", "sharp", "other", None])
        mixed, error = attempt_call(mix_certificates, made, alpha, sigma, bound=bound)
        if error is None:
            assert (mixed.radius <= made.radius).all(), number
        share, error = attempt_call(made.certified_accuracy, strange_values(rng, 0, 2))
        assert error is not None or ((share >= 0) & (share <= 1)).all(), number
        _, error = attempt_call(made.average_certified_radius)
        assert (error is None) == (len(made) > 0), number


def test_lipschitz_certificates(models):
    model, shape = models["constant"]
    for number, rng in cases("lipschitz certificates", 200):
        images = strange_images(rng, shape)
        n = len(images) if images.ndim else 0
        labels = strange_labels(rng, n)
        settings = {"lipschitz": rng.choice([strange_values(rng, 0, 5), [1.0] * CLASSES])}
        if rng.random() < 0.3:
            settings["batch_size"] = rng.choice([0, -1, 1, 2.5, None])
        if rng.random() < 0.3:
            settings["indices"] = rng.choice([[0, 0], [1.5], range(n)])
        found, error = attempt_images(images, shape, certify_lipschitz, model, images, labels, **settings)
        if error is None:
            assert len(found) == len(images), number
            assert (found.radius >= 0).all(), number


def save_image(path, rng, size=(32, 32)):
    """An image of one of PIL's modes; its file says the format, not its name."""
    usual = rng.random() < 0.99  # the range of the others is not known
    mode = rng.choice(["RGB", "RGB", "RGB", "L", "RGBA", "P", "1", "CMYK", "LA"] if usual else ["I", "F"])
    image = Image.effect_noise(size, 50).convert("RGB" if mode == "P" else mode)
    image = image.quantize(16) if mode == "P" else image
    image.save(path, format="TIFF" if mode in ("I", "F", "CMYK") else "PNG")


def disturb(root, victim, rng):
    """Do something to one image of a folder, or put something beside it."""
    content, beside = victim.read_bytes(), victim.parent
    ways = [
        lambda: victim.unlink(),
        lambda: victim.write_bytes(b""),
        lambda: victim.write_bytes(content[: rng.randrange(len(content) or 1)]),
        lambda: victim.write_bytes(rng.randbytes(100)),
        lambda: (beside / "notes.txt").write_text("no image"),
        lambda: (beside / "deeper").mkdir(),
        lambda: (root / "loose.png").write_bytes(b"no class"),
        lambda: (beside / "loop.png").symlink_to(beside / "loop.png"),
        lambda: (beside / "gone.png").symlink_to(beside / "nowhere"),
        lambda: (beside / "folder.png").mkdir(),
        lambda: (root / "empty").mkdir(),
        lambda: (root / "cifar-10-batches-py").write_text("a file"),
    ]
    rng.choice(ways)()


def test_image_folders(tmp_path):
    """A folder of images by class is read whole, in order, or refused."""
    read = 0
    for number, rng in cases("image folders", 150):
        root = tmp_path / str(number)
        count = rng.choice([10, 10, 10, 10, 9, 11, 1])
        name = rng.choice(["{}", "{}", "class {}", "größe {}"])
        for i in range(count):
            folder = root / (name if rng.random() < 0.99 else "{} class").format(i)
            folder.mkdir(parents=True)
            for j in range(rng.choice([1, 1, 1, 2])):
                size = (32, 32) if rng.random() < 0.995 else rng.choice([(1, 1), (32, 31), (64, 64)])
                save_image(folder / f"{j}.png", rng, size)
        files = sorted(root.rglob("*.png"))
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            victim = rng.choice(files)
            if not victim.exists():
                continue
            with suppress(FileExistsError):
                disturb(root, victim, rng)
        found, error = attempt_call(load_data, "cifar10", data_dir=root)
        if error is None:
            read += 1
            assert found.images.shape[1:] == (3, 32, 32), number
            assert len(found) == sum(1 for path in root.rglob("*.png") if path.is_file() and path.parent != root), (
                number
            )
            assert (found.labels[1:] >= found.labels[:-1]).all(), number
    assert 20 < read < 140


def test_names_of_data_and_models(tmp_path, monkeypatch):
    """Names, folders, files, devices and number formats of any kind: a model, or a sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").write_text("no folder")
    folders = [None, "", "file", "missing", ".", "\0", "x" * 300, tmp_path, tmp_path / "file" / "a", 5, b"x"]
    names = ["Demo2026Adaptive", "Demo2026Constant", "demo2026adaptive", *STRANGE_TEXTS, None, 3, ()]
    datasets = ["digits", "cifar10", "cifar100", "imagenet", "DIGITS", *STRANGE_TEXTS, None, 3, []]
    loaded = 0
    for number, rng in cases("names", 600):
        dataset = rng.choice(["digits"] * 30 + datasets)
        examples, error = attempt_call(
            load_data, rng.choice(["digits", *datasets[3:]]), rng.choice(["test", "x", None, 2])
        )
        assert error is not None or len(examples), number
        settings = {}
        for _ in range(rng.choice([0, 1, 1, 2])):
            name, values = rng.choice(
                [
                    ("model_dir", folders),
                    ("threat_model", ["Linf", "L2", "linf", None, 3, *STRANGE_TEXTS]),
                    ("custom_checkpoint", [*folders, "weights.safetensors"]),
                    ("device", DEVICES),
                    (
                        "dtype",
                        [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.complex64, "float32", 3],
                    ),
                    ("revision", ["main", "", "x" * 41]),
                ]
            )
            settings[name] = rng.choice(list(values))
        model, error = attempt_call(load_model, rng.choice([*names[:2] * 20, *names]), dataset=dataset, **settings)
        if error is None:
            loaded += 1
            assert model.entry.dataset == dataset, number
            if settings.get("device") != "meta":
                assert torch.isfinite(model(torch.rand(1, *model.entry.image_shape))).all(), number
    assert loaded > 60
