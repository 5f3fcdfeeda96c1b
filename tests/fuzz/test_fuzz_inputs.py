"""Strange inputs of the library: every call gives a result that can be, or refuses with a sentence."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from fuzzing import attempt_call, cases
from strange import (
    ANSWERS,
    DEVICES,
    INF,
    NAN,
    NUMBERS,
    OBJECTS,
    SEEDS,
    TEXTS,
    Answers,
    changed,
    strange_images,
    strange_labels,
)

from adaptive_smoothing_zoo import MixedClassifier, load_model
from adaptive_smoothing_zoo.attacks.pgd import pgd
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification import certify, certify_at_radius, certify_lipschitz
from adaptive_smoothing_zoo.certification.bounds.cohen import cohen_radius
from adaptive_smoothing_zoo.certification.confidence import clopper_pearson_lower
from adaptive_smoothing_zoo.certification.predicting import predict_examples
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ZooError
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.evaluation.adapt import evaluate_adaptive
from adaptive_smoothing_zoo.evaluation.screening import screen
from adaptive_smoothing_zoo.method.alpha import AdaptiveAlpha
from adaptive_smoothing_zoo.method.mixing_network import MixingNetwork
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.training.recipe import RECIPES, read_recipe
from adaptive_smoothing_zoo.validation import validate

CLASSES, SHAPE = 6, (1, 8, 8)
NORMS = ["Linf", "L2", "linf", "L1", None, 2, *TEXTS]


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
    """Nets of each kind by name, with the shape of their images."""
    torch.manual_seed(0)
    return {
        "net": (small(), SHAPE),
        "adaptive": (load_model("Demo2026Adaptive", dataset="digits"), SHAPE),
        "constant": (MixedClassifier(small(), small(), 0.9).eval(), SHAPE),
        "g alone": (MixedClassifier(small(), small(), 0.0).eval(), SHAPE),
        "h alone": (MixedClassifier(small(), small(), 1.0).eval(), SHAPE),
        "two sizes": (bit_and_wide().eval(), (3, 32, 32)),
    }


def attempt_images(images, shape, function, *arguments, **settings):
    """``attempt_call``; PyTorch itself refuses other devices, and sizes that fit no convolution."""
    try:
        return attempt_call(function, *arguments, **settings)
    except RuntimeError as error:
        if images.is_meta or (images.ndim == 4 and tuple(images.shape[1:]) != shape):
            return None, error
        raise


def check_evaluation(found, images, labels, settings):
    """The parts of an evaluation fit each other, the data and the ball."""
    first, count = settings.get("shard", (0, 1))
    images = images.detach()[first::count]
    assert len(found) == len(images)
    assert set(np.unique(found.broken_by)) <= {"", "clean", "apgd-ce", "apgd-t", "fab-t", "square"}
    assert np.array_equal(found.robust, found.broken_by == "")
    assert not (found.robust & ~found.clean_correct).any()
    check_moved(torch.from_numpy(found.adversarials), images, settings, 1e-6)
    assert math.isclose(list(found.accuracy_after.values())[-1], found.robust_accuracy)


def check_moved(found, images, settings, slack):
    """Points lie in the ball and in the box, as far as their images do."""
    assert found.shape == images.shape
    if images.is_meta:
        return
    inside = ((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
    away = (found.double() - images.detach().double())[inside].flatten(1)
    size = away.abs().amax(dim=1) if settings.get("norm", "Linf") == "Linf" else away.norm(dim=1)
    eps = float(settings["eps"]) if isinstance(settings["eps"], str) else settings["eps"]
    radius = torch.as_tensor(eps, dtype=torch.float64).expand(len(images))[inside]
    assert (size <= radius + slack).all()
    assert ((found[inside] >= 0) & (found[inside] <= 1)).all()


def check_pgd(found, images, labels, settings):
    check_moved(found, images, settings, 1e-6 if images.dtype in (torch.float32, torch.float64) else 1e-2)


def check_adaptive(found, images, labels, settings):
    assert found.robust.shape == (len(images),)
    assert not (found.robust & ~np.asarray(settings["standing"])).any()


def check_certificates(found, images, labels, settings):
    """Certificates are of the images given, with radii that the number of samples allows."""
    assert len(found) == len(images)
    assert np.array_equal(found.label, labels.numpy())
    places = settings.get("indices")
    assert np.array_equal(found.index, np.arange(len(images)) if places is None else np.array(list(places)))
    assert (found.radius >= 0).all()
    if "failure_probability" in settings and "radius" not in settings:
        best = clopper_pearson_lower(settings["n"], settings["n"], settings["failure_probability"])
        assert (found.radius <= cohen_radius(best, settings["sigma"]) + 1e-9).all()


def check_length(found, images, labels, settings):
    assert len(found.broken if hasattr(found, "broken") else found.standing) == len(images)


def evaluated_adaptively(net, images, labels, *, standing, **settings):
    return evaluate_adaptive(net, images, labels, standing, **settings)


@dataclass(frozen=True, kw_only=True)
class EntryPoint:
    """A function of a model, images and labels.

    Attributes:
        good: settings that are taken; a function makes one for n images.
        strange: what else may be given, by the setting's name; also by a function.
        check: of what is returned, images, labels and settings.
        least: how many of ``count`` cases must be taken.
        outside: how far outside the classes labels may be.
    """

    call: Callable
    good: Mapping = field(default_factory=dict)
    strange: Mapping[str, Sequence | Callable]
    check: Callable
    model: str = "net"
    count: int
    least: int
    outside: int = CLASSES


def per_example(n):
    return [*NUMBERS, torch.full((n,), 0.1), -torch.full((n,), 0.1), torch.full((n + 1,), 0.1), torch.full((1,), 0.1)]


def places(n):
    fine = [range(n), range(n, 0, -1), torch.arange(n)]
    odd = [[0] * n, np.arange(n) + 0.5, range(n + 1), [NAN] * n, [2**70] * n, [-1] * n, ["a"] * n, np.arange(n) == 1]
    return fine + odd


BATCHES = [0, -1, 1, 2, 7, 2.5, "8", NAN]
SHARDS = [(0, 1), (0, 2), (1, 2), (2, 2), (-1, 2), (0, 0), None, "0/2", (0.0, 1.0), (7, 9), (0,), (0, 1, 2)]
FILES = ["state", "other", "", "\0", "x" * 300, "file", "file/deeper"]
BALL = {"eps": [*NUMBERS, "0.1", None, torch.tensor(0.05), torch.tensor([0.1, 0.2])], "norm": NORMS}
RUN = {"batch_size": [*NUMBERS, *BATCHES], "device": DEVICES, "seed": [*NUMBERS, *SEEDS, "1", None]}
SAMPLING = RUN | {
    "sigma": [*NUMBERS, "0.5", None],
    "n0": [0, -1, 1, 2.5, NAN, None, "4"],
    "n": [0, -1, 1, 7.5, INF, None, "4"],
    "failure_probability": [*NUMBERS, "0.1", None],
    "indices": places,
    "runner_up": [True, False, None, 1, "yes"],
    "votes": ["hard", "soft", "both", None],
    "dtype": [torch.float32, torch.bfloat16, torch.int8, "float32", None],
    "log": FILES,
}
SAMPLED = {"sigma": 0.25, "n0": 4, "n": 20, "failure_probability": 0.01, "fold": False}
ATTACKED = {"eps": 0.05, "device": "cpu"}
ENTRY_POINTS = {
    "evaluate": EntryPoint(
        call=evaluate,
        good=ATTACKED | {"engine": "fast"},
        strange=BALL
        | RUN
        | {"engine": ["fast", "Fast", None, *TEXTS], "channels_last": [True, False], "shard": SHARDS}
        | {"smaller": [None, 0.1, "x"]}
        | {"flush_seconds": NUMBERS, "state": FILES},
        check=check_evaluation,
        count=400,
        least=80,
    ),
    "evaluate_adaptive": EntryPoint(
        call=evaluated_adaptively,
        good=ATTACKED | {"standing": lambda n: np.ones(n, dtype=bool), "attacks": ["apgd-ce-mix"]},
        strange=BALL
        | RUN
        | {"attacks": [[], ["no such attack"], "square", [""], ["apgd-t-rob"], [None], 5, None], "state": FILES}
        | {"standing": lambda n: [np.arange(n) > 0, np.ones(n), np.ones((1, n), bool), np.ones(n + 1, bool), None]},
        check=check_adaptive,
        model="adaptive",
        count=150,
        least=10,
    ),
    "screen": EntryPoint(
        call=screen,
        good=ATTACKED,
        strange=BALL | {"batch_size": BATCHES, "device": DEVICES},
        check=check_length,
        count=200,
        least=40,
    ),
    "validate": EntryPoint(
        call=validate,
        good=ATTACKED | {"only": ["losses_agree"]},
        strange=BALL | RUN | {"only": [["no such check"], "x", [None], []], "state": FILES},
        check=check_length,
        count=150,
        least=30,
    ),
    "pgd": EntryPoint(
        call=pgd,
        good={"eps": 0.1, "step_size": 0.05, "steps": 1},
        strange={
            "eps": per_example,
            "norm": NORMS,
            "step_size": per_example,
            "momentum": per_example,
            "steps": [-1, 0, 2, 2.5, "3", None, NAN],
            "random_start": [True],
            "restarts": [0, -1, 1, 2, 1.5, None],
            "keep": ["best", "last", "first", None],
            "seed": [*NUMBERS, *SEEDS, "1"],
            "indices": lambda n: [torch.arange(n), torch.arange(n + 1), torch.rand(n), list(range(n)), None],
        },
        check=check_pgd,
        count=600,
        least=80,
        outside=0,
    ),
    "certify": EntryPoint(call=certify, good=SAMPLED, strange=SAMPLING, check=check_certificates, count=300, least=40),
    "certify_at_radius": EntryPoint(
        call=certify_at_radius,
        good=SAMPLED | {"radius": 0.1},
        strange=SAMPLING | {"radius": [*NUMBERS, "0.1", None]},
        check=check_certificates,
        count=200,
        least=20,
    ),
    "predict_examples": EntryPoint(
        call=predict_examples, good=SAMPLED, strange=SAMPLING, check=check_certificates, count=100, least=10
    ),
    "certify_lipschitz": EntryPoint(
        call=certify_lipschitz,
        good={"lipschitz": 1.0},
        strange={"lipschitz": [*NUMBERS, [1.0] * CLASSES, [1.0], "1", None], "batch_size": BATCHES, "indices": places},
        check=check_certificates,
        count=200,
        least=20,
    ),
}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_images_labels_and_settings(name, models):
    """What is good is taken; of what is not, a result fits what was given; and nothing of the caller's is changed."""
    point = ENTRY_POINTS[name]
    net, shape = models[point.model]
    taken = 0
    with open("file", "w") as file:
        file.write("in the way")
    for number, rng in cases(name, point.count):
        plain = rng.random() < 0.5
        images = torch.rand(3, *shape) if plain else strange_images(rng, shape)
        n = len(images) if images.ndim else 0
        labels = torch.arange(n) % CLASSES
        settings = {name: good(n) if callable(good) else good for name, good in point.good.items()}
        if rng.random() < 0.6:
            labels, plain = strange_labels(rng, n, CLASSES, point.outside), False
        elif plain:
            with torch.no_grad():
                labels = net(images).argmax(dim=1)
        for setting in rng.sample(sorted(point.strange), rng.choice([0, 0, 1, 1, 2])):
            given, plain = point.strange[setting], False
            settings[setting] = rng.choice(list(given(n) if callable(given) else given))
        before = images.detach().clone()
        found, error = attempt_images(images, shape, point.call, net, images, labels, **settings)
        assert plain is False or error is None, (number, error)
        assert images.is_meta or torch.equal(bytes_of(images), bytes_of(before)), number
        if error is None:
            taken += 1
            point.check(found, images, labels, settings)
    assert taken > point.least


