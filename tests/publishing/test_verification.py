"""Whether loaded weights are the published ones: measured, recorded, pinned."""

import json
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from file_server import FileServer
from huggingface_hub import constants
from scipy.stats import binom

from adaptive_smoothing_zoo import cli
from adaptive_smoothing_zoo.data import Examples
from adaptive_smoothing_zoo.publishing.verification import Verification, original_files, verified_entry, verify
from adaptive_smoothing_zoo.zoo import registry
from adaptive_smoothing_zoo.zoo.entry import (
    AdaptiveAlphaConfig,
    BaseNetConfig,
    Component,
    Entry,
    Paper,
    Published,
    UrlFile,
    Weights,
    entry_to_text,
    read_entry,
)
from adaptive_smoothing_zoo.zoo.triplet import Triplet, load_triplet

WRN = BaseNetConfig(
    architecture="dm_wide_resnet",
    arguments={"depth": 10, "width": 1, "activation": "silu", "mean": [0.5] * 3, "std": [0.2] * 3},
)
ENTRY = Entry(
    name="Doe2024Served",
    dataset="cifar10",
    threat_model="Linf",
    eps="8/255",
    description="Small nets on a server.",
    num_classes=10,
    image_shape=(3, 32, 32),
    std_model=WRN,
    rob_model=WRN,
    alpha=AdaptiveAlphaConfig(alpha_min=0.6, alpha_max=0.9, logit_scale=2.0, logit_bias=0.4, planes=(4, 6, 8)),
    paper=Paper(title="Served Nets", authors="Jane Doe", venue="none", link="https://example.org"),
    architecture="two WRN-10-1",
    additional_data=False,
)
PARTS = ("std_model", "rob_model", "alpha")


def verification(n, correct, published, test_set_size=10_000):
    return Verification(
        model="m",
        dataset="d",
        threat_model="Linf",
        n=n,
        correct=correct,
        test_set_size=test_set_size,
        data="",
        data_sha256="",
        published=published,
        model_sha256="a" * 64,
        device="cpu",
        versions={},
    )


@pytest.mark.parametrize(
    ("n", "correct", "published", "agrees", "conclusive"),
    [
        (1000, 852, 0.8521, True, True),
        (1000, 800, 0.8521, False, False),
        (1000, 890, 0.8521, False, False),
        (100, 85, 0.8521, True, False),  # too few to tell
        (10_000, 8521, 0.8521, True, True),
        (10_000, 8525, 0.8521, True, True),  # rounding
        (10_000, 8540, 0.8521, False, False),  # inside the interval, but these are the very images
        (1000, 852, None, None, False),
    ],
)
def test_agreement_is_equality_on_the_whole_test_set_and_the_interval_on_a_part(
    n, correct, published, agrees, conclusive
):
    found = verification(n, correct, published)
    assert found.agrees is agrees
    assert found.is_conclusive is conclusive


def test_images_that_are_not_the_official_test_set_verify_nothing():
    assert not verification(1000, 852, 0.8521, test_set_size=None).is_conclusive


def test_the_interval_is_that_of_clopper_and_pearson():
    low, high = verification(50, 40, None).interval
    assert binom.sf(39, 50, low) == pytest.approx(0.025)
    assert binom.cdf(40, 50, high) == pytest.approx(0.025)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return load_triplet(ENTRY, Triplet(ENTRY).state_dict())


def test_the_accuracy_is_the_share_of_correct_labels_whatever_the_batch_size(model):
    images = torch.rand(23, 3, 32, 32)
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[:5] = (labels[:5] + 1) % 10
    examples = Examples(images=images, labels=labels, source="noise")
    seen = []
    for batch_size in (1, 7, 100):
        found = verify(model, examples, batch_size=batch_size, on_progress=seen.append)
        assert (found.n, found.correct) == (23, 18)
    assert sum(seen) == 3 * 23


