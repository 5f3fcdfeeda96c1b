"""Damaged files of every kind: refused with a sentence, or what they hold is valid, and the same where it matters."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import HUGE, STRANGE_TEXTS, attempt, cases, damage, damaged_bytes, damaged_text, restored
from safetensors.torch import load_file, save_file
from short_attacks import shorten

import adaptive_smoothing_zoo as zoo
from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.certification.journal import open_journal
from adaptive_smoothing_zoo.certification.logs import Certificates, read_log
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ZooError
from adaptive_smoothing_zoo.evaluation import evaluate, merge
from adaptive_smoothing_zoo.evaluation.evaluation_state import read_binding
from adaptive_smoothing_zoo.experiments.table import Row, Table, read_table
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.certification_record import certificates_section, read_certification
from adaptive_smoothing_zoo.publishing.claim import claim
from adaptive_smoothing_zoo.publishing.constant_curve import ConstantCurve
from adaptive_smoothing_zoo.publishing.evidence import Evidence, read_evidence, update_entry
from adaptive_smoothing_zoo.publishing.leaderboard import render
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.publishing.validation_record import Validation
from adaptive_smoothing_zoo.storage.identity import Identity
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.threat import parse_eps
from adaptive_smoothing_zoo.training.keeping import Keeper
from adaptive_smoothing_zoo.training.recipe import RECIPES, read_recipe
from adaptive_smoothing_zoo.validation import Budget, CheckResult, validate
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net, convert_mixing_network, read_checkpoint
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, entry_to_text, read_entry
from adaptive_smoothing_zoo.zoo.registry import ENTRIES, find_entry
from adaptive_smoothing_zoo.zoo.triplet import Triplet, meta_triplet
from adaptive_smoothing_zoo.zoo.weights import read_safetensors

NAME, DATASET = "Demo2026Adaptive", "digits"
CONSTANT = find_entry("Demo2026Constant", "digits", "Linf")
LIPSCHITZ = find_entry("Demo2026Lipschitz", "digits", "L2")
RECORDED = Path(zoo.__file__).parents[1] / "eval" / "results"
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return load_model(NAME, dataset=DATASET)


@pytest.fixture(scope="module", params=[None, "20KB"])
def saved(request, model, tmp_path_factory):
    """A folder that ``save_pretrained`` wrote, with one weights file or several."""
    folder = tmp_path_factory.mktemp("saved") / "original"
    model.save_pretrained(folder, request.param)
    assert (len(list(folder.glob("*.safetensors"))) > 1) is (request.param is not None)
    return folder


def test_entries(tmp_path):
    """Whatever is read is written and read again as the same entry."""
    originals = [path.read_bytes() for path in sorted(ENTRIES.glob("*/*/*.json"))]
    accepted = 0
    for number, rng in cases("entries", 1500):
        path = tmp_path / f"{number}.json"
        path.write_bytes(damaged_text(rng.choice(originals), rng))
        entry, error = attempt(read_entry, path)
        if error is None:
            accepted += 1
            again = tmp_path / "again.json"
            text, error = attempt(entry_to_text, entry)
            again.write_text(text, encoding="utf-8", errors="surrogatepass")
            assert error is None, number
            assert entry_to_text(read_entry(again)) == text, number
    assert 0 < accepted < 1000


def test_entries_that_are_read_are_built_or_refused(tmp_path):
    """The nets, too: an argument of any type or size gives a module on the meta device or a sentence."""
    originals = [path.read_bytes() for path in sorted(ENTRIES.glob("digits/*/*.json"))]
    built = 0
    for number, rng in cases("built entries", 600):
        path = tmp_path / "entry.json"
        data = json.loads(rng.choice(originals))
        part = rng.choice(["std_model", "rob_model", "alpha", "std_map", "rob_map", "num_classes", "image_shape"])
        if isinstance(data.get(part), (dict, list)):
            data[part] = json.loads(damaged_text(json.dumps(data[part]).encode(), rng_of_json(rng)))
        else:
            data[part] = rng.choice([*HUGE, *STRANGE_TEXTS])
        path.write_text(json.dumps(data))
        entry, error = attempt(read_entry, path)
        if error is None:
            _, error = attempt(meta_triplet, entry)
            built += error is None
            assert error is None or isinstance(error, ZooError), (number, data[part])
    assert built


def rng_of_json(rng):
    """The generator, whose next draw sends ``damaged_text`` to JSON rather than to bytes."""

    class Json(type(rng)):
        def random(self):
            return 0.5

    other = Json()
    other.setstate(rng.getstate())
    rng.random()
    return other


def test_saved_models_load_as_they_were_or_not_at_all(model, saved, tmp_path):
    """config.json, weights in one file or in shards, and their index."""
    with torch.no_grad():
        expected = model(IMAGES)
    refused = 0
    for number, rng in cases("saved models", 300):
        with restored(tmp_path / "folder", saved) as folder:
            changed = damage(rng.choice(sorted(folder.iterdir())), rng)
            loaded, error = attempt(load_model, NAME, folder, DATASET)
        if not (changed and error):
            with torch.no_grad():
                assert torch.equal(loaded(IMAGES), expected), number
        refused += error is not None
    assert refused > 150


def test_configs_without_the_zoo_describe_what_they_load(saved, tmp_path):
    """``from_pretrained`` knows no entry to compare with: the module must be the one that its config.json describes."""
    for number, rng in cases("configs alone", 200):
        with restored(tmp_path / "folder", saved) as folder:
            damage(folder / "config.json", rng)
            loaded, error = attempt(Triplet.from_pretrained, folder)
            if error is None and np.prod(loaded.entry.image_shape, dtype=float) < 1e6:
                with torch.no_grad():
                    output = attempt(loaded, torch.rand(2, *loaded.entry.image_shape))[0]
                assert output is None or output.shape == (2, loaded.entry.num_classes), number


def test_weights_without_a_hash_have_the_shapes_and_number_formats_of_the_net(model, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    original, own = path.read_bytes(), model.state_dict()
    for number, rng in cases("weights", 300):
        if path.is_dir():
            path.rmdir()
        path.write_bytes(original)
        header = json.loads(original[8 : 8 + int.from_bytes(original[:8], "little")])
        if rng.random() < 0.5:
            text = damaged_text(json.dumps(header).encode(), rng)
            content = len(text).to_bytes(8, "little") + text + original[8 + int.from_bytes(original[:8], "little") :]
        else:
            content = damaged_bytes(original, rng)
        damage(path, rng, content)
        state, error = attempt(read_safetensors, path)
        loaded, error = attempt(load_model, NAME, None, DATASET, "Linf", path)
        if error is None:
            assert {key: value.is_floating_point() for key, value in state.items()} == {
                key: value.is_floating_point() for key, value in own.items()
            }, number
            assert {key: value.shape for key, value in loaded.state_dict().items()} == {
                key: value.shape for key, value in own.items()
            }, number


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(2)
    return build("small_cnn", widths=(4, 6), num_classes=5)


@pytest.fixture
def data():
    return torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 5


@pytest.fixture
def short_attacks(monkeypatch):
    shorten(monkeypatch, iterations=2, queries=4)


SETTINGS = {"eps": 0.03, "seed": 5, "batch_size": 4, "device": "cpu", "engine": "fast", "flush_seconds": 0.0}


def verdicts(evaluation):
    names = ("clean_correct", "robust", "broken_by", "adversarials", "points")
    return [getattr(evaluation, name).tobytes() for name in names] + [evaluation.accuracy_after]


def test_states_of_evaluations(net, data, short_attacks, tmp_path):
    """A damaged state is refused, or the evaluation ends as if nothing had been; never with other verdicts."""
    images, labels = data
    labels = net.eval()(images).argmax(dim=1)
    labels[::5] = (labels[::5] + 1) % 5
    state, original = tmp_path / "state", tmp_path / "original"
    expected = verdicts(evaluate(net, images, labels, state=original, **SETTINGS))
    (original / ".lock").unlink(missing_ok=True)
    merges = 0
    for number, rng in cases("states", 250):
        with restored(state, original):
            for _ in range(rng.choice([1, 1, 3])):
                files = [path for path in sorted(state.iterdir()) if path.is_file() and path.name != ".lock"]
                if files:
                    damage(rng.choice(files), rng)
            attempt(read_binding, state)
            found, error = attempt(merge, [state], images, labels)
            if error is None:
                merges += 1
                assert verdicts(found) == expected, number
            assert error is None or isinstance(error, ZooError), number
            found, error = attempt(evaluate, net, images, labels, state=state, **SETTINGS)
            assert error is None or isinstance(error, ZooError), number
            assert error is not None or verdicts(found) == expected, number
    assert merges < 125


def test_snapshots_of_attacks(net, data, short_attacks, tmp_path):
    """A damaged snapshot is put aside; the evaluation ends as if nothing had been."""
    images, labels = data
    labels = net.eval()(images).argmax(dim=1)
    expected = verdicts(evaluate(net, images, labels, **SETTINGS))

    class Stop(BaseException):
        pass

    def stop_in(attack):
        def stop(progress):
            if progress.attack == attack and progress.done:
                raise Stop

        return stop

    state, original = tmp_path / "state", tmp_path / "original"
    for attack in ("apgd-ce", "fab-t"):
        with pytest.raises(Stop):
            evaluate(net, images, labels, state=original / attack, on_progress=stop_in(attack), **SETTINGS)
        (original / attack / ".lock").unlink(missing_ok=True)
        for number, rng in cases(f"snapshots of {attack}", 30):
            with restored(state, original / attack):
                (path,) = state.glob("running-*")
                damage(path, rng)
                found, error = attempt(evaluate, net, images, labels, state=state, **SETTINGS)
                assert error is None or isinstance(error, ZooError), number
                assert error is not None or verdicts(found) == expected, number


def test_chunks_that_carry_a_right_checksum_and_wrong_content(net, data, short_attacks, tmp_path):
    """A checksum says that the file is whole, not that it makes sense."""
    from adaptive_smoothing_zoo.storage.checked_file import checksum

    images, labels = data
    state, original = tmp_path / "state", tmp_path / "original"
    evaluate(net, images, labels, state=original, **SETTINGS)
    for number, rng in cases("chunks", 250):
        with restored(state, original):
            path = rng.choice(sorted(state.glob("chunk-*")))
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
            tensors = load_file(path)
            if rng.random() < 0.5:
                text = damaged_text(json.dumps(about).encode(), rng_of_json(rng)).decode("utf-8", "replace")
            else:
                text, name = json.dumps(about), rng.choice(sorted(tensors))
                tensors[name] = strange_tensor(tensors[name], rng)
            metadata = {"about": text, "sha256": checksum(tensors, text)}
            save_file(tensors, path, metadata=metadata)
            for function, arguments in ((merge, ([state], images, labels)), (evaluate, (net, images, labels))):
                settings = {"state": state, **SETTINGS} if function is evaluate else {}
                found, error = attempt(function, *arguments, **settings)
                assert error is None or isinstance(error, ZooError), number
                if error is None:
                    assert len(found) == len(images), number


ONE_CHECK = {"only": ["losses_agree"], "eps": 0.1, "device": "cpu", "batch_size": 3}
FEW_STEPS = Budget(steps=3, restarts=1)


def validated(net, images, labels, state):
    found = validate(net, images, labels, state=state, budget=FEW_STEPS, **ONE_CHECK)
    return found.broken.tolist(), found.adversarials.tolist(), found.checks[0].verdict, found.checks[0].passes


def test_states_of_validations(net, data, tmp_path):
    """A damaged state is refused, or the validation ends as if nothing had been."""
    images, labels = data
    state, original = tmp_path / "state", tmp_path / "original"
    expected = validated(net, images, labels, original)
    (original / ".lock").unlink(missing_ok=True)
    for number, rng in cases("states of validations", 250):
        with restored(state, original):
            for _ in range(rng.choice([1, 1, 3])):
                files = [path for path in sorted(state.iterdir()) if path.is_file() and path.name != ".lock"]
                if files:
                    damage(rng.choice(files), rng)
            found, error = attempt(validated, net, images, labels, state)
            assert error is None or isinstance(error, ZooError), number
            assert error is not None or found == expected, number


def test_batches_of_validations_that_carry_a_right_checksum_and_wrong_content(net, data, tmp_path):
    from safetensors import safe_open

    from adaptive_smoothing_zoo.storage.checked_file import checksum

    images, labels = data
    state, original = tmp_path / "state", tmp_path / "original"
    validated(net, images, labels, original)
    for number, rng in cases("batches of validations", 250):
        with restored(state, original):
            path = rng.choice(sorted(state.glob("batch-*")))
            with safe_open(path, framework="pt") as file:
                about = file.metadata()["about"]
            tensors = load_file(path)
            if rng.random() < 0.5:
                about = damaged_text(about.encode(), rng_of_json(rng)).decode("utf-8", "replace")
            else:
                name = rng.choice(sorted(tensors))
                tensors[name] = strange_tensor(tensors[name], rng)
            save_file(tensors, path, metadata={"about": about, "sha256": checksum(tensors, about)})
            _, error = attempt(validated, net, images, labels, state)
            assert error is None or isinstance(error, ZooError), number


def strange_tensor(tensor, rng):
    ways = [
        lambda: tensor[:0].contiguous(),
        lambda: torch.cat([tensor, tensor]).contiguous(),
        lambda: tensor.flatten()[:3].contiguous(),
        lambda: tensor.unsqueeze(0).contiguous(),
        lambda: tensor.to(torch.float64) * 1e300,
        lambda: tensor.to(torch.int64) - 100,
        lambda: tensor.to(torch.int64) + 100,
        lambda: tensor.to(torch.uint8),
        lambda: tensor.to(torch.bool),
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor + tensor,
    ]
    return rng.choice(ways)()


RECORD = {
    "model": NAME,
    "dataset": DATASET,
    "threat_model": "Linf",
    "eps": "0.1",
    "protocol": "AutoAttack standard",
    "attacks": ["apgd-ce", "apgd-t", "fab-t", "square"],
    "engine": "fast 1",
    "n": 359,
    "test_set_size": 359,
    "data": "digits",
    "data_sha256": "0" * 64,
    "identity": {"sha256": "1" * 64, "answers": []},
    "seed": 0,
    "batch_size": 256,
    "device": "cpu",
    "device_name": "CPU",
    "dtype": "float32",
    "tf32": False,
    "channels_last": False,
    "deterministic": True,
    "clean_accuracy": 350 / 359,
    "robust_accuracy": 200 / 359,
    "accuracy_after": {
        "clean": 350 / 359,
        "apgd-ce": 210 / 359,
        "apgd-t": 202 / 359,
        "fab-t": 200 / 359,
        "square": 200 / 359,
    },
    "broken_by": {"apgd-ce": 140, "apgd-t": 8, "clean": 9, "fab-t": 2},
    "warnings": [],
    "remarks": [],
    "versions": {"torch": "2.3"},
    "commit": None,
    "seconds": {"apgd-ce": 1.5},
}


def test_run_records_cards_and_claims(tmp_path):
    """What is told of a record is told of numbers that can be: fractions that agree with each other."""
    entry = find_entry(NAME, DATASET, "Linf")
    claimable = replace(entry, dataset="cifar10")
    path = tmp_path / DATASET / "Linf" / f"{NAME}.run.json"
    path.parent.mkdir(parents=True)
    original = json.dumps(RECORD | {"eps": entry.eps}, indent=2).encode()
    path.write_bytes(original)
    assert RunRecord.read(tmp_path, entry).n == 359
    accepted = 0
    for number, rng in cases("records", 1000):
        path.write_bytes(original)
        damage(path, rng)
        record, error = attempt(RunRecord.read, tmp_path, entry)
        if path.is_dir():
            path.rmdir()
        if error is not None:
            assert isinstance(error, ZooError), number
            continue
        accepted += 1
        assert 0.0 <= record.robust_accuracy <= record.clean_accuracy <= 1.0, number
        assert record.n >= 1, number
        card, error = attempt(model_card, entry, Evidence(run=record))
        assert error is None, (number, error)
        assert "nan %" not in card.lower(), number
        assert "| nan" not in card.lower(), number
        _, error = attempt(claim, claimable, Evidence(run=record), "https://example.org", "1" * 64)
        assert error is None or isinstance(error, ZooError), number
    assert 0 < accepted < 700


def test_leaderboards(tmp_path):
    """A page is made of entries whose accuracies are percentages, or not at all."""
    entry = {
        "link": "https://example.org",
        "name": "A title",
        "authors": "Jane Doe",
        "additional_data": False,
        "number_forward_passes": 2,
        "dataset": "digits",
        "venue": "none",
        "architecture": "two nets",
        "eps": "8/255",
        "clean_acc": "95.23",
        "reported": "68.06",
        "autoattack_acc": "68.06",
        "external": "67.00",
        "footnote": "",
        "unreliable": False,
    }
    path = tmp_path / "digits" / "Linf" / "Doe2024Tiny.json"
    path.parent.mkdir(parents=True)
    original = json.dumps(entry, indent=2).encode()
    path.write_bytes(original)
    page, text = render(tmp_path)
    rows = text.count("\n")
    for number, rng in cases("leaderboards", 1000):
        if path.is_dir():
            path.rmdir()
        path.write_bytes(original)
        damage(path, rng)
        pages, error = attempt(render, tmp_path)
        if error is not None:
            assert isinstance(error, ZooError), (number, error)
            continue
        page, text = pages
        assert text.count("\n") == rows, number
        assert page.count("<tr>") == 2, number
        shown = json.loads(path.read_bytes())
        for key in ("clean_acc", "autoattack_acc"):
            assert 0.0 <= float(shown[key]) <= 100.0, number
        assert isinstance(shown["additional_data"], bool), number
        assert "nan %" not in page.lower(), number
        page.encode(), text.encode()


def test_curves(tmp_path):
    entry = find_entry(NAME, DATASET, "Linf")
    text = {
        name: RECORD[name]
        for name in (
            "dataset",
            "threat_model",
            "eps",
            "engine",
            "n",
            "seed",
            "batch_size",
            "device",
            "data",
            "data_sha256",
        )
    }
    text |= {"name": NAME, "std_sha256": "2" * 64, "rob_sha256": "3" * 64, "versions": {"torch": "2.3"}}
    text["points"] = [
        {"alpha": 0.0, "clean": 0.95, "robust": 0.0},
        {"alpha": 0.5, "clean": 0.9, "robust": 0.5},
        {"alpha": 1.0, "clean": 0.7, "robust": 0.6},
    ]
    path = tmp_path / DATASET / "Linf" / "constant_alpha.curve.json"
    path.parent.mkdir(parents=True)
    for number, rng in cases("curves", 400):
        if path.is_dir():
            path.rmdir()
        path.write_text(json.dumps(text))
        damage(path, rng)
        curve, error = attempt(ConstantCurve.find, tmp_path, entry)
        assert error is None or isinstance(error, ZooError), number
        if curve is not None:
            _, error = attempt(curve.clean_at, 0.55)
            assert error is None, number


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The results of this repository, with a validation and an experiment beside them."""
    folder = tmp_path_factory.mktemp("recorded") / "results"
    shutil.copytree(RECORDED, folder)
    run = RunRecord.read(folder, CONSTANT)
    same = ("model", "dataset", "threat_model", "eps", "data", "data_sha256", "identity", "device", "device_name")
    common = {name: getattr(run, name) for name in (*same, "seed", "batch_size", "n", "clean_accuracy", "commit")}
    check = CheckResult(
        name="eight_bits",
        group="examples",
        what="x",
        rule="y",
        verdict="failed",
        found="z",
        measured={"a": 0.5},
        passes=3,
        seconds=1.0,
    )
    robust = np.flatnonzero(run.verdicts(folder, CONSTANT)).tolist()
    validation = Validation(
        **common,
        accuracy=0.5,
        recorded_n=run.n,
        recorded_accuracy=run.robust_accuracy,
        recorded_data_sha256=run.data_sha256,
        newly_broken=tuple(robust[:2]),
        checks=(check, replace(check, verdict="passed")),
        budget={"steps": 3},
        series={"alpha": ((0.5, 0.6), (0.7, 0.8))},
        versions={"torch": "2.3"},
    )
    validation.write(folder, CONSTANT)
    assert read_evidence(folder, CONSTANT).broken
    return folder


