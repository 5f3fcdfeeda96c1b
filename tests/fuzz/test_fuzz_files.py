"""Damaged files of every kind: refused with a sentence, or what they hold is valid, and the same where it matters."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damage, sealed_damage, tensor_damage
from fuzzing import attempt, cases, restored
from safetensors.torch import save_file
from strange import strange_array

import adaptive_smoothing_zoo as zoo
from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification import certify
from adaptive_smoothing_zoo.certification.logs import Certificates, read_log
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ZooError
from adaptive_smoothing_zoo.evaluation import evaluate, merge
from adaptive_smoothing_zoo.experiments.bench import Table
from adaptive_smoothing_zoo.experiments.experiment import Row, read_table
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.certification_record import certificates_section, read_certification
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve
from adaptive_smoothing_zoo.publishing.evidence import read_evidence, update_entry
from adaptive_smoothing_zoo.publishing.leaderboard import render
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net
from adaptive_smoothing_zoo.training.recipe import RECIPES, read_recipe
from adaptive_smoothing_zoo.validation import Budget, validate
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, read_checkpoint
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, entry_to_text, read_entry
from adaptive_smoothing_zoo.zoo.registry import ENTRIES, find_entry
from adaptive_smoothing_zoo.zoo.triplet import Triplet, meta_triplet

NAME, DATASET = "Demo2026Adaptive", "digits"
CONSTANT = find_entry("Demo2026Constant", "digits", "Linf")
LIPSCHITZ = find_entry("Demo2026Lipschitz", "digits", "L2")
RECORDED = Path(zoo.__file__).parents[1] / "eval" / "results"
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Attributes:
        write: fills a folder.
        read: what is made of the folder, or of the damaged file in it.
        holds: asserts, or says, what must be of what was read; without it, this must be equal to what was written.
        files: a pattern of those that are damaged, in the folder.
        damage: what is done to one of them; whether it has changed.
        count: of cases.
        read_often: how many of ``count`` may at least and at most be read.
        refusal: of what kind refusals are.
        longest: no refusal is as long, the folder's name apart.
    """

    write: Callable
    read: Callable
    holds: Callable | None = None
    files: str = "*"
    damage: Callable = damage
    count: int = 300
    read_often: tuple[int, int] = (1, 200)
    refusal: type | tuple = ZooError
    longest: int = 3000


@cache
def model():
    return load_model(NAME, dataset=DATASET)


@cache
def net():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return build("small_cnn", widths=(4, 6), num_classes=5).eval()


@cache
def data():
    """Twelve images, most of them classified rightly by ``net``."""
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = net()(images).argmax(dim=1)
    labels[::5] = (labels[::5] + 1) % 5
    return images, labels


def bytes_of(*values):
    return [value.tobytes() if isinstance(value, np.ndarray) else value for value in values]


@torch.no_grad()
def answers(model):
    return model(IMAGES).numpy().tobytes()


def rewritten(path):
    """An entry that is read, written and read again; the nets of a small one are built, too."""
    entry = read_entry(path)
    again = path.parent / "again.json"
    again.write_text(entry_to_text(entry), encoding="utf-8")
    assert entry_to_text(read_entry(again)) == entry_to_text(entry)
    if entry.dataset == DATASET:
        attempt(meta_triplet, entry)


def write_entries(folder):
    for number, path in enumerate(sorted(ENTRIES.glob("*/*/*.json"))):
        if path.parts[-3] == DATASET or number % 4 == 0:
            shutil.copy(path, folder / f"{number}.json")


def described(loaded, _):
    """The module is the one that its config.json describes."""
    if np.prod(loaded.entry.image_shape, dtype=float) < 1e6:
        with torch.no_grad():
            output = attempt(loaded, torch.rand(2, *loaded.entry.image_shape))[0]
        assert output is None or output.shape == (2, loaded.entry.num_classes)


def same_kinds(loaded, _):
    """Weights without a hash have the shapes and number formats of the net."""
    kinds = {key: (value.shape, value.is_floating_point()) for key, value in loaded.items()}
    assert kinds == {key: (value.shape, value.is_floating_point()) for key, value in model().state_dict().items()}


class Stop(BaseException):
    """Ends a run in its midst."""


def stopped(run, *when):
    with pytest.raises(Stop):
        run(on_progress=stop_when(*when))


def stop_when(attack=None):
    def stop(*progress):
        if attack is None or (progress[0].attack == attack and progress[0].done):
            raise Stop

    return stop


