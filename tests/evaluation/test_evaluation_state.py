"""Evaluations that are interrupted, cut into shards, or short of memory end as if nothing had been."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from short_attacks import shorten
from torch import nn

from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import STANDARD_ATTACKS, AttackSettings
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.errors import EvaluationError, ResultsError
from adaptive_smoothing_zoo.evaluation import evaluate, merge
from adaptive_smoothing_zoo.evaluation.attack_run import ENGINES
from adaptive_smoothing_zoo.storage import checked_file
from adaptive_smoothing_zoo.training.base_nets import BaseNetTraining, train_base_net

GENERATOR = torch.Generator().manual_seed(0)
EPS = 0.048
IMAGES = torch.rand(24, 1, 8, 8, generator=GENERATOR)
LABELS = torch.arange(24) % 6


class Interrupted(BaseException):
    """As Ctrl-C."""


class InterruptAt:
    """A progress callback that interrupts at its n-th call."""

    def __init__(self, n):
        self.left = n

    def __call__(self, progress):
        self.left -= 1
        if self.left == 0:
            raise Interrupted


@pytest.fixture(scope="module")
def model():
    """A net that knows the labels of these images by heart."""
    torch.manual_seed(3)
    net = build("small_cnn", widths=(4, 6), num_classes=6)
    return train_base_net(net, IMAGES, LABELS, BaseNetTraining(epochs=60, batch_size=8, learning_rate=0.05))


@pytest.fixture(scope="module")
def labels():
    found = LABELS.clone()
    found[::7] = (found[::7] + 1) % 6  # misclassified without an attack
    return found


@pytest.fixture(autouse=True)
def short_attacks(monkeypatch):
    shorten(monkeypatch, iterations=8, queries=40, targets=2)


def run(model, labels, **changes):
    # Near the middle of the distances, so that every attack has points that fall and points that stand.
    settings = {"eps": EPS, "seed": 5, "batch_size": 4, "device": "cpu", "engine": "fast", "flush_seconds": 0.0}
    return evaluate(model, IMAGES, labels, **(settings | changes))


def assert_same(a, b):
    """The same verdicts. (Where a batch is smaller, kernels round in another way, and a sign of a gradient that is
    almost zero turns: the same points fall, not always to the same bits.)
    """
    for name in ("clean_correct", "robust", "broken_by", "points"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for name in ("accuracy_after", "settings", "threat", "warnings", "deterministic", "engine", "device"):
        assert getattr(a, name) == getattr(b, name), name


@pytest.fixture(scope="module")
def whole(model, labels):
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, iterations=8, queries=40, targets=2)
        found = run(model, labels)
    assert 0 < found.robust.sum() < found.clean_correct.sum() < len(IMAGES)  # or the tests below would show nothing
    return found


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_whatever_the_moment_of_interruption_the_end_is_the_same(model, labels, whole, tmp_path, seed):
    moments = random.Random(seed)
    for _ in range(200):
        interrupt = InterruptAt(moments.randrange(1, 12))
        try:
            found = run(model, labels, state=tmp_path / "state", on_progress=interrupt)
            break
        except Interrupted:
            continue
    assert_same(found, whole)
    chunks = len(list((tmp_path / "state").glob("chunk-*")))
    assert_same(run(model, labels, state=tmp_path / "state"), whole)  # finished: nothing is done again
    assert len(list((tmp_path / "state").glob("chunk-*"))) == chunks


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_fast_engines_verdicts_do_not_depend_on_the_batch_size(model, labels, whole, batch_size):
    found = run(model, labels, batch_size=batch_size)
    assert np.array_equal(found.robust, whole.robust)
    assert np.array_equal(found.broken_by, whole.broken_by)


@pytest.mark.parametrize("count", [2, 3, pytest.param(24, marks=pytest.mark.slow)])
def test_shards_merge_to_what_one_process_finds(model, labels, whole, tmp_path, count):
    folders = [tmp_path / str(i) for i in range(count)]
    for i, folder in enumerate(folders):
        part = run(model, labels, state=folder, shard=(i, count))
        assert part.points.tolist() == list(range(i, len(IMAGES), count))
        assert np.array_equal(part.robust, whole.robust[part.points])
    assert_same(merge(reversed(folders), IMAGES, labels), whole)


class TestMerging:
    @pytest.fixture
    def folders(self, model, labels, tmp_path):
        found = [tmp_path / str(i) for i in range(2)]
        for i, folder in enumerate(found):
            run(model, labels, state=folder, shard=(i, 2), eps=0.0)
        return found

    def test_a_missing_or_doubled_shard_is_named(self, labels, folders):
        for wrong in (folders[:1], [*folders, folders[0]]):
            with pytest.raises(ResultsError, match=r"each shard of one split exactly once, got 0/2 in .*"):
                merge(wrong, IMAGES, labels)
        with pytest.raises(ResultsError, match="no states to merge"):
            merge([], IMAGES, labels)

    def test_shards_of_different_evaluations_are_named_with_what_differs(self, model, labels, folders, tmp_path):
        run(model, labels, state=tmp_path / "other", shard=(1, 2), eps=0.0, seed=6)
        with pytest.raises(ResultsError, match=r"other does not belong .* its seed is 6, not 5"):
            merge([folders[0], tmp_path / "other"], IMAGES, labels)

    def test_an_unfinished_shard_is_named(self, labels, folders):
        max(folders[1].glob("chunk-*")).unlink()
        with pytest.raises(ResultsError, match=r"12 of 24 examples are not finished; run their shards to the end"):
            merge(folders, IMAGES, labels)

    def test_a_shard_that_lacks_a_chunk_of_any_stage_is_named(self, model, labels, tmp_path):
        folder = tmp_path / "whole"
        run(model, labels, state=folder)
        for chunk in sorted(folder.glob("chunk-*")):
            content = chunk.read_bytes()
            chunk.unlink()
            with pytest.raises(ResultsError, match=r"of 24 examples are not finished"):
                merge([folder], IMAGES, labels)
            chunk.write_bytes(content)
        merge([folder], IMAGES, labels)

    def test_other_data_are_refused(self, labels, folders):
        with pytest.raises(ResultsError, match=r"data with SHA-256 [0-9a-f]+ were evaluated, got data with"):
            merge(folders, IMAGES.flip(0), labels)

    def test_a_folder_without_a_state_is_named(self, labels, folders, tmp_path):
        with pytest.raises(ResultsError, match=r"holds no state: there is no binding\.json"):
            merge([folders[0], tmp_path], IMAGES, labels)


@pytest.mark.slow
def test_the_reference_engine_goes_on_with_the_batches_it_had(model, labels, tmp_path):
    small = {"engine": "reference", "eps": EPS, "batch_size": 10, "norm": "Linf"}
    few = IMAGES[:10], labels[:10]
    whole = evaluate(model, *few, device="cpu", seed=1, **{**small, "batch_size": 4})
    state = tmp_path / "state"
    for left in (2, 5):
        interrupt = InterruptAt(left)
        with pytest.raises(Interrupted):
            evaluate(
                model,
                *few,
                device="cpu",
                seed=1,
                state=state,
                flush_seconds=0.0,
                on_progress=interrupt,
                **{**small, "batch_size": 4},
            )
    assert_same(evaluate(model, *few, device="cpu", seed=1, state=state, **{**small, "batch_size": 4}), whole)


def test_what_is_lost_of_a_batch_that_cannot_be_resumed_is_said(model, labels, tmp_path):
    with pytest.raises(Interrupted) as caught:
        run(model, labels, engine="reference", state=tmp_path / "state", on_progress=in_the_first_attack)
    (note,) = caught.value.__notes__
    assert note.startswith("apgd-ce: 4 of 20 points are finished and saved; pyautoattack")
    assert "cannot resume inside a batch, so 0 s of work on the current batch are lost" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, r"made with settings\.seed 5, this run has settings\.seed 6"),
        ({"eps": 0.5}, r"made with threat\.eps 0\.048, this run has threat\.eps 0\.5"),
        ({"norm": "L2"}, "made with threat.norm 'Linf', this run has threat.norm 'L2'"),
        ({"channels_last": True}, "made with settings.channels_last False, this run has settings.channels_last True"),
        ({"shard": (0, 2)}, "made with shard '0/1', this run has shard '0/2'"),
        ({"engine": "reference"}, "made with settings.engine 'fast', this run has settings.engine 'reference'"),
    ],
)
def test_a_state_of_another_evaluation_is_refused_with_both_values(model, labels, tmp_path, change, message):
    with pytest.raises(Interrupted):
        run(model, labels, state=tmp_path / "state", on_progress=InterruptAt(1))
    with pytest.raises(ResultsError, match=message):
        run(model, labels, state=tmp_path / "state", **change)


def test_a_state_of_another_model_or_other_data_is_refused(model, labels, tmp_path):
    with pytest.raises(Interrupted):
        run(model, labels, state=tmp_path / "state", on_progress=InterruptAt(1))
    with pytest.raises(ResultsError, match="made with model"):
        run(build("small_cnn", widths=(4, 6), num_classes=6), labels, state=tmp_path / "state")
    with pytest.raises(ResultsError, match="made with images and labels of SHA-256"):
        run(model, labels.flip(0), state=tmp_path / "state")


def test_constants_that_are_no_weights_belong_to_the_model_as_well(model, labels, tmp_path):
    from adaptive_smoothing_zoo import MixedClassifier

    with pytest.raises(Interrupted):
        run(MixedClassifier(model, model, 0.7), labels, state=tmp_path / "state", on_progress=InterruptAt(1))
    with pytest.raises(ResultsError, match="made with model"):
        run(MixedClassifier(model, model, 0.8), labels, state=tmp_path / "state")


class TestDamage:
    @pytest.fixture
    def state(self, model, labels, tmp_path):
        run(model, labels, state=tmp_path / "state")
        return tmp_path / "state"

    @pytest.mark.parametrize("kind", ["flipped", "other numbers", "no file"])
    def test_a_chunk_that_cannot_be_read_is_done_again(self, model, labels, whole, state, kind, caplog):
        chunks = sorted(state.glob("chunk-*.safetensors"))
        for path in (chunks[0], chunks[len(chunks) // 2], chunks[-1]):
            content = path.read_bytes()
            if kind == "flipped":
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            elif kind == "other numbers":
                tensors = load_file(path)
                save_file({name: tensor for name, tensor in tensors.items() if name != "flat"}, path)
            else:
                path.unlink()
        assert_same(run(model, labels, state=state), whole)
        assert ("is put aside" in caplog.text) == (kind != "no file")

    def test_a_binding_of_something_else_is_named(self, labels, state):
        (state / "binding.json").write_text('{"norm": 1}')
        with pytest.raises(ResultsError, match=r"holds no state of an evaluation .*; delete it to start again"):
            merge([state], IMAGES, labels)


@pytest.mark.parametrize("kind", ["chunk", "running"])
def test_a_full_disk_ends_the_run_with_a_sentence_and_loses_nothing(model, labels, whole, tmp_path, monkeypatch, kind):
    original, calls = checked_file.save_file, []

    def full(tensors, path, metadata):
        calls.append(kind in str(path))
        if sum(calls) == 3 and calls[-1]:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path, metadata=metadata)

    monkeypatch.setattr(checked_file, "save_file", full)
    with pytest.raises(ResultsError, match=rf"cannot write .*{kind}-.*No space left on device"):
        run(model, labels, state=tmp_path / "state")
    assert len(list((tmp_path / "state").glob("chunk-*"))) >= 2
    assert not list((tmp_path / "state").glob(".chunk*")) + list((tmp_path / "state").glob(".running*"))
    monkeypatch.setattr(checked_file, "save_file", original)
    assert_same(run(model, labels, state=tmp_path / "state"), whole)


class Stopping(nn.Module):
    """A net that interrupts when it is called for the n-th time, and counts the images that it was asked about."""

    left, images = 0, 0

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        Stopping.left -= 1
        Stopping.images += len(images)
        if Stopping.left == 0:
            raise Interrupted
        return self.net(images)


def test_whatever_call_of_the_net_is_interrupted_no_more_than_a_step_is_lost(model, labels, tmp_path, monkeypatch):
    monkeypatch.undo()  # a longer run has room for more interruptions
    shorten(monkeypatch, iterations=10, queries=60)
    net, moments = Stopping(model), random.Random(1)
    options = {"batch_size": 6, "flush_seconds": 1e9}
    Stopping.left, Stopping.images = 0, 0
    whole, images = run(net, labels, **options), Stopping.images
    notes, lost = [], 0
    for _ in range(60):
        Stopping.left, Stopping.images = moments.randrange(16, 60), 0
        try:
            found = run(net, labels, state=tmp_path / "state", **options)
            break
        except Interrupted as interrupted:
            notes += interrupted.__notes__
            lost += Stopping.images
    assert_same(found, whole)
    assert len(notes) > 10
    assert all("points are finished; all work is saved except for the last" in note for note in notes)
    # Beside the work: a start (class count, the copy's comparison, ranks) and at most one step of one batch each time.
    assert lost + Stopping.images - images < len(notes) * 72
    assert not list((tmp_path / "state").glob("running-*"))


def test_the_bar_of_a_resumed_run_knows_what_was_done_before(model, labels, tmp_path):
    net = Stopping(model)
    seen, again = [], []
    Stopping.left = 60
    with pytest.raises(Interrupted):
        run(net, labels, state=tmp_path / "state", batch_size=24, on_progress=seen.append)
    assert seen[-1].attack in STANDARD_ATTACKS
    Stopping.left = 0
    found = run(net, labels, state=tmp_path / "state", batch_size=24, on_progress=again.append)
    assert seen[-1].attack == again[0].attack != "clean"
    assert seen[-1].passes_before == 0 < again[0].passes_before == again[0].passes_done
    assert again[-1].passes_left == 0
    assert again[-1].robust == found.robust.sum()


def in_the_first_attack(progress):
    if progress.attack == "apgd-ce" and progress.done:
        raise Interrupted


def test_a_snapshot_that_is_damaged_or_does_not_fit_is_put_aside(model, labels, whole, tmp_path, caplog):
    for kind in ("flipped", "other points"):
        state = tmp_path / kind
        with pytest.raises(Interrupted):
            run(Stopping(model), labels, state=state, on_progress=in_the_first_attack)
        (path,) = state.glob("running-*")
        if kind == "flipped":
            content = path.read_bytes()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        else:
            tensors = load_file(path)
            checked_file.write_checked(path, tensors | {"indices": tensors["indices"] + 1}, {"seconds": 0.0})
        assert_same(run(Stopping(model), labels, state=state), whole)
        assert "is put aside" in caplog.text
        assert len(list(state.glob("*.damaged"))) == 1
        caplog.clear()


def test_points_that_only_a_snapshot_knows_as_done_are_attacked_again(model, labels, whole, tmp_path):
    class Later(Exception):
        pass

    def stop(progress):
        if progress.attack == "fab-t" and progress.done > 5:
            raise Later

    with pytest.raises(Later):
        run(model, labels, state=tmp_path / "state", on_progress=stop)
    assert list((tmp_path / "state").glob("running-fab-t*"))
    chunks = [path for path in (tmp_path / "state").glob("chunk-*") if b"fab-t" in path.read_bytes()]
    assert chunks
    for chunk in chunks:
        chunk.unlink()
    assert_same(run(model, labels, state=tmp_path / "state"), whole)


def test_another_number_of_examples_is_named(model, labels, tmp_path):
    with pytest.raises(Interrupted):
        run(model, labels, state=tmp_path / "state", on_progress=InterruptAt(1))
    with pytest.raises(ResultsError, match="was made with 24 examples, this run has 10 examples"):
        evaluate(model, IMAGES[:10], labels[:10], eps=EPS, seed=5, device="cpu", state=tmp_path / "state")


def test_two_at_once_are_refused(model, labels, tmp_path):
    def second(progress):
        with pytest.raises(ResultsError, match="another process works in"):
            run(model, labels, state=tmp_path / "state")
        raise Interrupted

    with pytest.raises(Interrupted):
        run(model, labels, state=tmp_path / "state", on_progress=second)


class Hungry(nn.Module):
    """A net whose memory holds so many images and no more."""

    def __init__(self, net, most, message=None):
        super().__init__()
        self.net, self.most, self.message = net, most, message

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory") if self.message is None else RuntimeError(self.message)
        return self.net(images)


@pytest.mark.parametrize("message", [None, "DefaultCPUAllocator: can't allocate memory: you tried to allocate"])
def test_where_memory_runs_out_batches_are_halved_and_that_is_remarked(model, labels, whole, message):
    found = run(Hungry(model, 5, message), labels, batch_size=16)
    assert np.array_equal(found.robust, whole.robust)
    assert found.batch_size == 4
    assert found.remarks == tuple(f"memory ran out; the batch size was halved to {size}" for size in (8, 4))


def test_where_memory_runs_out_what_the_engine_held_is_given_up_first(model, labels, monkeypatch):
    engines, kept = [], []

    def make(*arguments, **options):
        engine = Search(*arguments, **options)
        engines.append(weakref.ref(engine))
        return engine

    class Greedy(Hungry):
        def forward(self, images):
            if len(engines) > 1:
                kept.append(engines[0]() is not None)
            attacks = bool(engines) and engines[-1]()._runs is not None
            return super().forward(images) if attacks else self.net(images)

    monkeypatch.setitem(ENGINES, "fast", make)
    make.full_name = Search.full_name
    assert run(Greedy(model, 5), labels, batch_size=8).batch_size == 4
    assert len(engines) == 2
    assert kept
    assert not any(kept)


def test_memory_for_less_than_one_image_is_an_error(model, labels):
    with pytest.raises(torch.OutOfMemoryError):
        run(Hungry(model, 0), labels)


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(model, labels):
    with pytest.raises(RuntimeError, match="size mismatch"):
        run(Hungry(model, 3, "size mismatch"), labels)


def test_a_net_that_begins_to_give_nan_ends_the_run_and_keeps_the_state(model, labels, whole, tmp_path):
    class Later(nn.Module):
        calls = 0

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, images):
            Later.calls += 1
            return self.net(images) * (1.0 if Later.calls < 60 else torch.nan)

        def __repr__(self):
            return "Later"

    with pytest.raises(EvaluationError, match="NaN"):
        run(Later(model), labels, state=tmp_path / "state")
    assert list((tmp_path / "state").glob("chunk-*"))
    Later.calls = -(10**9)
    found = run(Later(model), labels, state=tmp_path / "state")
    assert np.array_equal(found.robust, whole.robust)


@pytest.mark.parametrize(
    ("shard", "engine", "message"),
    [
        ((2, 2), "fast", "a shard is i/k with 0 <= i < k, got 2/2"),
        ((-1, 2), "fast", "a shard is i/k"),
        ((30, 40), "fast", "shard 30/40 of 24 examples is empty"),
        ((0, 2), "reference", "use the engine 'fast' for shards"),
    ],
)
def test_shards_that_cannot_be_are_refused(model, labels, shard, engine, message):
    assert engine in ENGINES
    with pytest.raises(ValueError, match=message):
        run(model, labels, shard=shard, engine=engine)


ASZ = [sys.executable, "-c", "from adaptive_smoothing_zoo.cli import main; main()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(out, *more, n=12):
    return [*ASZ, "eval", "Demo2026Adaptive", "--dataset", "digits", "--n", str(n), "--out", str(out), *more]


def results(out):
    """What the run wrote, without timings, and without the commit, which may have moved on meanwhile."""
    folder = Path(out) / "digits" / "Linf"
    record = json.loads((folder / "Demo2026Adaptive.run.json").read_text())
    del record["seconds"], record["commit"]
    entry = (folder / "Demo2026Adaptive.json").read_bytes()
    return record, entry, (folder / "Demo2026Adaptive.examples.npz").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    subprocess.run(command(tmp_path / "whole"), check=True, env=ENVIRONMENT)
    moments, kills = random.Random(0), 0
    while True:
        process = subprocess.Popen(command(tmp_path / "killed"), env=ENVIRONMENT)
        # At first as early as the import, later further on, so that it gets somewhere between two kills.
        wait = moments.uniform(1.0, 15.0) if kills < 20 else None
        try:
            process.wait(wait)
            if kills >= 20:
                break
            # It ended before it was killed: once more from the beginning.
            for path in sorted((tmp_path / "killed" / "digits" / "Linf").iterdir()):
                path.unlink()
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "killed" / "digits" / "Linf").iterdir()) == [
        "Demo2026Adaptive.examples.npz",
        "Demo2026Adaptive.json",
        "Demo2026Adaptive.run.json",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_of_torchrun_write_what_one_writes(tmp_path):
    subprocess.run(command(tmp_path / "one"), check=True, env=ENVIRONMENT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517", "--"]
    program = tmp_path / "asz.py"
    program.write_text("from adaptive_smoothing_zoo.cli import main\nmain()\n")
    arguments = command(tmp_path / "two")[3:]
    subprocess.run([*torchrun, str(program), *arguments], check=True, env=ENVIRONMENT)
    assert results(tmp_path / "two") == results(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_shards_of_a_job_array_and_merge_write_what_one_writes(tmp_path):
    subprocess.run(command(tmp_path / "one"), check=True, env=ENVIRONMENT)
    for i in (1, 0):
        subprocess.run(command(tmp_path / "two", "--shard", f"{i}/2"), check=True, env=ENVIRONMENT)
    arguments = ["merge", "Demo2026Adaptive", "--dataset", "digits", "--n", "12", "--out", str(tmp_path / "two")]
    subprocess.run([*ASZ, *arguments], check=True, env=ENVIRONMENT)
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert one[1:] == two[1:]
    assert {key for key in one[0] if one[0][key] != two[0][key]} <= {"batch_size"}


def test_sigterm_ends_it_like_ctrl_c_and_it_goes_on(tmp_path):
    process = subprocess.Popen(command(tmp_path), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "digits" / "Linf" / "Demo2026Adaptive.state"
    deadline = time.monotonic() + 120
    while not list(state.glob("chunk-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "points are finished; all work is saved except for the last" in err
    assert "repeat the command to resume" in err
    assert list(state.glob("chunk-*"))


SLOW = """
import signal, sys, time
import torch
from torch import nn
from adaptive_smoothing_zoo.cli.interruption import told_how_to_go_on
from adaptive_smoothing_zoo.evaluation import evaluate