def tell(folder):
    """All that is told of what is recorded: page, card, certificates."""
    evidence = read_evidence(folder, CONSTANT)
    update_entry(folder, CONSTANT)
    certified = read_certification(folder, LIPSCHITZ)
    card = model_card(CONSTANT, evidence, ConstantCurve.find(folder, CONSTANT))
    return evidence, card, certificates_section(certified) if certified else ""


def test_what_is_recorded(recorded, tmp_path):
    """Accuracies that are shown are fractions that can be, whatever record is damaged; or the damage is told of."""
    names = ["run.json", "adaptive.json", "validation.json", "examples.npz"]
    files = [recorded / "digits" / "Linf" / f"{CONSTANT.name}.{name}" for name in names]
    files.append(recorded / "digits" / "Linf" / "constant_alpha.curve.json")
    files.append(recorded / "digits" / "L2" / "certificates" / f"{LIPSCHITZ.name}.certified.json")
    accepted = 0
    for number, rng in cases("recorded", 700):
        with restored(tmp_path / "results", recorded) as folder:
            damage(folder / rng.choice(files).relative_to(recorded), rng)
            told, error = attempt(tell, folder)
            assert error is None or isinstance(error, ZooError), (number, repr(error))
            if error is not None:
                continue
        accepted += 1
        evidence, card, certificates = told
        assert 0.0 <= evidence.best_known <= evidence.run.robust_accuracy <= evidence.run.clean_accuracy <= 1.0, number
        for text in (card, certificates):
            numbers = [float(found) for found in re.findall(r"(-?\d+\.\d\d) ?[%|]", text)]
            assert all(0.0 <= found <= 100.0 for found in numbers), (number, numbers)
            assert "nan" not in re.findall(r"nan ?[%|]", text), number
    assert 50 < accepted < 500


