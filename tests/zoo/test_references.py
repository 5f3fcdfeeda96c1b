"""Every kind of reference names the model that its library, folder or file makes, without a network."""

import textwrap

import pytest
import timm
import torch
import torchvision

from adaptive_smoothing_zoo import load_base_net, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.errors import UnknownModelError, WeightsError
from adaptive_smoothing_zoo.zoo.references import Wanted, resolve
from adaptive_smoothing_zoo.zoo.robustbench import robustbench_net

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
DIGITS = Wanted(dataset="digits")

CODE = """
    from torch import nn
    from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed

    class Own(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :5]

    def plain():
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))

    def normalized():
        return Preprocessed(plain(), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (32, 32))

    def own():
        return Own()

    def nothing():
        return 3
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(textwrap.dedent(CODE))
    return str(path)


def saved(net, path):
    torch.save({"state_dict": {f"module.{key}": value for key, value in net.state_dict().items()}}, path)
    return path


def test_a_triplet_of_the_zoo_by_name_and_by_folder(tmp_path):
    named = resolve("Demo2026Adaptive", DIGITS).net
    images = torch.rand(3, 1, 8, 8)
    expected = load_model("Demo2026Adaptive", dataset="digits")(images)
    assert torch.equal(named(images), expected)
    named.save_pretrained(tmp_path)
    for reference in (str(tmp_path), f"local-dir:{tmp_path}"):
        assert torch.equal(resolve(reference, DIGITS).net(images), expected)


def test_an_embedded_base_net():
    found = resolve("base:pyautoattack_resnet18")
    assert torch.equal(found.net(IMAGES), load_base_net("pyautoattack_resnet18")(IMAGES))
    assert type(build(found.config.architecture, num_classes=10, **found.config.arguments)) is type(found.net)


@pytest.mark.parametrize(
    ("reference", "theirs"),
    [
        ("timm:resnet10t", lambda: timm.create_model("resnet10t", num_classes=7)),
        ("torchvision:shufflenet_v2_x0_5", lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=7)),
    ],
)
def test_a_library_s_net_with_the_weights_of_a_file(tmp_path, reference, theirs):
    net = theirs().eval()
    wanted = Wanted(checkpoint=saved(net, tmp_path / "weights.pt"), num_classes=7)
    found = resolve(reference, wanted)
    assert torch.equal(found.net(IMAGES), net(found.net.preprocess(IMAGES)))
    assert not found.net.training
    assert not any(parameter.requires_grad for parameter in found.net.parameters())
    twin = build(found.config.architecture, num_classes=7, **found.config.arguments)
    twin.load_state_dict(found.net.state_dict())
    assert torch.equal(twin.eval()(IMAGES), found.net(IMAGES))


class TestTheUsersCode:
    def test_a_net_of_pytorch_s_layers_can_be_made_again_without_the_code(self, code, tmp_path):
        for name in ("plain", "normalized"):
            found = resolve(f"{code}:{name}")
            twin = build(found.config.architecture, num_classes=5, **found.config.arguments)
            twin.load_state_dict(found.net.state_dict())
            assert torch.equal(twin(IMAGES), found.net(IMAGES))
            assert isinstance(twin, Preprocessed) == (name == "normalized")

    def test_another_net_has_no_description(self, code):
        found = resolve(f"{code}:own")
        assert found.config is None
        assert found.net(IMAGES).shape == (2, 5)

    def test_a_checkpoint_is_loaded_into_it(self, code, tmp_path):
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 5))
        found = resolve(f"{code}:plain", Wanted(checkpoint=saved(net, tmp_path / "weights.pt")))
        assert torch.equal(found.net(IMAGES), net(IMAGES))

    @pytest.mark.parametrize(
        ("name", "said"), [("absent", "no function 'absent'"), ("nothing", "returns a int"), ("Own", None)]
    )
    def test_what_makes_no_net_is_refused(self, code, name, said):
        if said is None:  # a class is a function that makes one
            assert resolve(f"{code}:{name}").net(IMAGES).shape == (2, 5)
            return
        with pytest.raises(UnknownModelError, match=said):
            resolve(f"{code}:{name}")

    def test_what_it_raises_is_told_in_a_sentence(self, code, tmp_path):
        broken = tmp_path / "broken.py"
        for text, said in (
            ("def make(:", "SyntaxError"),
            ("import no_such_module", "No module named 'no_such_module'"),
            ("def make(size): ...", "make fails: TypeError"),
        ):
            broken.write_text(text)
            with pytest.raises(UnknownModelError, match=said):
                resolve(f"{broken}:make")

    def test_a_module_that_lacks_another_is_not_called_unknown(self, tmp_path, monkeypatch):
        (tmp_path / "my_nets_of_2026.py").write_text("import my_nets")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(UnknownModelError, match=r"my_nets_of_2026 fails: .*No module named 'my_nets'"):
            resolve("my_nets_of_2026:make")

    def test_a_folder_s_name_may_have_a_colon(self, code, tmp_path):
        folder = tmp_path / "a:b"
        folder.mkdir()
        (folder / "nets.py").write_text(textwrap.dedent(CODE))
        assert resolve(f"{folder}/nets.py:own").net(IMAGES).shape == (2, 5)
        named = load_model("Demo2026Constant", dataset="digits")
        named.save_pretrained(folder)
        assert type(resolve(str(folder)).net) is type(named)

    def test_a_module_by_its_name(self):
        net = resolve("torchvision.models:shufflenet_v2_x0_5").net
        assert net(IMAGES).shape == (2, 1000)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("Demo2026Adaptiv", "did you mean"),
        ("base:pyautoattack", "known: "),
        ("timm:", "nothing after the colon"),
        ("timm:resnet10q", "near: "),
        ("torchvision:resnet49", "resnet50"),
        ("tim:resnet50", "neither one of base, robustbench, timm"),
        ("no_such_file.py:make", "no file"),
        (".:make", "neither one of"),
        ("a b.c\n:make", "neither one of"),
        ("a/b:c:make", "neither one of"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(reference, said):
    with pytest.raises(UnknownModelError, match=said):
        resolve(reference, DIGITS if reference.startswith("Demo") else Wanted())


def test_a_checkpoint_of_another_net_is_refused(tmp_path):
    path = saved(torch.nn.Linear(2, 2), tmp_path / "weights.pt")
    with pytest.raises(WeightsError):
        resolve("timm:resnet10t", Wanted(checkpoint=path))


class TestRobustBench:
    def test_a_net_by_name_with_the_weights_of_a_file(self, tmp_path):
        made = robustbench_net(model="Wong2020Fast", dataset="cifar10", threat_model="Linf").eval()
        wanted = Wanted(checkpoint=saved(made, tmp_path / "weights.pt"))
        found = resolve("robustbench:Wong2020Fast", wanted)
        assert type(found.net) is type(made)
        assert torch.equal(found.net(IMAGES), made(IMAGES))
        twin = build(found.config.architecture, num_classes=10, **found.config.arguments)
        twin.load_state_dict(found.net.state_dict())
        assert torch.equal(twin.eval()(IMAGES), made(IMAGES))

    @pytest.mark.parametrize(
        ("name", "dataset", "said"), [("Carmon2019", "cifar10", "Carmon2019Unlabeled"), ("x", "digits", "digits")]
    )
    def test_an_unknown_name_lists_near_ones(self, name, dataset, said):
        with pytest.raises(UnknownModelError, match=said):
            resolve(f"robustbench:{name}", Wanted(dataset=dataset))


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_a_model_that_timm_knows_and_cannot_download_is_not_called_unknown(name, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no client for the Hub")

    monkeypatch.setattr(timm, "create_model", failing)
    with pytest.raises(WeightsError, match=f"timm cannot get the weights of {name}: no client for the Hub"):
        resolve(f"timm:{name}")
    with pytest.raises(UnknownModelError, match=r"timm knows no model 'resnet18\.foo'"):
        resolve("timm:resnet18.foo")