@pytest.fixture
def zoo(model, tmp_path, monkeypatch, file_server: FileServer):
    """The model's parts on a server, its entry in a zoo of its own, and images with the model's labels as a file."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    for part in PARTS:
        torch.save(model.get_submodule(part).state_dict(), tmp_path / f"{part}.pt")
        file_server.files[part] = (tmp_path / f"{part}.pt").read_bytes()
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        labels = model(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).argmax(1)
    np.savez(tmp_path / "data.npz", images=images, labels=labels.numpy())
    entry = replace(
        ENTRY,
        published=Published(clean="97.00", autoattack="50.00", source="a paper"),
        weights=Weights(components={p: Component(sources=(UrlFile(url=file_server.url(p)),)) for p in PARTS}),
    )
    monkeypatch.setattr(registry, "ENTRIES", tmp_path / "entries")
    path = tmp_path / "entries" / "cifar10" / "Linf" / f"{entry.name}.json"
    path.parent.mkdir(parents=True)
    path.write_text(entry_to_text(entry))
    registry._all_entries.cache_clear()
    yield tmp_path
    registry._all_entries.cache_clear()


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["asz", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code
    return 0


def test_the_command_measures_records_and_pins(zoo, model, monkeypatch, capsys):
    arguments = ("--data-dir", zoo / "data.npz", "--n", 50, "--device", "cpu", "--out", zoo / "out")
    assert run(monkeypatch, "verify", ENTRY.name, *arguments, "--update-entry") == 0
    out = capsys.readouterr().out
    assert "clean accuracy 100.00 % on 50 examples (95 % interval 92.89 to 100.00 %)" in out
    assert "published: 97.00 %, which agrees" in out
    record = json.loads((zoo / "out" / "cifar10" / "Linf" / f"{ENTRY.name}.verify.json").read_text())
    assert record["agrees"] is True
    assert Verification.read(zoo / "out", ENTRY).correct == 50
    registry._all_entries.cache_clear()
    pinned = read_entry(zoo / "entries" / "cifar10" / "Linf" / f"{ENTRY.name}.json")
    for part in PARTS:
        digest = sha256((zoo / f"{part}.pt").read_bytes()).hexdigest()
        assert pinned.weights.components[part].sources[0].sha256 == digest == record["components"][part]["sha256"]
        assert f"{part}: SHA-256 {digest}" in out
    assert pinned.weights.verified is False  # 50 examples of no official test set


def test_the_command_fails_where_the_accuracy_is_another(zoo, monkeypatch, capsys):
    data = dict(np.load(zoo / "data.npz"))
    data["labels"][:10] = (data["labels"][:10] + 1) % 10
    np.savez(zoo / "data.npz", **data)
    arguments = ("--data-dir", zoo / "data.npz", "--n", 0, "--device", "cpu", "--out", zoo / "out")
    assert run(monkeypatch, "verify", ENTRY.name, *arguments) == 2
    captured = capsys.readouterr()
    assert "published: 97.00 %, which does NOT agree" in captured.out
    assert "do not have the published clean accuracy" in captured.err


def test_an_entry_becomes_verified_by_a_conclusive_verification(zoo):
    entry = registry.find_entry(ENTRY.name, "cifar10", "Linf")
    files = original_files(entry)
    good = replace(verification(1000, 970, 0.97), components=files)
    assert verified_entry(entry, good).weights.verified
    assert not verified_entry(entry, replace(good, correct=900)).weights.verified
    assert verified_entry(entry, good).weights.components["alpha"].sources[0].sha256 == files["alpha"].sha256


def test_convert_makes_a_folder_that_load_model_takes(zoo, model, monkeypatch, capsys):
    parts = ("--std-model", zoo / "std_model.pt", "--rob-model", zoo / "rob_model.pt")
    assert run(monkeypatch, "convert", ENTRY.name, zoo / "folder", *parts) == 2
    assert "has the parts std_model, rob_model, alpha; checkpoints of std_model, rob_model" in capsys.readouterr().err
    assert run(monkeypatch, "convert", ENTRY.name, zoo / "folder", *parts, "--mixing-network", zoo / "alpha.pt") == 0
    from adaptive_smoothing_zoo import load_model

    again = load_model(ENTRY.name, zoo / "folder")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