class Net(nn.Module):
    pause = 0.0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 5))

    def forward(self, images):
        time.sleep(Net.pause)
        return 4 * self.layers(images)

IMAGES = torch.rand(14, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2

def run(state, pause=0.0, **options):
    net, Net.pause = Net(), pause
    return evaluate(net, IMAGES, net.layers(IMAGES).argmax(1), eps=0.06, device="cpu", state=state, **options)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs inherit switched off
    with told_how_to_go_on():
        run(sys.argv[1], 0.05, flush_seconds=0.2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_is_ended_inside_its_first_batch_resumes_there(tmp_path, monkeypatch, number):
    program, state = tmp_path / "slow_net.py", tmp_path / "state"
    program.write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, str(program), str(state)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(state.glob("running-apgd-ce*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert ("all work is saved except for the last" in err) == (number != signal.SIGKILL)
    assert list(state.glob("running-apgd-ce*"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_net", raising=False)
    import slow_net

    seen = []
    found, whole = slow_net.run(state, on_progress=seen.append), slow_net.run(None)
    assert_same(found, whole)
    assert 0 < found.robust.sum() < 14
    assert (seen[0].attack, seen[0].done) == ("apgd-ce", 0)
    assert seen[0].passes_before < seen[1].passes_before  # what the snapshot knew


def test_the_reference_engine_resumes_with_the_batch_size_it_began_with(model, labels, tmp_path, monkeypatch):
    from adaptive_smoothing_zoo.evaluation import evaluate as module

    sizes = iter([16, 8])  # what free memory allows
    monkeypatch.setattr(sys.modules[module.__module__], "largest_batch_size", lambda *_: next(sizes))
    options = {"eps": 0.3, "engine": "reference", "device": "cpu", "state": tmp_path / "state"}
    first = module(model, IMAGES[:3], labels[:3], **options)
    again = module(model, IMAGES[:3], labels[:3], **options)
    assert again.batch_size == first.batch_size


def test_a_state_from_before_some_settings_were_there_goes_on(tmp_path):
    net = build("small_cnn", widths=(4, 8)).eval()
    about = {"eps": 0.0, "state": tmp_path / "state"}
    images, labels = IMAGES[:4], net(IMAGES[:4]).argmax(1)
    evaluate(net, images, labels, **about)
    path = tmp_path / "state" / "binding.json"
    binding = json.loads(path.read_text())
    for name in ("individual", "begun_at", "aside"):
        del binding["settings"][name]
    for plan in binding["settings"]["attacks"]:
        del plan["eot"]
    path.write_text(json.dumps(binding))
    evaluate(net, images, labels, **about)
    with pytest.raises(ResultsError, match="made with"):
        evaluate(net, images, labels, **about, settings=AttackSettings(individual=True))