def bytes_of(images):
    values = images.detach().coalesce().values() if images.is_sparse else images.detach()
    return values.contiguous().flatten().view(torch.uint8)


def is_plain(images, shape):
    """Whether images are what every model of that shape must take."""
    return (
        isinstance(images, torch.Tensor)
        and images.layout == torch.strided
        and images.device.type == "cpu"
        and images.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        and images.ndim == 4
        and tuple(images.shape[1:]) == shape
    )


def test_mixed_classifiers(models):
    """Images in [0, 1] of the right shape, however they lie in memory, give what their float32 copies give.

    Anything else gives probabilities, too, or is refused; what one image holds changes nothing for another.
    """
    refused = 0
    for number, rng in cases("mixed classifiers", 1500):
        names = ["adaptive", "constant", "g alone", "h alone"]
        model, shape = models[rng.choice([*names, "two sizes"] if number % 10 == 0 else names)]
        images = strange_images(rng, shape)
        if rng.random() < 0.03:
            images = changed(images, rng, OBJECTS)
        method = rng.choice(["forward", "forward", "alpha_of", "sweep", "predict"])
        arguments = (rng.choice([[0.5], [0.0, 1.0], torch.tensor([0.2, 0.7])]),) if method == "sweep" else ()
        found, error = attempt_images(images, shape, getattr(model, method), images, *arguments)
        if error is not None:
            refused += 1
            assert not is_plain(images, shape), (number, repr(error))
        elif not images.is_meta:
            expected = (len(images), model.num_classes) if method in ("forward", "sweep") else (len(images),)
            assert tuple(found.shape[1:] if method == "sweep" else found.shape) == expected, number
            check_rows(model, method, arguments, found, images.detach().to_dense().float().contiguous(), number)
    assert 100 < refused < 1300