def test_experiments(tmp_path):
    rows = tuple(Row(case={"alpha": str(alpha)}, values={"clean": 0.9, "robust": alpha}) for alpha in (0.0, 0.5))
    texts = dict.fromkeys(("experiment", "dataset", "data", "data_sha256", "device", "model"), "x")
    numbers = {"eps": "1/5", "n": 5, "steps": 10, "seed": 0, "versions": {}, "commit": None}
    table = Table(**texts, **numbers, identity=Identity(sha256="x"), threat_model="Linf", rows=rows)
    path = tmp_path / "table.json"
    for number, rng in cases("experiments", 300):
        if path.is_dir():
            path.rmdir()
        path.write_text(json.dumps(to_json(table)))
        damage(path, rng)
        found, error = attempt(read_table, path)
        assert error is None or isinstance(error, ZooError), (number, repr(error))
        assert error is not None or all(isinstance(row.case, dict) for row in found.rows), number


def test_recipes(tmp_path):
    """Recipes are read as such or refused; changes on the command line, too."""
    folder = tmp_path / "recipes"  # with those that others are based on
    shutil.copytree(RECIPES, folder)
    originals = [path.read_bytes() for path in sorted(folder.glob("*.toml"))]
    read = 0
    for number, rng in cases("recipes", 500):
        path = folder / f"{number}.toml"
        path.write_bytes(rng.choice(originals))
        if rng.random() < 0.7:
            damage(path, rng)
        keys = ["training.epochs", "data.dataset", "kind", "training", "a.b", "", ".", "training.attack.eps", "seed"]
        values = ["3", "-1", '"x"', "[1]", "{a=1}", "1e999", "nan", "8/255", '"8/255"', "", "9" * 300, "2020-01-01"]
        changes = [f"{rng.choice(keys)}={rng.choice(values)}" for _ in range(rng.choice([0, 0, 1, 3]))]
        _, error = attempt(read_recipe, path, changes)
        assert error is None or isinstance(error, ZooError), (number, repr(error), changes)
        read += error is None
    assert 50 < read < 400


