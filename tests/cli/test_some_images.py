"""Commands on some images of a folder read these and no others, of which there may be too many for memory."""

import textwrap
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import run
from PIL import Image

from adaptive_smoothing_zoo.cli.options import examples_option
from adaptive_smoothing_zoo.data import count_data, load_data
from adaptive_smoothing_zoo.experiments.train_accuracy import SplitsBench
from adaptive_smoothing_zoo.zoo.loading import load_model

NET = """
    import torch
    from torch import nn

    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
"""
MODEL = ("nets.py:make", "--dataset", "images", "--data-dir", "many")
TUNE = ("tune", "mix", "--std-model", "nets.py:make", "--rob-model", "nets.py:make", *MODEL[1:], "--eps", 0.01)
FEW = ("--iterations", 1, "--targets", 1, "--form", "constant")


def fill(folder, count, size, classes=2, seed=0):
    """So many images of each class, (size, size, 3), all different."""
    pixels = np.random.default_rng(seed).integers(0, 256, (classes, count, size, size), dtype=np.uint8)
    for i, each in enumerate(pixels):
        (folder / str(i)).mkdir(parents=True)
        for j, image in enumerate(each):
            Image.fromarray(image).save(folder / str(i) / f"{j}.png")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a net and six images, of which indices 1, 3 and 5 are damaged."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(textwrap.dedent(NET))
    fill(Path("many"), 3, 4)
    for damaged in ("1/0.png", "1/1.png", "1/2.png"):
        Path("many", damaged).write_bytes(b"damaged")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("validate", *MODEL, "--n", 1, "--only", "repeated_forward"), "1 examples"),
        (("certify", *MODEL, "--sigma", 0.1, "--n-samples", 20, "--skip", 2), "3 examples"),
        (("certify", *MODEL, "--sigma", 0.1, "--n-samples", 20, "--n-examples", 1), "1 examples"),
        (("predict", *MODEL, "--sigma", 0.1, "--n-samples", 20, "--skip", 4), "2 examples"),
        ((*TUNE, "--tune-on", "test:2:3", *FEW), "1 images"),
        ((*TUNE, "--tune-on", "test:4:5", *FEW), "1 images"),
    ],
)
@pytest.mark.usefixtures("here")
def test_the_other_images_are_not_read(capsys, command, said):
    assert run(capsys, "describe", *MODEL, "--eps", 0.01)[0] == 0
    code, out, err = run(capsys, *command)
    assert code == 0, err
    assert said in out
    assert "cannot read the image" in run(capsys, "predict", *MODEL, "--sigma", 0.1)[2]


@pytest.mark.usefixtures("here")
def test_some_examples_of_a_folder_and_how_many_there_are():
    assert count_data("images", data_dir="many") == 6
    some = load_data("images", data_dir="many", start=2, skip=2)
    whole = [load_data("images", data_dir="many", start=i, n=1) for i in (2, 4)]
    assert some.labels.tolist() == [0, 0]
    for image, one in zip(some.images, whole, strict=True):
        assert image.equal(one.images[0])
    for options, sentence in (
        ({"start": 2, "n": 5}, "n must be between 1 and the 4 examples .* from index 2 of 6 examples on, got 5"),
        ({"start": 6}, "start must be an index of the 6 examples of images images .*, got 6"),
        ({"start": -1}, "start must be an index of the 6 examples .*, got -1"),
        ({"skip": 0}, "skip must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            load_data("images", data_dir="many", **options)


@pytest.mark.parametrize("options", [{"n": 3}, {"n": 2, "skip": 3}, {"start": 1}])
def test_of_a_file_the_same_examples_as_of_the_whole(tmp_path, options):
    images, labels = np.random.default_rng(0).integers(0, 256, (8, 3, 3), dtype=np.uint8), np.arange(8)
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    whole, some = (
        load_data("images", data_dir=tmp_path / "a.npz"),
        load_data("images", data_dir=tmp_path / "a.npz", **options),
    )
    places = np.arange(8)[options.get("start", 0) :: options.get("skip", 1)][: options.get("n")]
    assert some.labels.tolist() == places.tolist()
    assert some.images.equal(whole.images[places])
    assert some.num_classes == whole.num_classes == 8
    np.savez(tmp_path / "a.npz", images=images, labels=labels[:5])
    with pytest.raises(ValueError, match=r"the 8 images need labels of shape \(8,\), got \(5,\)"):
        load_data("images", data_dir=tmp_path / "a.npz", **options)


def test_only_the_first_examples_of_the_official_order_are_the_official_ones():
    assert load_data("digits", n=3).test_set_size == 359
    for options in ({"skip": 2}, {"start": 1}):
        assert load_data("digits", **options).test_set_size is None


def test_train_accuracy_reads_as_many_training_images_as_test_images(tmp_path, monkeypatch):
    class Options:
        triplet = load_model("Demo2026Constant", dataset="mnist")
        data_dir, train_data_dir = None, tmp_path

    fill(tmp_path, 1, 28, classes=10, seed=1)
    (tmp_path / "3/0.png").write_bytes(b"damaged")
    made = {"examples": load_data("digits", n=3)}
    monkeypatch.setattr("adaptive_smoothing_zoo.experiments.bench.Bench._arguments", lambda options, steps: made)
    assert len(SplitsBench._arguments(Options(), 1)["train"]) == 3


@pytest.mark.parametrize(
    ("default", "given", "n"), [(None, ["--n", "0"], None), (None, [], None), (100, ["--n", "0"], 0)]
)
def test_an_n_of_0_means_all_images_in_every_command(default, given, n):
    seen = []
    command = click.command()(examples_option(default)(lambda n: seen.append(n)))
    assert CliRunner().invoke(command, given, catch_exceptions=False).exit_code == 0
    assert seen == [n]  # None, or the default's 0: all
