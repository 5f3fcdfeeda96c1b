"""RobustBench's own functions with our models. Skipped where RobustBench is not installed."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("pyautoattack")
if pytest.importorskip("importlib.util").find_spec("robustbench") is None:
    pytest.skip("robustbench is not installed", allow_module_level=True)

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.zoo.registry import list_models

adaptive_smoothing_zoo.register()


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """A maker of folders in torchvision's format that hold the given test images and labels."""
    from torchvision import datasets

    def make(images, labels):
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        batch = {"data": images.reshape(len(images), 3072), "labels": labels}
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            (folder / name).write_bytes(pickle.dumps(batch))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
        return tmp_path

    # The real files' checksums cannot fit.
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return make


def test_import_robustbench_works_after_register_in_a_fresh_interpreter():
    program = (
        "import adaptive_smoothing_zoo, sys; assert 'robustbench' not in sys.modules; "
        "adaptive_smoothing_zoo.register(); assert 'robustbench' not in sys.modules; "
        "import robustbench; print(robustbench.benchmark.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith("benchmark")


@pytest.mark.parametrize("name", ["Demo2026Adaptive", "Demo2026Constant"])
def test_robustbenchs_load_model_returns_our_module(name):
    import robustbench

    theirs = robustbench.load_model(name, dataset="cifar10", threat_model="Linf")
    ours = load_model(name, dataset="cifar10", threat_model="Linf")
    assert type(theirs) is adaptive_smoothing_zoo.Triplet
    assert theirs.entry == ours.entry
    assert not theirs.training
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(theirs(images), ours(images))


def test_load_model_takes_robustbenchs_enumerations():
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    model = load_model("Demo2026Constant", None, BenchmarkDataset.cifar_10, ThreatModel.Linf)
    assert model.entry.key == "Demo2026Constant-cifar10-Linf"


@pytest.mark.parametrize(("targets", "queries"), [(2, 100), pytest.param(9, 5000, marks=pytest.mark.slow)])
def test_robustbenchs_benchmark_runs_end_to_end(cifar_folder, tmp_path, monkeypatch, targets, queries):
    import pyautoattack
    from robustbench import benchmark

    from adaptive_smoothing_zoo import MixedClassifier
    from adaptive_smoothing_zoo.attacks.settings import AttackSettings
    from adaptive_smoothing_zoo.data import load_data
    from adaptive_smoothing_zoo.evaluation import evaluate

    whole = pyautoattack.AutoAttack

    def shorter(*arguments, **options):
        attack = whole(*arguments, **options)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        attack.square.n_queries = queries
        return attack

    monkeypatch.setattr(pyautoattack, "AutoAttack", shorter)
    nets = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)) for _ in range(2)]
    model = MixedClassifier(*nets, 0.8).eval()
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32), dtype=np.uint8)
    labels = model(torch.from_numpy(images).float() / 255).argmax(1).tolist()
    labels[0] = (labels[0] + 1) % 10
    eps = 1 / 255
    folder = cifar_folder(images, labels)
    log = tmp_path / "log.txt"
    settings = {"n_examples": 8, "dataset": "cifar10", "threat_model": "Linf", "data_dir": str(folder)}
    clean, robust = benchmark(model, eps=eps, batch_size=8, log_path=str(log), **settings)
    examples = load_data("cifar10", data_dir=folder)
    short = AttackSettings().limited(targets=targets, queries=queries)
    ours = evaluate(model, examples.images, examples.labels, eps=eps, settings=short)
    assert clean == ours.clean_accuracy == 7 / 8
    assert 0 < ours.robust_accuracy < 7 / 8
    # RobustBench seeds from the clock, so a point may differ.
    assert robust == pytest.approx(ours.robust_accuracy, abs=0.13)
    assert "robust accuracy" in log.read_text()


def test_the_stand_in_refuses_state_files_that_could_not_be_resumed(tmp_path):
    from autoattack import AutoAttack

    attack = AutoAttack(torch.nn.Flatten(), device="cpu")
    with pytest.raises(ValueError, match="cannot be loaded again"):
        attack.run_standard_evaluation(torch.rand(2, 1, 2, 5), torch.zeros(2, dtype=torch.int64), state_path=tmp_path)


@pytest.mark.slow
def test_an_installed_autoattack_is_used(tmp_path):
    (tmp_path / "autoattack.py").write_text("marker = 'the real one'\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import adaptive_smoothing_zoo; "
        "adaptive_smoothing_zoo.register(); import autoattack; print(autoattack.marker)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "the real one", run.stderr


def test_robustbenchs_leaderboard_takes_our_entries(tmp_path, monkeypatch, capsys):
    import json

    import jinja2
    from robustbench.leaderboard import template

    from adaptive_smoothing_zoo.publishing.model_info import leaderboard_entry

    entry = next(entry for entry in list_models("cifar10") if entry.name == "Demo2026Constant")
    folder = tmp_path / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    for name, robust in (("Better", 0.5), ("Worse", 0.4)):
        (folder / f"{name}.json").write_text(json.dumps(leaderboard_entry(entry, 0.9, robust)))
    # The wheel lacks the template file, so one with the same variables stands in for it.
    text = "{% for model in models %}{{ model.clean_acc }} {{ model[acc_field] }} {{ model.eps }}\n{% endfor %}"
    monkeypatch.setattr(template, "PackageLoader", lambda *_: jinja2.DictLoader({"leaderboard.html.j2": text}))
    page = template.generate_leaderboard("cifar10", "Linf", str(tmp_path))
    assert page.splitlines() == ["90.00 50.00 8/255", "90.00 40.00 8/255"]


def test_our_entry_has_the_fields_and_types_of_robustbenchs_model_info():
    from robustbench.utils import ModelInfo

    from adaptive_smoothing_zoo.publishing.model_info import leaderboard_entry

    for entry in list_models():
        data = leaderboard_entry(entry, 0.95231, 0.68)
        known = set(ModelInfo.__dataclass_fields__)
        assert set(data) - {"unreliable"} <= known | {"external"}
        assert data["clean_acc"] == "95.23"
        assert data["autoattack_acc"] == "68.00"
        unsaid = {"additional_data"} if entry.additional_data is None else set()  # asz claim asks for it
        assert {name for name, value in data.items() if value is None} == unsaid
        adaptive = entry.published and entry.published.adaptive
        assert ("external" in data) == (adaptive is not None and float(adaptive) < 68.0)
