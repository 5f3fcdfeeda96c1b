"""Several processes train together (gloo on the CPU), started as users start them, or for less by a fork."""

import os
import socket
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import launched
import pytest
import torch
from launched import base, mixing
from quadrants import IMAGES, LABELS, a_mix, a_net
from safetensors.torch import load_file

from adaptive_smoothing_zoo.training.base_nets import train_base_net
from adaptive_smoothing_zoo.training.keeping import read_log, rounds_kept
from adaptive_smoothing_zoo.training.mixing_training import train_mixing_network
from adaptive_smoothing_zoo.training.workers import Workers, find_workers

pytest.importorskip("accelerate", reason="pip install 'adaptive-smoothing-zoo[training]'")


def launch(*arguments):
    """``torchrun`` with two processes; their exit code."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", str(Path(__file__).parent / "launched.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    return finished.returncode, finished.stderr


def fork(*arguments):
    """The same of this process, with the variables that ``torchrun`` sets, and no errors: they are printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [get_context("fork").Process(target=_be, args=(rank, port, arguments), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(280)
    return max(abs(process.exitcode) for process in processes), ""


def _be(rank, port, arguments):
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    sys.argv = ["launched.py", *map(str, arguments)]
    launched.main()


@pytest.mark.parametrize("start", [fork, pytest.param(launch, marks=pytest.mark.slow)])
def test_two_processes_do_what_one_does_in_two_passes(start, tmp_path):
    code, errors = start(tmp_path / "state", tmp_path / "results", 0)
    assert code == 0, errors
    both = [load_file(tmp_path / "results" / f"{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(value, both[1][key]) for key, value in both[0].items())
    for name, train in (
        ("mixing", lambda folder: train_mixing_network(a_mix(), IMAGES, LABELS, mixing(accumulation=2), folder=folder)),
        ("base", lambda folder: train_base_net(a_net(), IMAGES, LABELS, base(accumulation=2), folder=folder)),
    ):
        train(tmp_path / "alone" / name)
        together, alone = (read_log(tmp_path / where / name) for where in ("state", "alone"))
        assert len(together) == len(alone) == 4
        # Before the first step everything is the same, and afterwards all but how batch norms average.
        for key in set(together[0]) - {"seconds"}:
            assert together[0][key] == pytest.approx(alone[0][key], rel=1e-4), (name, key)
        assert together[-1]["loss"] == pytest.approx(alone[-1]["loss"], rel=0.1)


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(tmp_path):
    assert launch(tmp_path / "whole", tmp_path / "expected", 0)[0] == 0
    assert launch(tmp_path / "state", tmp_path / "nothing", 2)[0] != 0
    assert len(read_log(tmp_path / "state" / "mixing")) == 2
    code, errors = launch(tmp_path / "state", tmp_path / "results", 0)
    assert code == 0, errors
    expected, found = (load_file(tmp_path / name / "0.safetensors") for name in ("expected", "results"))
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_one_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    workers = find_workers(torch.device("cpu"))
    assert type(workers) is Workers
    assert workers.is_first
    assert torch.equal(workers.share(torch.arange(3)), torch.arange(3))


@pytest.mark.slow
def test_torchrun_s_end_keeps_the_last_finished_round(tmp_path):
    """torchrun hands SIGTERM on to its processes, of which the first one writes."""
    program, out = tmp_path / "asz.py", tmp_path / "out"
    program.write_text("from adaptive_smoothing_zoo.cli import main; main()")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", str(program), "train", "digits_rob", "--out", str(out)]
    command += ["--device", "cpu", "--checkpoint-seconds", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 200
        while not (out / "log.csv").exists() or len(read_log(out)) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()
        output = process.communicate()[0]
    assert rounds_kept(out) >= 3
    assert f"kept: round {rounds_kept(out)} of 960 of net" in output