def test_checkpoints_of_trainings(tmp_path):
    """A training goes on from its own whole checkpoint or not at all."""
    folder, original = tmp_path / "training", tmp_path / "original"
    binding, tensors = {"epochs": 3, "data": "0" * 64}, {"weight": torch.arange(6.0)}
    Keeper(original, binding).write(2, tensors, 1)
    refused = 0
    for number, rng in cases("trainings", 300):
        with restored(folder, original):
            (path,) = folder.iterdir()
            content = path.read_bytes()
            length = int.from_bytes(content[:8], "little")
            if rng.random() < 0.5:
                header = json.loads(content[8 : 8 + length])
                about = json.loads(header["__metadata__"]["about"])
                text = damaged_text(json.dumps(about).encode(), rng_of_json(rng)).decode()
                header["__metadata__"]["about"] = text
                new = json.dumps(header).encode()
                damage(path, rng, len(new).to_bytes(8, "little") + new + content[8 + length :])
            else:
                damage(path, rng)
            kept, error = attempt(Keeper(folder, binding).read)
            assert error is None or isinstance(error, ZooError), (number, repr(error))
            refused += error is not None
            if error is None and kept is not None:
                assert isinstance(kept.rounds, int), number
    assert refused > 100


def test_certification_logs(tmp_path):
    """What is read of a damaged log is lines of it that are valid; whole lines that are gone cannot be known."""
    path = tmp_path / "log.tsv"
    rng = np.random.default_rng(0)
    label = rng.integers(0, 10, 30)
    prediction = np.where(rng.random(30) < 0.2, -1, np.where(rng.random(30) < 0.7, label, (label + 1) % 10))
    original = Certificates(
        index=np.arange(0, 60, 2),
        label=label,
        prediction=prediction,
        radius=np.where(prediction == -1, 0.0, rng.random(30)),
        correct=prediction == label,
        seconds=rng.random(30) * 1e4,
    )
    original.write(path)
    content = path.read_bytes()
    lines = {}
    for number, rng in cases("logs", 1500):
        path.write_bytes(content)
        if rng.random() < 0.5:
            lines = content.decode().split("\n")
            i = rng.randrange(len(lines) - 1)
            fields = lines[i].split("\t")
            fields[rng.randrange(len(fields))] = str(rng.choice([*HUGE, *STRANGE_TEXTS, "1_0", "٣", "0x1", "1e400"]))
            lines[i] = "\t".join(fields)
            damage(path, rng, "\n".join(lines).encode("utf-8", "surrogatepass"))
        else:
            damage(path, rng)
        found, error = attempt(read_log, path)
        if path.is_dir():
            path.rmdir()
        if error is not None:
            assert isinstance(error, ZooError), (number, repr(error))
            continue
        assert (found.radius >= 0).all(), number
        assert ((found.prediction == found.label) == found.correct).all(), number
        again = tmp_path / "again.tsv"
        _, error = attempt(found.write, again)
        assert error is None, (number, repr(error))
        assert np.array_equal(read_log(again).radius, found.radius), number


