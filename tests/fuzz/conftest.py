"""All of this folder is behind the marker ``fuzz``, works in a folder of its own, and attacks for a few steps only."""

from pathlib import Path

import pytest
from fuzzing import short_attacks


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fuzz)


@pytest.fixture(autouse=True, scope="module")
def _short_attacks():
    with pytest.MonkeyPatch.context() as monkeypatch:
        short_attacks(monkeypatch)
        yield


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an empty text names the working folder