def evaluated(folder, **settings):
    settings = {"eps": 0.03, "seed": 5, "batch_size": 4, "device": "cpu", "engine": "fast"} | settings
    return verdicts(evaluate(net(), *data(), state=folder, flush_seconds=0.0, **settings))


def verdicts(found):
    return [
        *bytes_of(found.clean_correct, found.robust, found.broken_by, found.adversarials, found.points),
        found.accuracy_after,
    ]


def validated(folder):
    found = validate(net(), *data(), state=folder, budget=Budget(steps=3, restarts=1), only=["losses_agree"],
                     eps=0.1, device="cpu", batch_size=3)  # fmt: skip
    return found.broken.tolist(), found.adversarials.tolist(), found.checks[0].verdict, found.checks[0].passes


def trained(folder, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = build("small_cnn", widths=(2, 3), num_classes=5)
    short = BaseNetTraining(epochs=2, batch_size=6, learning_rate=0.01)
    train_base_net(fresh, *data(), short, folder=folder, checkpoint_seconds=0.0, **settings)
    return [value.numpy().tobytes() for value in fresh.state_dict().values()]


def certified(folder, **settings):
    images, labels = data()
    settings |= {"sigma": 0.25, "n0": 4, "n": 20, "failure_probability": 0.01, "fold": False}
    return certify(net(), images[:3], labels[:3], log=folder / "log.tsv", **settings)


def consistent(found, _):
    assert (found.radius >= 0).all()
    assert ((found.prediction == found.label) == found.correct).all()


def write_log(folder):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 30)
    prediction = np.where(rng.random(30) < 0.2, -1, np.where(rng.random(30) < 0.7, label, (label + 1) % 10))
    radius, seconds = np.where(prediction == -1, 0.0, rng.random(30)), rng.random(30) * 1e4
    places, correct = np.arange(0, 60, 2), prediction == label
    made = {"index": places, "label": label, "prediction": prediction, "radius": radius}
    Certificates(**made, correct=correct, seconds=seconds).write(folder / "log.tsv")


def read_log_again(path):
    """What is read can be written, and is then the same."""
    found = read_log(path)
    found.write(path.parent / "again.tsv")
    assert np.array_equal(read_log(path.parent / "again.tsv").radius, found.radius)
    return found


def write_table(folder):
    rows = tuple(Row(case={"alpha": str(alpha)}, values={"clean": 0.9, "robust": alpha}) for alpha in (0.0, 0.5))
    texts = dict.fromkeys(("experiment", "dataset", "data", "data_sha256", "device", "model"), "x")
    numbers = {"eps": "1/5", "n": 5, "steps": 10, "seed": 0, "versions": {}, "commit": None}
    table = Table(**texts, **numbers, identity=Identity(sha256="x"), threat_model="Linf", rows=rows)
    (folder / "table.json").write_text(json.dumps(to_json(table)))


def write_images(folder, compressed):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    (np.savez_compressed if compressed else np.savez)(folder / "images.npz", images=images, labels=np.arange(4))


def read_images(path):
    examples = load_data("cifar10", data_dir=path)
    return bytes_of(examples.images.numpy(), examples.labels.numpy())


def other_arrays(path, rng):
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(sorted(arrays))
    arrays[name] = strange_array(arrays[name], rng)
    np.savez(path, **arrays)
    return True


def fitting_images(examples, _):
    assert examples.images.shape[1:] == (3, 32, 32)
    steps = 255 * examples.images
    assert ((steps - steps.round()).abs() < 1e-3).all()
    assert ((steps == 0) | (steps > 0.9)).all()
    assert examples.labels.shape == (len(examples.images),)
    assert ((examples.labels >= 0) & (examples.labels < 10)).all()


SMALL = BaseNetConfig(architecture="small_cnn", arguments={"widths": [2, 3]})


@cache
def foreign():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build("small_cnn", widths=(2, 3), num_classes=4)


FOREIGN = {  # the same net in each of the formats that are read
    "new.pt": lambda path, state: torch.save({"epoch": 3, "best": np.float64(0.5), "state_dict": state}, path),
    "old.pt": lambda path, state: torch.save({"model": state}, path, _use_new_zipfile_serialization=False),
    "weights.safetensors": lambda path, state: save_file(state, path),
    "arrays.npz": lambda path, state: np.savez(path, **{key: value.numpy() for key, value in state.items()}),
}


