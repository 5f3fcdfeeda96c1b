"""Disks that are full, calls that fail, processes that die while files are written: the old stands, or the new.

Every writer is stopped at each of its calls on files, in several ways, and after several numbers of bytes.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from failing_disk import full_disk, in_child, interrupted, killed, killed_while_writing, limited, no_memory, watched
from fuzzing import assert_no_leftovers, snapshot

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.certification.journal import open_journal
from adaptive_smoothing_zoo.certification.logs import Certificates, read_log
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.errors import ZooError
from adaptive_smoothing_zoo.evaluation import Evaluation
from adaptive_smoothing_zoo.publishing.evidence import read_evidence, update_entry
from adaptive_smoothing_zoo.publishing.export import export
from adaptive_smoothing_zoo.publishing.push import check_export
from adaptive_smoothing_zoo.publishing.run_record import make_record, write_results
from adaptive_smoothing_zoo.storage.bound_state import BoundState, read_binding, read_entries
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.zoo.triplet import Triplet

torch.manual_seed(0)
OLD = load_model("Demo2026Constant", dataset="digits")
NEW = load_model("Demo2026Constant", dataset="digits")
with torch.no_grad():
    for parameter in NEW.parameters():
        parameter.mul_(1.01)
EXAMPLES = Examples(images=torch.rand(8, 1, 8, 8), labels=torch.arange(8), source="made up", test_set_size=8)


def evaluation(robust, seed):
    robust = np.array(robust)
    return Evaluation(
        clean_correct=np.ones(8, dtype=bool),
        robust=robust,
        broken_by=np.where(robust, "", "apgd-t"),
        adversarials=EXAMPLES.images.numpy(),
        accuracy_after={"clean": 1.0, "apgd-ce": 1.0, "apgd-t": 0.5, "fab-t": 0.5, "square": 0.5},
        warnings=(),
        deterministic=True,
        seconds={},
        remarks=(),
        points=np.arange(8),
        engine="fast 1",
        threat=ThreatModel("Linf", 0.2),
        settings=AttackSettings(seed=seed, batch_size=8),
        device="cpu",
    )


ROBUST = {0: [True, False] * 4, 1: [False, True] * 4}  # by seed: as many points, and others


def write_run(folder, seed):
    found = evaluation(ROBUST[seed], seed)
    write_results(folder, OLD.entry, found, EXAMPLES, make_record(OLD.entry, found, EXAMPLES, OLD))
    update_entry(folder, OLD.entry)


def read_run(folder):
    record = read_evidence(folder, OLD.entry).run
    return record.seed, record.verdicts(folder, OLD.entry).tolist()


def read_model(folder):
    loaded = Triplet.from_pretrained(folder / "saved")
    return next(("old", "new")[model is NEW] for model in (OLD, NEW) if same_weights(loaded, model))


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def certificates(places):
    n = len(places)
    zeros, radius = np.zeros(n), np.linspace(0.1, 1.0, n)
    return Certificates(
        index=places, label=zeros, prediction=zeros, radius=radius, correct=np.ones(n, bool), seconds=np.ones(n)
    )


def add_to_log(folder, *places):
    with open_journal(folder / "log.tsv", {"sigma": 0.5}) as journal:
        for place in places:
            journal.append(replace(certificates([place]), samples=[7]))
        return journal.done.index.tolist()


def state_of(folder):
    return BoundState(folder / "state", {"work": "this"})


def read_state(folder):
    assert read_binding(folder / "state") == {"work": "this"}
    return [(float(tensors["x"][0]), about) for tensors, about in read_entries(folder / "state", "batch", tuple_of)]


def tuple_of(tensors, about):
    return tensors, about


@dataclass(frozen=True, kw_only=True)
class Writer:
    """What writes, and what its files say before and after; a reader may also refuse what stands there."""

    first: Callable
    then: Callable
    read: Callable
    old: object
    new: object
    refuses: bool = False  # a reader may find parts of both and say so
    adds: bool = False  # files are added or grow; done twice, it adds twice


def saved(shard_size):
    return Writer(
        first=lambda folder: OLD.save_pretrained(folder / "saved", shard_size),
        then=lambda folder: NEW.save_pretrained(folder / "saved", shard_size),
        read=read_model,
        old="old",
        new="new",
        refuses=True,
    )


WRITERS = {
    "text": Writer(
        first=lambda folder: write_text(folder / "note.txt", "old\n"),
        then=lambda folder: write_text(folder / "note.txt", "new, and longer\n"),
        read=lambda folder: (folder / "note.txt").read_text(),
        old="old\n",
        new="new, and longer\n",
    ),
    "results": Writer(
        first=lambda folder: write_run(folder, 0),
        then=lambda folder: write_run(folder, 1),
        read=read_run,
        old=(0, ROBUST[0]),
        new=(1, ROBUST[1]),
        refuses=True,
    ),
    "model": saved(None),
    "model in shards": saved("100KB"),
    "export": Writer(
        first=lambda folder: export(OLD, folder / "saved", card="---\nlicense: mit\n---\n"),
        then=lambda folder: export(NEW, folder / "saved", card="---\nlicense: mit\n---\nnew\n"),
        read=lambda folder: (check_export(folder / "saved"), read_model(folder))[1],
        old="old",
        new="new",
    ),
    "log": Writer(
        first=lambda folder: certificates(range(3)).write(folder / "log.tsv"),
        then=lambda folder: certificates(range(9)).write(folder / "log.tsv"),
        read=lambda folder: len(read_log(folder / "log.tsv")),
        old=3,
        new=9,
    ),
    "journal": Writer(
        first=lambda folder: add_to_log(folder, 4),
        then=lambda folder: add_to_log(folder, 2),
        read=add_to_log,
        old=[4],
        new=[4, 2],
        adds=True,
    ),
    "state": Writer(
        first=lambda folder: state_of(folder).append("batch", {"x": torch.full((64,), 3.0)}, 3),
        then=lambda folder: state_of(folder).append("batch", {"x": torch.full((64,), 5.0)}, 5),
        read=read_state,
        old=[(3.0, 3)],
        new=[(3.0, 3), (5.0, 5)],
        adds=True,
    ),
}
SIZES = (0, 1, 10, 100, 1000, 10_000, 100_000)


@pytest.fixture(params=sorted(WRITERS))
def writer(request):
    return WRITERS[request.param]


@pytest.fixture
def stage(writer, tmp_path):
    """Make a fresh folder with the old content; with it, every file's old and new content."""
    first = tmp_path / "first"
    writer.first(first)
    old = snapshot(first)
    shutil.copytree(first, tmp_path / "then")
    writer.then(tmp_path / "then")
    new = snapshot(tmp_path / "then")
    assert old != new
    assert (writer.read(first), writer.read(tmp_path / "then")) == (writer.old, writer.new)

    def fresh():
        folder = tmp_path / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(first, folder)

    return fresh, old, new


