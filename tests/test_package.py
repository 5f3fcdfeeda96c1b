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


def _imported(module):
    """Seconds that importing it takes, and what is then there of the dependencies of evaluations."""
    program = (
        f"import sys, time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start, "
        "*(n for n in ('robustbench', 'timm', 'torchvision', 'pyautoattack', 'sklearn', 'matplotlib') "
        "if n in sys.modules))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    seconds, *others = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), others


def test_importing_the_package_imports_no_evaluation_dependency_and_takes_under_one_and_a_half_times_importing_torch():
    # Interleaved, so that a busy machine slows both alike; the fastest of each is the one that was disturbed least.
    ours = torch_alone = float("inf")
    for _ in range(5):
        seconds, others = _imported("adaptive_smoothing_zoo")
        assert others == []
        ours = min(ours, seconds)
        torch_alone = min(torch_alone, _imported("torch")[0])
        if ours < 1.5 * torch_alone:
            return
    pytest.fail(f"{ours:.2f} s, and torch alone {torch_alone:.2f} s")


def test_embedded_weights_are_safetensors_and_small():
    files = list((ROOT / "adaptive_smoothing_zoo" / "pretrained").glob("*.safetensors"))
    digits = [file.stat().st_size for file in files if "digits" in file.name]
    assert digits
    assert sum(digits) < 2_000_000
    assert sum(file.stat().st_size for file in files) < 40_000_000