def test_journals(tmp_path):
    """A log that goes on: its settings file and its last line may be damaged."""
    folder, original = tmp_path / "journal", tmp_path / "original"
    settings = {"sigma": 0.25, "n": 100, "model": {"sha256": "0" * 64, "answers": []}}
    one = Certificates(index=[0], label=[3], prediction=[3], radius=[0.5], correct=[True], seconds=[1.0])
    with open_journal(original / "log.tsv", settings) as journal:
        journal.append(one)
        journal.append(replace(one, index=np.array([4])))

    def opened(path):
        with open_journal(path, settings) as journal:
            return journal.done

    refused = 0
    for number, rng in cases("journals", 400):
        with restored(folder, original):
            damage(rng.choice([folder / "log.tsv", folder / "log.tsv.json"]), rng)
            found, error = attempt(opened, folder / "log.tsv")
            refused += error is not None
            assert error is None or isinstance(error, ZooError), (number, repr(error))
            if error is None:
                assert len(found) <= 3, number
    assert 100 < refused < 400


def test_npz_data(tmp_path):
    """Images that load are 8-bit images in the right shape with labels in range."""
    path = tmp_path / "data.npz"
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(4))
    stored = path.read_bytes()
    np.savez_compressed(path, images=images, labels=np.arange(4))
    compressed = path.read_bytes()
    expected = load_data("cifar10", data_dir=path)
    refused = 0
    for number, rng in cases("npz", 600):
        if path.is_dir():
            path.rmdir()
        path.write_bytes(rng.choice([stored, compressed]))
        damage(path, rng)
        found, error = attempt(load_data, "cifar10", data_dir=path)
        refused += error is not None
        if error is None:
            assert torch.equal(found.images, expected.images), number
            assert torch.equal(found.labels, expected.labels), number
    assert refused > 300
    for number, rng in cases("npz arrays", 300):
        arrays = {"images": images, "labels": np.arange(4)}
        name = rng.choice(["images", "labels"])
        arrays[name] = strange_array(arrays[name], rng)
        np.savez(path, **arrays)
        found, error = attempt(load_data, "cifar10", data_dir=path)
        if error is None:
            assert found.images.shape[1:] == (3, 32, 32), number
            assert found.labels.shape == (len(found.images),), number
            assert ((found.labels >= 0) & (found.labels < 10)).all(), number