def plain_tensors(converted, _=None, net=None):
    """Dense tensors on the CPU, of the names, shapes and kinds of numbers of the net."""
    own = (net or foreign()).state_dict()
    assert converted.keys() == own.keys()
    for key, value in converted.items():
        assert isinstance(value, torch.Tensor), key
        assert (value.layout, value.device.type) == (torch.strided, "cpu"), key
        assert (value.shape, value.is_floating_point()) == (own[key].shape, own[key].is_floating_point()), key


def write_results(folder):
    """What is recorded of two models."""
    files = [
        *(RECORDED / "digits" / "Linf").glob(f"{CONSTANT.name}.*"),
        RECORDED / "digits/Linf/constant_alpha.curve.json",
    ]
    files += (RECORDED / "digits" / "L2" / "certificates").glob(f"{LIPSCHITZ.name}.*")
    for path in files:
        (folder / path.relative_to(RECORDED).parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.relative_to(RECORDED))


def told(folder):
    """All that is told of what is recorded: page, card, certificates; and a claim, or its refusal."""
    evidence = read_evidence(folder, CONSTANT)
    update_entry(folder, CONSTANT)
    records = read_certification(folder, LIPSCHITZ)
    attempt(claim, replace(CONSTANT, dataset="cifar10"), evidence, "https://example.org", "1" * 64)
    curve = ConstantCurve.find(folder, CONSTANT)
    if curve is not None:
        curve.clean_at(0.55)
    texts = [model_card(CONSTANT, evidence, curve), certificates_section(records) if records else "", *render(folder)]
    return evidence, texts


def possible(found, _):
    """What is told are fractions that can be, in texts that can be written."""
    evidence, texts = found
    assert 0.0 <= evidence.best_known <= evidence.run.robust_accuracy <= evidence.run.clean_accuracy <= 1.0
    for text in texts:
        shown = [float(number) for number in re.findall(r"(-?\d+\.\d\d) ?[%|]", text)]
        assert all(0.0 <= number <= 100.0 for number in shown), shown
        assert not re.findall(r"\bnan ?[%|]", text.lower())
        text.encode()


def result(files, count=80, low=3):
    return Format(
        write=write_results,
        read=lambda folder, path: told(folder),
        holds=possible,
        files=files,
        count=count,
        read_often=(low, count),
        refusal=(ZooError, OSError),
    )