def assert_old_or_new(writer, folder, old, new, what):
    """Each file is as before or as it was to be, and what is read is the old or the new, or is refused."""
    for name, content in snapshot(folder).items():
        if any(part.startswith(".") for part in name.split("/")):  # left by a process that was killed
            continue
        if writer.adds:
            assert content.startswith(old.get(name, b"")), (what, name)
        else:
            assert content in (old.get(name), new.get(name)), (what, name)
    try:
        found = writer.read(folder)
    except ZooError:
        assert writer.refuses, what
    else:
        assert found in (writer.old, writer.new), what


def assert_can_be_written(writer, folder, what):
    """Whatever has happened, the writer does its work when nothing fails."""
    if not writer.adds:
        writer.then(folder)
        assert writer.read(folder) == writer.new, what


def calls_of(writer, folder):
    with watched(folder) as calls:
        writer.then(folder)
    return calls


@pytest.mark.parametrize("failure", [full_disk, interrupted, no_memory])
def test_a_failing_call(writer, stage, failure):
    """Each of the writer's calls on files fails in its turn."""
    fresh, old, new = stage
    calls = calls_of(writer, fresh())
    assert len(calls) >= 2
    for k, (event, path) in enumerate(calls, start=1):
        folder = fresh()
        raised = None
        with watched(folder, k, failure):
            try:
                writer.then(folder)
            except (ZooError, KeyboardInterrupt, MemoryError, OSError) as error:
                raised = error
        what = (k, event, path, repr(raised))
        # Where even cleaning up fails, nothing can be done.
        cleaning = event in ("os.remove", "os.rmdir") or (event == "open" and Path(path).name.startswith(".saved."))
        assert raised is not None or writer.read(folder) == writer.new, what
        if failure is full_disk and not cleaning:
            assert raised is None or isinstance(raised, ZooError) or event == "open", what
        assert_old_or_new(writer, folder, old, new, what)
        if not cleaning:
            assert_no_leftovers(folder)
        assert_can_be_written(writer, folder, what)


def test_a_disk_that_fills_up(writer, stage):
    """Files can be written up to some size only; the write in which that is reached is done in part."""
    fresh, old, new = stage
    refused = 0
    for size in SIZES:
        folder = fresh()
        raised = None
        with limited(size):
            try:
                writer.then(folder)
            except ZooError as error:
                raised = error
        refused += raised is not None
        assert raised is None or str(raised).strip(), size
        assert_old_or_new(writer, folder, old, new, (size, repr(raised)))
        assert_no_leftovers(folder)
    assert refused >= 2


def test_a_killed_process(writer, stage):
    """The process dies at each of its calls on files, and in the midst of writing; another one finds old or new."""
    fresh, old, new = stage
    calls = calls_of(writer, fresh())
    for k, call in enumerate(calls, start=1):
        folder = fresh()

        def die(folder=folder, k=k):
            with watched(folder, k, killed):
                writer.then(folder)

        assert not in_child(die), call
        assert_after_death(writer, folder, old, new, (k, *call))
    for size in SIZES:
        folder = fresh()

        def die(folder=folder, size=size):
            killed_while_writing(size)
            writer.then(folder)

        in_child(die)
        assert_after_death(writer, folder, old, new, size)


def assert_after_death(writer, folder, old, new, what):
    if writer is WRITERS["export"] and not (folder / "saved").exists():
        # A folder takes another's place in two steps; in between, the old one stands in the temporary folder.
        (kept,) = folder.glob(".saved.*/old")
        kept.rename(folder / "saved")
    assert_old_or_new(writer, folder, old, new, what)
    assert_can_be_written(writer, folder, what)
