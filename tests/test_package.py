import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import adaptive_smoothing_zoo

ROOT = Path(__file__).parent.parent


def test_the_package_says_its_version():
    assert importlib.metadata.version("adaptive-smoothing-zoo") == adaptive_smoothing_zoo.__version__


def test_public_names_exist():
    assert all(hasattr(adaptive_smoothing_zoo, name) for name in adaptive_smoothing_zoo.__all__)


def test_importing_the_package_imports_no_evaluation_dependency():
    program = (
        "import sys, adaptive_smoothing_zoo; "
        "print(*(n for n in ('robustbench', 'timm', 'torchvision', 'pyautoattack', 'sklearn', 'matplotlib') "
        "if n in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def _seconds(module):
    program = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    return float(
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, check=True).stdout
    )


def test_importing_the_package_takes_under_one_and_a_half_times_importing_torch():
    # Interleaved, so that a busy machine slows both alike; the fastest of each is the one that was disturbed least.
    ours = torch_alone = float("inf")
    for _ in range(5):
        ours = min(ours, _seconds("adaptive_smoothing_zoo"))
        torch_alone = min(torch_alone, _seconds("torch"))
        if ours < 1.5 * torch_alone:
            return
    pytest.fail(f"{ours:.2f} s, and torch alone {torch_alone:.2f} s")


def test_embedded_weights_are_safetensors_and_small():
    files = list((ROOT / "adaptive_smoothing_zoo" / "pretrained").glob("*.safetensors"))
    digits = [file.stat().st_size for file in files if "digits" in file.name]
    assert digits
    assert sum(digits) < 2_000_000
    assert sum(file.stat().st_size for file in files) < 40_000_000
