"""Base nets whose weights a dependency ships, against that dependency's own code."""

import importlib.util
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import UnknownModelError, WeightsError
from adaptive_smoothing_zoo.zoo import shipped_nets as base_nets
from adaptive_smoothing_zoo.zoo.shipped_nets import BASE_NETS, load_base_net

CIFAR10_IMAGES = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10" / "cifar10_test_first846.npz"


@pytest.fixture(scope="module")
def examples_folder():
    """The folder of examples in pyautoattack's wheel."""
    package = importlib.util.find_spec("pyautoattack")
    if package is None:
        pytest.skip("pyautoattack is not installed")
    return Path(package.submodule_search_locations[0]) / "examples"


@pytest.fixture(scope="module")
def ours(examples_folder):
    return load_base_net("pyautoattack_resnet18")


@pytest.fixture(scope="module")
def theirs(examples_folder):
    spec = importlib.util.spec_from_file_location("pyautoattack_resnet", examples_folder / "resnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.ResNet18()
    net.load_state_dict(torch.load(examples_folder / "model_test.pt", map_location="cpu", weights_only=True))
    return net.eval()


@settings(max_examples=5)
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([0.02, 0.3, 1.0]))
def test_logits_are_those_of_the_wheel_s_own_code(ours, theirs, seed, spread):
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    images = (1 - spread) * noise.mean(dim=(2, 3), keepdim=True) + spread * noise
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not CIFAR10_IMAGES.is_file(), reason="the CIFAR-10 test images are not beside the project")
def test_most_cifar10_test_images_are_classified_correctly(ours):
    examples = load_data("cifar10", data_dir=CIFAR10_IMAGES).first(100)
    with torch.no_grad():
        labels = torch.cat([ours(batch).argmax(dim=1) for batch in examples.images.split(50)])
    assert (labels == examples.labels).float().mean() >= 0.9


@pytest.mark.skipif(not CIFAR10_IMAGES.is_file(), reason="the CIFAR-10 test images are not beside the project")
def test_the_robust_net_is_as_accurate_as_it_was_when_it_was_trained():
    net = load_base_net("cifar10_resnet18_nfgsm")  # 81.4 % of the first 500
    examples = load_data("cifar10", data_dir=CIFAR10_IMAGES).first(100)
    with torch.no_grad():
        assert (net(examples.images).argmax(dim=1) == examples.labels).float().mean() >= 0.75
    assert {tensor.dtype for tensor in net.parameters()} == {torch.float32}


def test_a_loaded_net_is_in_eval_mode_and_frozen(ours):
    assert not any(module.training for module in ours.modules())
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_an_unknown_net_is_refused_with_those_that_exist():
    with pytest.raises(UnknownModelError, match=f"no base net 'resnet'; known: .*{sorted(BASE_NETS)[0]}"):
        load_base_net("resnet")


class TestMissingOrOtherFile:
    def test_what_is_missing_is_named_with_what_to_install(self, monkeypatch, tmp_path):
        monkeypatch.setattr(base_nets.resources, "files", lambda name: tmp_path)
        with pytest.raises(WeightsError, match=r"there is no file .*model_test\.pt; reinstall pyautoattack"):
            load_base_net("pyautoattack_resnet18")
        monkeypatch.setattr(base_nets.resources, "files", Mock(side_effect=ModuleNotFoundError))
        with pytest.raises(WeightsError, match="pip install"):
            load_base_net("pyautoattack_resnet18")

    def test_another_file_is_refused_unread(self, monkeypatch, tmp_path):
        (tmp_path / "examples").mkdir()
        (tmp_path / "examples" / "model_test.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        monkeypatch.setattr(base_nets.resources, "files", lambda name: tmp_path)
        monkeypatch.setattr(base_nets.torch, "load", lambda *_, **__: pytest.fail("the file was read"))
        with pytest.raises(WeightsError, match=r"model_test\.pt has SHA-256 .*reinstall pyautoattack"):
            load_base_net("pyautoattack_resnet18")
