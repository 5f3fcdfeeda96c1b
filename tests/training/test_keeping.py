import json

import pytest
import torch
from safetensors.torch import save_file

from adaptive_smoothing_zoo.errors import ResultsError
from adaptive_smoothing_zoo.training.keeping import (
    CHECKPOINT_FILE,
    LOG_FILE,
    Keeper,
    fingerprint,
    forget,
    read_log,
    rounds_kept,
)

TENSORS = {"learner.weight": torch.rand(3, 2), "optimizer.0.step": torch.tensor(3.0)}


def test_what_was_written_is_read(tmp_path):
    keeper = Keeper(tmp_path / "new", {"settings": {"seed": 0, "range": (0.4, 1.1)}}, workers=2)
    assert keeper.read() is None
    keeper.write(7, TENSORS)
    kept = Keeper(tmp_path / "new", {"settings": {"seed": 0, "range": [0.4, 1.1]}}).read()
    assert (kept.rounds, kept.workers, rounds_kept(tmp_path / "new")) == (7, 2, 7)
    assert kept.part("learner").keys() == {"weight"}
    assert all(torch.equal(kept.tensors[key], TENSORS[key]) for key in TENSORS)
    forget(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_another_training_s_state_is_refused_and_the_difference_named(tmp_path):
    Keeper(tmp_path, {"settings": {"attack": {"eps": 0.1}}, "data": "a"}).write(1, TENSORS)
    with pytest.raises(
        ResultsError, match=r"made with settings\.attack\.eps 0\.1, this run has settings\.attack\.eps 0\.2"
    ):
        Keeper(tmp_path, {"settings": {"attack": {"eps": 0.2}}, "data": "a"})
    with pytest.raises(ResultsError, match=r"made with no more, this run has more 1"):
        Keeper(tmp_path, {"settings": {"attack": {"eps": 0.1}}, "data": "a", "more": 1})


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"", lambda data: b"x" * 100])
@pytest.mark.parametrize("former", [False, True])
def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path, damage, former):
    Keeper(tmp_path, {}).write(1, TENSORS)
    if former:
        (tmp_path / "binding.json").unlink()
    path = tmp_path / CHECKPOINT_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ResultsError, match=r"damaged.*; delete it"):
        Keeper(tmp_path, {}).read()
    assert rounds_kept(tmp_path) in (0, 1)


def test_a_checkpoint_of_before_there_was_a_checksum_is_read_and_bound(tmp_path):
    about = {"rounds": 5, "workers": 1, "binding": {"settings": {"seed": 0}}}
    save_file(TENSORS, tmp_path / CHECKPOINT_FILE, metadata={"about": json.dumps(about)})
    with pytest.raises(ResultsError, match=r"settings\.seed 0, this run has settings\.seed 1"):
        Keeper(tmp_path, {"settings": {"seed": 1}})
    kept = Keeper(tmp_path, {"settings": {"seed": 0}}).read()
    assert kept.rounds == 5
    assert all(torch.equal(kept.tensors[key], TENSORS[key]) for key in TENSORS)


def test_only_one_process_works_in_a_folder_and_the_last_round_is_written(tmp_path):
    keeper = Keeper(tmp_path, {}, seconds=1000.0)

    def work():
        with keeper.at_work():
            with pytest.raises(ResultsError, match="another process works"), Keeper(tmp_path, {}).at_work():
                pass
            keeper.finished(3, TENSORS, last=False)
            assert rounds_kept(tmp_path) == 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert rounds_kept(tmp_path) == 3


def test_the_log_forgets_rounds_that_will_be_done_again_and_half_a_row(tmp_path):
    keeper = Keeper(tmp_path, {})
    keeper.begin_log(0)
    for i in range(1, 6):
        keeper.log({"round": i, "loss": i / 3, "seconds": 0.1})
    path = tmp_path / LOG_FILE
    path.write_text(path.read_text() + "6,0.1")
    again = Keeper(tmp_path, {})
    again.begin_log(3)
    again.log({"seconds": 0.2, "loss": 9.0, "round": 4})
    assert read_log(tmp_path) == [
        {"round": 1, "loss": 0.333333, "seconds": 0.1},
        {"round": 2, "loss": 0.666667, "seconds": 0.1},
        {"round": 3, "loss": 1.0, "seconds": 0.1},
        {"round": 4, "loss": 9.0, "seconds": 0.2},
    ]
    Keeper(tmp_path, {}).begin_log(0)
    assert path.read_text() == ""


def test_a_fingerprint_tells_values_shapes_formats_and_names_apart():
    values = torch.arange(6.0)
    different = [values, values + 1e-6, values.view(2, 3), values.double(), values.flip(0)]
    assert len({fingerprint(value) for value in different}) == 5
    assert fingerprint(values.view(2, 3)) == fingerprint(values.view(2, 3).t().contiguous().t())
    net = torch.nn.BatchNorm1d(2)
    before = fingerprint(net)
    net.running_mean += 1
    assert fingerprint(net) != before
    assert json.dumps(before)