def check_rows(model, method, arguments, found, single, number):
    """What is found for images in [0, 1] is finite, and the same as for each alone."""
    inside = ((single >= 0) & (single <= 1)).flatten(1).all(dim=1)
    rows, images = found[:, inside] if method == "sweep" else found[inside], single[inside]
    assert torch.isfinite(rows).all(), number
    if method == "predict":
        output = model(images)
        assert bool((output.amax(dim=1) - output.gather(1, rows[:, None]).squeeze(1) < 1e-3).all()), number
        return
    if method == "alpha_of":
        assert ((rows >= 0) & (rows <= 1)).all(), number
    else:
        assert torch.allclose(rows.exp().sum(-1), torch.ones(rows.shape[:-1], dtype=rows.dtype), atol=1e-4), number
    alone = [getattr(model, method)(image[None], *arguments) for image in images]
    if alone:
        together = torch.cat(alone, dim=1 if method == "sweep" else 0)
        assert torch.allclose(rows.float(), together.float(), rtol=2e-3, atol=2e-3), number


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


@pytest.mark.parametrize("function", [evaluate, screen])
def test_nets_that_answer_strangely(function, models):
    """A net that answers something else than logits is refused."""
    images, labels, fine = (
        torch.rand(3, *SHAPE),
        torch.tensor([0, 1, 2]),
        {"as they are", "huge", "a tuple", "three classes"},
    )
    for name, change in ANSWERS.items():
        model = Answers(models["net"][0], change).eval()
        for batch_size in (2, 3, 8):
            settings = ATTACKED | {"batch_size": batch_size}
            found, error = attempt_call(function, model, images, labels, **settings)
            assert error is not None or name in fine, name
            assert error is None or name != "as they are", repr(error)
            if error is None and function is evaluate:
                check_evaluation(found, images, labels, settings)


