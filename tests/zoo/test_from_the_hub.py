"""A published triplet, from its authors' files to a repository on the Hub and from there to its users."""

import logging
import os
import subprocess
import sys

import pytest
import torch
from hub_server import OWNER
from published_composites import PUBLISHED, reduced, robustbench_composite, write_robustbench_cache
from robustbench_nets import parameters

import adaptive_smoothing_zoo
from adaptive_smoothing_zoo import cli, load_model
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.registry import list_models
from adaptive_smoothing_zoo.zoo.robustbench import autoattack_stood_in
from adaptive_smoothing_zoo.zoo.triplet import Triplet

EDM = next(e for e in list_models("cifar100", "Linf") if e.name == "Bai2023Improving_edm")
REPO = f"org/{EDM.key}"
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def asz(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["asz", *map(str, arguments)])
    cli.main()  # ends by SystemExit if something is wrong


def publish(tmp_path, monkeypatch, *, small):
    """RobustBench's logits, after its files were converted and pushed by the commands."""
    composite = robustbench_composite(PUBLISHED[0], monkeypatch, small=small)
    files = write_robustbench_cache(tmp_path / "models", EDM.name, "cifar100", composite)
    with torch.no_grad():
        logits = composite(IMAGES)[0]
    del composite
    arguments = (EDM.name, "--dataset", "cifar100", "--model-dir", tmp_path / "models", "--results", tmp_path / "none")
    asz(monkeypatch, "export", arguments[0], tmp_path / "folder", *arguments[1:])
    for file in files:
        file.unlink()
    monkeypatch.setenv("HF_TOKEN", OWNER)
    asz(monkeypatch, "push", tmp_path / "folder", REPO)
    monkeypatch.delenv("HF_TOKEN")
    return logits


def check(model, logits):
    """The very triplet: RobustBench's logits to float32 rounding (see ``test_published_parity``)."""
    assert isinstance(model, Triplet)
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), logits, rtol=0, atol=1e-4)


@pytest.fixture
def small(zoo_of):
    zoo_of(reduced(EDM))


def test_it_is_pushed_and_loaded_by_repository_by_name_and_by_robustbench(hub, small, tmp_path, monkeypatch, caplog):
    logits = publish(tmp_path, monkeypatch, small=True)
    check(load_model("Bai2023Improving_edm", dataset="cifar100", hub_repo=REPO), logits)
    check(load_model("Bai2023Improving_edm", dataset="cifar100", hub_repo=REPO, revision="main"), logits)
    with pytest.raises(WeightsError, match="the repository has no such revision"):
        load_model("Bai2023Improving_edm", dataset="cifar100", hub_repo=REPO, revision="v9")
    with pytest.raises(WeightsError, match="there is no such repository, or it is private"):
        load_model("Bai2023Improving_edm", dataset="cifar100", hub_repo="org/nothing")
    monkeypatch.setenv("ASZ_HUB_ORG", "org")
    with caplog.at_level(logging.WARNING):
        check(load_model("Bai2023Improving", dataset="cifar100"), logits)
    assert "Bai2023Improving on cifar100 Linf is another name of Bai2023Improving_edm" in caplog.text
    adaptive_smoothing_zoo.register()
    robustbench = pytest.importorskip("robustbench")
    for name in ("Bai2023Improving_edm", "Bai2023Improving"):  # the second one RobustBench itself does not have
        check(robustbench.load_model(name, dataset="cifar100", threat_model="Linf"), logits)
    before = len(hub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check(load_model("Bai2023Improving_edm", dataset="cifar100"), logits)
    assert len(hub.requests) == before


def test_a_revision_of_nothing_is_refused(small):
    with pytest.raises(WeightsError, match=r"no Hub repository of .* is known, so there is no revision 'v1' of it"):
        load_model("Bai2023Improving_edm", dataset="cifar100", revision="v1")


@pytest.mark.slow
def test_the_wrong_triplet_in_a_repository_is_refused(hub, zoo_of, tmp_path, monkeypatch):
    from dataclasses import replace

    zoo_of(reduced(EDM))
    publish(tmp_path, monkeypatch, small=True)
    other = replace(reduced(EDM), alpha=replace(reduced(EDM).alpha, alpha_min=0.5))
    zoo_of(other)
    with pytest.raises(WeightsError, match=rf"{REPO} holds {EDM.key} with other alpha than {EDM.key} of the zoo"):
        load_model("Bai2023Improving_edm", dataset="cifar100", hub_repo=REPO)


def test_an_organization_without_the_triplet_is_passed_over_with_a_word(hub, small, tmp_path, monkeypatch, caplog):
    """The next place is the original files; RobustBench's cache stands in for them, but for one that is nowhere."""
    with autoattack_stood_in():
        pytest.importorskip("robustbench")  # knows where the original files are
    monkeypatch.setenv("ASZ_HUB_ORG", "org")
    monkeypatch.setattr("adaptive_smoothing_zoo.zoo.components.download_from_drive", refuse)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(WeightsError, match=r"cannot get std_model of Bai2023Improving_edm-cifar100-Linf:\n- nothing"),
    ):
        load_model("Bai2023Improving_edm", dataset="cifar100")
    assert f"{REPO!r} on the Hub: there is no such repository" in caplog.text
    assert "ASZ_HUB_ORG is org); looking for the original files instead" in caplog.text


def refuse(drive_id, path):
    raise WeightsError("nothing there")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size(hub, tmp_path, monkeypatch):
    """2.27 GB of weights in each of RobustBench's files, the folder, the Hub's store and the cache."""
    logits = publish(tmp_path, monkeypatch, small=False)
    monkeypatch.setenv("ASZ_HUB_ORG", "org")
    model = load_model("Bai2023Improving", dataset="cifar100")
    assert parameters(model) == 567_385_368
    check(model, logits)
    del model
    program = (
        "import adaptive_smoothing_zoo, torch\n"
        "adaptive_smoothing_zoo.register()\n"
        "import robustbench\n"
        "m = robustbench.load_model('Bai2023Improving_edm', dataset='cifar100', threat_model='Linf')\n"
        "g = torch.Generator().manual_seed(0)\n"
        f"torch.save(m(torch.rand(2, 3, 32, 32, generator=g)), {str(tmp_path / 'logits.pt')!r})\n"
    )
    environment = {**hub.environment, "ASZ_HUB_ORG": "org", "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits, rtol=0, atol=1e-4)
