"""Shared by all tests."""

import pytest
import torch
from file_server import file_server  # noqa: F401
from hub_server import hub  # noqa: F401
from hypothesis import settings

# The nets of the tests are too small for more than one thread each; the suite runs in several processes instead.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is, not whether the property holds.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