def test_names_of_data_and_models(tmp_path, monkeypatch):
    """Names, folders, files, devices and number formats of any kind: a model, or a sentence."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").write_text("no folder")
    folders = [None, "", "file", "missing", ".", "\0", "x" * 300, tmp_path, tmp_path / "file" / "a", 5, b"x"]
    names = ["Demo2026Adaptive", "Demo2026Constant", "demo2026adaptive", *TEXTS, None, 3, ()]
    datasets = ["digits", "cifar10", "cifar100", "imagenet", "DIGITS", *TEXTS, None, 3, []]
    strange = {
        "model_dir": folders,
        "threat_model": ["Linf", "L2", "linf", None, 3, *TEXTS],
        "custom_checkpoint": [*folders, "weights.safetensors"],
        "device": DEVICES,
        "dtype": [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.complex64, "float32", 3],
        "revision": ["main", "", "x" * 41],
    }
    loaded = 0
    for number, rng in cases("names", 600):
        data, split = rng.choice(["digits", *datasets[3:]]), rng.choice(["test", "x", None, 2])
        examples, error = attempt_call(load_data, data, split)
        assert error is not None or len(examples), number
        dataset = rng.choice(["digits"] * 30 + datasets)
        settings = {name: rng.choice(list(strange[name])) for name in rng.sample(sorted(strange), rng.randrange(3))}
        model, error = attempt_call(load_model, rng.choice([*names[:2] * 20, *names]), dataset=dataset, **settings)
        if error is None:
            loaded += 1
            assert model.entry.dataset == dataset, number
            if settings.get("device") != "meta":
                assert torch.isfinite(model(torch.rand(1, *model.entry.image_shape))).all(), number
    assert loaded > 60


def test_eps_and_changes_of_recipes_of_any_text():
    keys = ["training.epochs", "data.dataset", "kind", "training", "a.b", "", ".", "training.attack.eps", "seed"]
    values = ["3", "-1", '"x"', "[1]", "{a=1}", "1e999", "nan", "8/255", '"8/255"', "", "9" * 300, "2020-01-01"]
    recipes = sorted(RECIPES.glob("*.toml"))
    for number, rng in cases("texts", 800):
        text = "".join(rng.choice("0123456789/.e-+_ naif") for _ in range(rng.randrange(1, 12)))
        value, error = attempt_call(parse_eps, rng.choice([text, *TEXTS]))
        assert error is None or isinstance(error, ZooError), number
        assert error is not None or 0.0 <= value < INF, number
        changes = [f"{rng.choice(keys)}={rng.choice(values)}" for _ in range(rng.choice([1, 1, 3]))]
        _, error = attempt_call(read_recipe, rng.choice(recipes), changes)
        assert error is None or isinstance(error, ZooError), (number, repr(error), changes)