def strange_array(array, rng):
    ways = [
        lambda: array[:0],
        lambda: array[None],
        lambda: array.astype(np.float32),
        lambda: array.astype(np.int8),
        lambda: array.astype(np.uint64) + np.uint64(2**63),
        lambda: array.astype(np.complex64),
        lambda: array.astype("U8"),
        lambda: array.astype("datetime64[s]") if array.dtype != np.uint8 else array.astype(bool),
        lambda: array.astype(">i8"),
        lambda: np.array(5),
        lambda: np.zeros(0),
        lambda: array.transpose(),
        lambda: array.reshape(-1),
        lambda: array.astype([("a", array.dtype)]),
        lambda: np.asfortranarray(array),
    ]
    return rng.choice(ways)()


CONSTANTS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
RA_WRN = {"stem_width": 4, "depths": [1, 1, 1], "widths": [4, 8, 16], **CONSTANTS}
DM_WRN = {"depth": 10, "width": 1, "activation": "silu", **CONSTANTS}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The same net in each of the formats that are read."""
    torch.manual_seed(0)
    net = build("small_cnn", widths=(2, 3), num_classes=4)
    folder = tmp_path_factory.mktemp("foreign")
    state = net.state_dict()
    torch.save({"epoch": 3, "best": np.float64(0.5), "state_dict": state}, folder / "new.pt")
    torch.save({"model": state}, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "weights.safetensors")
    np.savez(folder / "arrays.npz", **{key: value.numpy() for key, value in state.items()})
    return net, folder


@pytest.mark.parametrize("name", ["new.pt", "old.pt", "weights.safetensors", "arrays.npz"])
def test_foreign_checkpoints(foreign, tmp_path, name):
    net, folder = foreign
    config = BaseNetConfig(architecture="small_cnn", arguments={"widths": [2, 3]})
    own = net.state_dict()
    original = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(original)
    for number, rng in cases(f"checkpoints {name}", 400):
        if path.is_dir():
            path.rmdir()
        path.write_bytes(original)
        damage(path, rng)
        checkpoint, error = attempt(read_checkpoint, path)
        if error is None:
            converted, error = attempt(convert_base_net, checkpoint, config, net, str(path))
            if error is None:
                assert converted.keys() == own.keys(), number
                for key, value in converted.items():
                    assert isinstance(value, torch.Tensor), number
                    assert value.shape == own[key].shape, number
                    assert value.is_floating_point() == own[key].is_floating_point(), number
        assert error is None or isinstance(error, ZooError), (number, repr(error))


def strange_value(rng, tensor):
    ways = [
        lambda: None,
        lambda: 3,
        lambda: "text",
        lambda: [tensor],
        lambda: {},
        lambda: {"a": tensor},
        lambda: tensor.numpy(),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.int32),
        lambda: tensor.bool(),
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: torch.tensor(1.0),
        lambda: tensor.unsqueeze(0),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
        lambda: np.array(["a"]),
        lambda: np.array([tensor], dtype=object),
        lambda: np.ma.masked_array([1.0]),
    ]
    return rng.choice(ways)()


def test_checkpoints_with_strange_content():
    """``convert_base_net`` and ``convert_mixing_network`` on what a file may well hold."""
    torch.manual_seed(0)
    nets = {
        "small_cnn": ({"widths": [2, 3]}, build("small_cnn", widths=(2, 3), num_classes=4)),
        "ra_wide_resnet": (RA_WRN, build("ra_wide_resnet", num_classes=4, **RA_WRN)),
        "bit_resnet": (
            {"depth": [1, 1, 1, 1], "width": 1, "image_size": 32},
            build("bit_resnet", num_classes=4, depth=[1, 1, 1, 1], width=1, image_size=32),
        ),
        "dm_wide_resnet": (DM_WRN, build("dm_wide_resnet", num_classes=4, **DM_WRN)),
    }
    mixing = meta_triplet(find_entry(NAME, DATASET, "Linf")).alpha
    keys = [
        "state_dict",
        "model",
        "bn",
        "module.x",
        "",
        3,
        None,
        ("a",),
        "stem.weight",
        "logits.weight",
        "head/conv2d/kernel",
    ]
    keys += ["resnet/root_block/standardized_conv2d/kernel", "root.conv.weight", "layers.0.0.bn1.weight", "running_var"]
    for number, rng in cases("strange checkpoints", 1500):
        architecture = rng.choice(sorted(nets))
        arguments, net = nets[architecture]
        own = net.state_dict()
        state = dict(own) if rng.random() < 0.7 else {}
        for _ in range(rng.choice([1, 1, 3])):
            key = rng.choice([*own, *own, *keys])
            tensor = own.get(key, torch.zeros(2, 3)) if isinstance(key, str) else torch.zeros(2)
            state[key] = strange_value(rng, tensor)
        if rng.random() < 0.3:
            state = {
                rng.choice(["state_dict", "model", "model_state_dict"]): state,
                "bn": strange_value(rng, torch.zeros(1)),
            }
        config = BaseNetConfig(architecture=architecture, arguments=arguments)
        converted, error = attempt(convert_base_net, state, config, net, "a file")
        assert error is None or isinstance(error, ZooError), (number, repr(error))
        if error is None:
            for key, value in converted.items():
                assert isinstance(value, torch.Tensor), (number, key)
                assert value.layout == torch.strided, (number, key)
                assert value.device.type == "cpu", (number, key)
                assert value.is_floating_point() == own[key].is_floating_point(), (number, key)
        _, error = attempt(convert_mixing_network, state, mixing, "a file")
        assert error is None or isinstance(error, ZooError), (number, repr(error))


def test_eps_of_any_text():
    for number, rng in cases("eps", 1000):
        text = "".join(rng.choice("0123456789/.e-+_ naif") for _ in range(rng.randrange(1, 12)))
        value, error = attempt(parse_eps, rng.choice([text, *STRANGE_TEXTS]))
        assert error is None or isinstance(error, ZooError), number
        assert error is not None or 0.0 <= value < float("inf"), number


def test_the_copy_helper_restores(tmp_path):
    """The suite's own tool: what a case has done is gone in the next."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    for _ in range(2):
        with restored(tmp_path / "b", tmp_path / "a") as folder:
            assert (folder / "file").read_text() == "x"
            shutil.rmtree(folder)
