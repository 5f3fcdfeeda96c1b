"""The site of the docs builds, with the API reference and without a broken link."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs comes with the extra 'docs'")
def test_the_site_builds_and_documents_every_room(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for room in (path.parent.name for path in (ROOT / "adaptive_smoothing_zoo").glob("*/__init__.py")):
        assert f'id="adaptive_smoothing_zoo.{room}' in (tmp_path / "api" / room / "index.html").read_text()
