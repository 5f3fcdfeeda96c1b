"""The command line as a user meets it: outputs, exit codes, and no traceback for anything a user can cause."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import run
from short_attacks import shorten

from adaptive_smoothing_zoo import __version__
from adaptive_smoothing_zoo.zoo.registry import list_models


def test_the_installed_command_runs():
    program = "from adaptive_smoothing_zoo.cli import main; main()"
    finished = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True)
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"asz, version {__version__}\n")
    assert f"\ntorch {torch.__version__.partition('+')[0]}" in finished.stdout
    assert re.search(r"^\[evaluation\] pyautoattack \d", finished.stdout, re.MULTILINE)


def test_an_extra_that_is_not_installed_is_told_with_what_installs_it(capsys, monkeypatch):
    from adaptive_smoothing_zoo.cli import versions

    version = versions.metadata.version

    def without(name):
        if name == "accelerate":
            raise versions.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(versions.metadata, "version", without)
    lines = run(capsys, "--version")[1].splitlines()
    assert lines[-1] == "[training] accelerate is not installed; pip install 'adaptive-smoothing-zoo[training]'"
    assert "not installed" not in "".join(lines[:-1])


def test_list_names_every_triplet(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert all(entry.name in out for entry in list_models())
    assert run(capsys, "list", "--dataset", "digits")[1].count("\n") == len(list_models("digits"))


def test_a_radius_in_units_of_bytes_is_warned_of_once_and_one_of_l2_is_not(capsys, tmp_path):
    said = "Warning: the l_inf radius 8 is larger than all of pixel space, [0, 1]; did you mean 8/255?"
    few = ("--eps", 8, "--n-examples", 2, "--quick", "--out", tmp_path)
    code, _, err = run(capsys, "eval", "Demo2026Constant", "--dataset", "digits", *few)
    assert code == 0
    assert err.count(said) == 1
    l2 = ("--threat-model", "L2", "--n", 1, *few)
    assert "Warning" not in run(capsys, "eval", "Demo2026Lipschitz", "--dataset", "digits", *l2)[2]


@pytest.mark.parametrize("command", ["eval", "merge", "validate", "verify", "experiment"])
def test_the_number_of_images_is_called_the_same_in_all_commands(capsys, command):
    text = " ".join(run(capsys, command, "--help")[1].split())
    assert "--n-examples, --n N use the first N test images" in text


def test_info_prints_the_entry_as_json(capsys):
    code, out, _ = run(capsys, "info", "Demo2026Adaptive", "--dataset", "digits", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "Demo2026Adaptive"


def test_eval_writes_entry_record_and_examples_and_a_second_run_the_same(capsys, tmp_path, monkeypatch):
    shorten(monkeypatch, iterations=10, queries=100)
    records = []
    for name in ("a", "b"):
        arguments = ("--dataset", "digits", "--n", 6, "--out", tmp_path / name)
        code, out, _ = run(capsys, "eval", "Demo2026Constant", *arguments)
        assert code == 0
        assert "after square" in out
        folder = tmp_path / name / "digits" / "Linf"
        record = json.loads((folder / "Demo2026Constant.run.json").read_text())
        assert record.pop("seconds")
        records.append(
            (
                record,
                (folder / "Demo2026Constant.json").read_text(),
                (folder / "Demo2026Constant.examples.npz").read_bytes(),
            )
        )
    assert records[0] == records[1]
    assert records[0][0]["n"] == 6
    assert records[0][0]["deterministic"] is True

    code, out, _ = run(capsys, "leaderboard", tmp_path / "a")
    assert code == 0
    assert "Demo2026Constant" in (tmp_path / "a" / "leaderboard.html").read_text()
    assert "Demo2026Constant" in (tmp_path / "a" / "leaderboard.md").read_text()

    where = ("--dataset", "digits", "--results", tmp_path / "a")
    code, out, _ = run(capsys, "card", "Demo2026Constant", *where, "--out", tmp_path / "cards")
    assert code == 0
    assert "n = 6" in (tmp_path / "cards" / "Demo2026Constant-digits-Linf.md").read_text()

    code, _, err = run(capsys, "claim", "Demo2026Constant", *where, "--checkpoint", "https://example.org")
    assert code == 2
    assert "cannot be claimed" in err


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


GOOD = {"images": np.zeros((4, 32, 32, 3), np.uint8), "labels": np.zeros(4, np.int64)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Demo2026Adaptve", "--dataset", "digits"), "did you mean Demo2026Adaptive"),
        (
            ("Demo2026Adaptive", "--dataset", "imagnet"),
            "no models for dataset 'imagnet'; the zoo has cifar10, cifar100, digits, imagenet",
        ),
        (("Demo2026Adaptive", "--dataset", "digits", "--threat-model", "L7"), "no models for threat model 'L7'"),
        (("Demo2026Adaptive", "--dataset", "digits", "--eps", "eight"), "eps must be a number or a fraction"),
        (("Demo2026Adaptive", "--dataset", "digits", "--eps", "-1/255"), "must not be negative"),
        (("Demo2026Adaptive", "--dataset", "digits", "--n", "-1"), "-1 is not in the range x>=0"),
        (("Demo2026Adaptive", "--dataset", "digits", "--n", "360"), "n must be between 1 and the 359 examples"),
        (("Demo2026Adaptive", "--dataset", "digits", "--n", "many"), "not a valid integer"),
        (("Demo2026Adaptive", "--dataset", "digits", "--n", "4", "--batch-size", "0"), "batch size must be at least 1"),
        (("Demo2026Adaptive", "--dataset", "digits", "--device", "tpu9"), "unknown device 'tpu9'"),
        (("Demo2026Adaptive", "--dataset", "digits", "--engine", "warp"), "unknown engine 'warp'"),
        (("Demo2026Adaptive", "--dataset", "digits", "--data-dir", "x"), "data_dir has no meaning"),
        (("Demo2026Constant", "--data-dir", "missing.npz"), "there is no data file or folder missing.npz"),
        (("Demo2026Constant", "--data-dir", "mistyped"), "there is no data file or folder mistyped; data_dir (--data"),
        (("Demo2026Constant", "--colour", "red"), "No such option"),
    ],
)
def test_what_a_user_gets_wrong_ends_with_one_sentence_and_code_2(capsys, tmp_path, arguments, message):
    code, _, err = run(capsys, "eval", *arguments, "--out", tmp_path)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GOOD["images"]}, "'images' and 'labels'"),
        (GOOD | {"images": GOOD["images"].astype(np.float32)}, "must be uint8"),
        (GOOD | {"images": np.zeros((4, 8, 8, 1), np.uint8)}, "cifar10 images have shape"),
        (GOOD | {"labels": np.zeros(3, np.int64)}, "4 images need labels"),
        (GOOD | {"labels": np.full(4, 10)}, "label 10 of image 0"),
        (GOOD | {"labels": np.zeros(4)}, "one integer per image"),
        ({key: value[:0] for key, value in GOOD.items()}, "no images"),
    ],
)
def test_data_files_that_do_not_fit_are_refused(capsys, tmp_path, arrays, message):
    path = npz(tmp_path / "data.npz", **arrays)
    code, _, err = run(capsys, "eval", "Demo2026Constant", "--data-dir", path, "--out", tmp_path)
    assert code == 2
    assert message in err


def test_a_data_file_that_is_no_npz_is_refused(capsys, tmp_path):
    path = tmp_path / "data.npz"
    path.write_text("<html>not found</html>")
    code, _, err = run(capsys, "eval", "Demo2026Constant", "--data-dir", path, "--out", tmp_path)
    assert code == 2
    assert "is not an .npz file" in err


def test_an_output_folder_that_cannot_be_written_is_found_before_the_run(capsys, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    code, out, err = run(capsys, "eval", "Demo2026Adaptive", "--dataset", "digits", "--out", blocker / "results")
    assert code == 2
    assert "cannot write" in err
    assert "after" not in out


def test_a_fuller_record_is_replaced_only_if_that_is_asked_for(capsys, tmp_path):
    where = ("Demo2026Adaptive", "--dataset", "digits", "--out", tmp_path)
    assert run(capsys, "eval", *where, "--n", 6, "--eps", 0)[0] == 0
    path = tmp_path / "digits" / "Linf" / "Demo2026Adaptive.run.json"
    before = path.read_bytes()
    code, _, err = run(capsys, "eval", *where, "--n", 4, "--eps", 0)
    assert code == 2
    assert "has 6 examples, this run has 4; choose another folder for this run, or add --overwrite" in err
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.state"))
    assert run(capsys, "eval", *where, "--n", 4, "--eps", 0, "--overwrite")[0] == 0
    assert json.loads(path.read_text())["n"] == 4
    code, _, err = run(capsys, "eval", *where, "--n", 4, "--eps", 0, "--seed", 1)
    assert code == 2
    assert "run.json has seed 0, this run has 1; choose another folder for this run, or add --overwrite" in err
    # The records of other commands stand under the same rule.
    adapt = ("adapt", "Demo2026Adaptive", "--dataset", "digits", "--results", tmp_path)
    assert run(capsys, *adapt)[0] == 0
    adaptive = path.with_name("Demo2026Adaptive.adaptive.json")
    adaptive.write_text(json.dumps(json.loads(adaptive.read_text()) | {"n": 5}))
    code, _, err = run(capsys, *adapt)
    assert code == 2
    assert "Demo2026Adaptive.adaptive.json has 5 examples, this run has 4" in err


def test_damaged_weights_in_a_model_folder_are_named(capsys, tmp_path):
    from adaptive_smoothing_zoo import load_model

    load_model("Demo2026Constant", dataset="digits").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    arguments = ("--dataset", "digits", "--model-dir", tmp_path, "--out", tmp_path / "results")
    code, _, err = run(capsys, "eval", "Demo2026Constant", *arguments)
    assert code == 2
    assert "damaged or another file" in err
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace("rob_map", "rob_mup"))
    code, _, err = run(capsys, "eval", "Demo2026Constant", *arguments)
    assert code == 2
    assert "unknown key 'rob_mup'" in err


def test_leaderboard_and_claim_without_results_say_what_to_do(capsys, tmp_path):
    code, _, err = run(capsys, "leaderboard", tmp_path)
    assert code == 2
    assert "no leaderboard entries" in err
    arguments = ("--dataset", "digits", "--results", tmp_path, "--checkpoint", "https://example.org")
    code, _, err = run(capsys, "claim", "Demo2026Adaptive", *arguments)
    assert code == 2
    assert "run asz eval" in err
