"""The wheel that pip installs: complete, and useful without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import adaptive_smoothing_zoo

ROOT = Path(__file__).parent.parent
PACKAGE = "adaptive_smoothing_zoo"

pytestmark = pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools, which builds it, is not installed")

SMOKE = """
import torch
from adaptive_smoothing_zoo import evaluate, list_models, load_base_net, load_model
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.training.recipe import list_recipes, read_recipe

embedded = [entry for entry in list_models() if entry.comes_along]
for entry in embedded:
    model = load_model(entry.name, dataset=entry.dataset, threat_model=entry.threat_model)
    assert model(torch.rand(2, *entry.image_shape)).shape == (2, entry.num_classes)
    assert f"# {entry.name} " in model_card(entry, None)
assert load_base_net("pyautoattack_resnet18")(torch.rand(1, 3, 32, 32)).shape == (1, 10)
assert [read_recipe(recipe) for recipe in list_recipes()]
digits = load_data("digits", n=8)
model = load_model("Demo2026Constant", dataset="digits")
found = evaluate(model, digits.images, digits.labels, attacks=("apgd-ce",), norm="Linf", eps=0.01, device="cpu")
assert len(found) == 8
print(len(embedded))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build folder stays here."""
    folder = tmp_path_factory.mktemp("wheel")
    source, out = folder / "source", folder / "out"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / PACKAGE, source / PACKAGE, ignore=ignored)
    build = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, check=True)
    (path,) = out.iterdir()
    return path


def test_it_holds_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith(f"{PACKAGE}/")} == here
    data = ("py.typed", "zoo/entry.schema.json", "publishing/known_accuracies.json", "recipes/digits_rob.toml")
    assert {f"{PACKAGE}/{name}" for name in data} <= names


def test_it_says_its_version_and_how_it_is_called(wheel):
    files = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in files.namelist() if ".dist-info/" in name}
    version = adaptive_smoothing_zoo.__version__
    assert info == f"{PACKAGE}-{version}.dist-info"
    assert f"\nVersion: {version}\n" in files.read(f"{info}/METADATA").decode()
    assert "asz = adaptive_smoothing_zoo.cli:main" in files.read(f"{info}/entry_points.txt").decode()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """What a process needs to find the installed wheel before anything else, and a folder to run it in."""
    target = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(target)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return environment | {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}, tmp_path_factory.mktemp("elsewhere")


def run(installed, code, *arguments):
    environment, folder = installed
    command = [sys.executable, "-c", code, *arguments]
    found = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
def test_it_loads_builds_attacks_and_writes_cards_without_the_repository(installed):
    told = run(installed, f"import {PACKAGE}; print({PACKAGE}.__file__)\n{SMOKE}")
    where, embedded = told.splitlines()
    assert where.startswith(installed[0]["PYTHONPATH"])
    assert int(embedded) >= 6


@pytest.mark.slow
def test_its_commands_answer(installed):
    calls = (
        "--version",
        "list --embedded",
        "info Demo2026Adaptive --dataset digits",
        "recipes",
        "card Demo2026Constant",
    )
    asz = "import sys; from click.testing import CliRunner; from adaptive_smoothing_zoo.cli import asz\n"
    asz += "for call in sys.argv[1:]: print(CliRunner().invoke(asz, call.split(), catch_exceptions=False).output)"
    told = run(installed, asz, *calls)
    expected = (f"asz, version {adaptive_smoothing_zoo.__version__}\n", "Demo2026Lipschitz", "51.81", "digits_adaptive")
    assert all(text in told for text in (*expected, "wrote model_cards"))
