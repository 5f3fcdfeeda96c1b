"""Files from the Hub: what goes wrong on this machine is told apart from what goes wrong elsewhere."""

import errno
import os
from unittest.mock import Mock

import pytest

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.hub_files import HubOptions, NotOnHubError, hub_file


def answer(monkeypatch, error):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=error))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOLCK])
def test_what_this_machine_s_files_refuse_is_told_with_the_cache_and_what_to_do(monkeypatch, tmp_path, number):
    answer(monkeypatch, OSError(number, os.strerror(number)))
    message = rf"cannot keep f from 'org/name' .* in the cache {tmp_path}: .*{os.strerror(number)}; make room there, or"
    with pytest.raises(WeightsError, match=message):
        hub_file("org/name", "f", options=HubOptions(cache_dir=tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError("timed out"),
        OSError("no errno"),
        RuntimeError("Data processing error: something\nand more"),  # as hf_xet says it
    ],
)
def test_what_the_network_refuses_can_be_tried_again(monkeypatch, error):
    answer(monkeypatch, error)
    with pytest.raises(WeightsError, match=r"cannot get f from 'org/name' on the Hub: .*; run it again") as caught:
        hub_file("org/name", "f")
    assert not isinstance(caught.value, NotOnHubError)
    assert "\n" not in str(caught.value)