SAVED = {
    "write": lambda folder: model().save_pretrained(folder),
    "read": lambda folder, path: answers(load_model(NAME, folder, DATASET)),
}
SHARDS = SAVED | {"write": lambda folder: model().save_pretrained(folder, "20KB")}
CONFIG = {"files": "config.json", "holds": described, "read": lambda folder, path: Triplet.from_pretrained(folder)}
STATE = {"write": lambda folder: evaluated(folder), "read": lambda folder, path: evaluated(folder), "count": 150}
STATE |= {"read_often": (30, 150), "longest": 500}
VALIDATION = STATE | {"write": lambda folder: validated(folder), "read": lambda folder, path: validated(folder)}
TRAINING = {"write": lambda folder: stopped(lambda **s: trained(folder, **s)), "files": "*.safetensors"}
TRAINING |= {"read": lambda folder, path: trained(folder), "longest": 500}
NUMBERS_ALONE = {"files": "*.safetensors", "damage": tensor_damage, "count": 40, "read_often": (40, 40)}
IMAGE_FILE = {"read": lambda folder, path: read_images(path), "refusal": (ValueError, OSError)}
FORMATS = {
    "entry": Format(
        write=write_entries,
        read=lambda folder, path: rewritten(path),
        holds=lambda *_: None,
        count=1500,
        read_often=(50, 1000),
    ),
    "saved model": Format(**SAVED, read_often=(1, 150)),
    "saved model in shards": Format(**SHARDS, read_often=(1, 150)),
    "config alone": Format(**SAVED | CONFIG),
    "weights without a hash": Format(
        write=lambda folder: save_file(model().state_dict(), folder / "weights.safetensors"),
        read=lambda folder, path: load_model(NAME, None, DATASET, "Linf", path).state_dict(),
        holds=same_kinds,
        read_often=(10, 250),
    ),
    "state of an evaluation": Format(**STATE),
    "state that is merged": Format(
        **STATE | {"read": lambda folder, path: verdicts(merge([folder], *data())), "read_often": (1, 100)}
    ),
    "snapshot of apgd-ce": Format(
        **STATE | {"write": lambda folder: stopped(lambda **s: evaluated(folder, **s), "apgd-ce")},
        files="running*",
    ),
    "snapshot of fab-t": Format(
        **STATE | {"write": lambda folder: stopped(lambda **s: evaluated(folder, **s), "fab-t"), "count": 50},
        files="running*",
    ),
    "state with other numbers": Format(**STATE | NUMBERS_ALONE),
    "state with right checksums": Format(
        **STATE, files="*.safetensors", damage=sealed_damage, holds=lambda found, _: len(found[1]) == 12
    ),
    "state of a validation": Format(**VALIDATION),
    "validation with other numbers": Format(**VALIDATION | NUMBERS_ALONE),
    "validation with right checksums": Format(
        **VALIDATION, files="*.safetensors", damage=sealed_damage, holds=lambda found, _: len(found[0]) == 12
    ),
    "training": Format(**TRAINING),
    "training with other numbers": Format(**TRAINING | NUMBERS_ALONE | {"read_often": (0, 0)}),
    "certification": Format(
        write=lambda folder: stopped(lambda **s: certified(folder, **s)),
        read=lambda folder, path: certified(folder),
        holds=consistent,
        files="log.tsv*",
        read_often=(20, 250),
        longest=500,
    ),
    "log": Format(
        write=write_log,
        read=lambda folder, path: read_log_again(path),
        holds=consistent,
        count=1000,
        read_often=(50, 900),
    ),
    "experiment": Format(
        write=write_table,
        read=lambda folder, path: read_table(path, Table),
        holds=lambda table, _: [row.case.items() for row in table.rows],
    ),
    "recipe": Format(
        write=lambda folder: shutil.copytree(RECIPES, folder, dirs_exist_ok=True),
        read=lambda folder, path: read_recipe(path, []),
        holds=lambda *_: None,
        files="*.toml",
        read_often=(20, 250),
    ),
    "images": Format(**IMAGE_FILE, write=lambda folder: write_images(folder, False)),
    "images, compressed": Format(**IMAGE_FILE, write=lambda folder: write_images(folder, True)),
    "images of other kinds": Format(
        write=lambda folder: write_images(folder, False),
        read=lambda folder, path: load_data("cifar10", data_dir=path),
        holds=fitting_images,
        damage=other_arrays,
        refusal=(ValueError, OSError),
    ),
    **{
        name: Format(
            write=lambda folder, name=name: FOREIGN[name](folder / name, foreign().state_dict()),
            read=lambda folder, path: convert_base_net(read_checkpoint(path), SMALL, foreign(), str(path)),
            holds=plain_tensors,
            read_often=(10, 280),
        )
        for name in FOREIGN
    },
    "run": result(f"digits/Linf/{CONSTANT.name}.run.json"),
    "adaptive run": result(f"digits/Linf/{CONSTANT.name}.adaptive.json"),
    "validation": result(f"digits/Linf/{CONSTANT.name}.validation.json"),
    "examples": result(f"digits/Linf/{CONSTANT.name}.examples.npz", count=40, low=1),
    "row of the leaderboard": result(f"digits/Linf/{CONSTANT.name}.json"),
    "curve": result("digits/Linf/constant_alpha.curve.json"),
    "certificates": result(f"digits/L2/certificates/{LIPSCHITZ.name}.certified.json", count=40),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, tmp_path):
    """A damaged file is refused, or what is read of it is valid; one that is as it was is read as it was."""
    kind = FORMATS[name]
    original, folder = tmp_path / "original", tmp_path / "folder"
    original.mkdir()
    kind.write(original)
    files = [path.relative_to(original) for path in sorted(original.glob(kind.files)) if path.name != ".lock"]
    with restored(folder, original):
        expected = kind.read(folder, folder / files[0])
    read = 0
    for number, rng in cases(name, kind.count):
        with restored(folder, original):
            path = folder / rng.choice(files)
            changed = kind.damage(path, rng)
            found, error = attempt(kind.read, folder, path)
            assert error is None or (changed and isinstance(error, kind.refusal)), (number, repr(error))
            assert error is None or len(str(error).replace(str(folder), "")) < kind.longest, (number, repr(error))
            if error is None:
                read += 1
                assert found == expected if kind.holds is None else kind.holds(found, expected) is not False, number
    assert kind.read_often[0] <= read <= kind.read_often[1], read
