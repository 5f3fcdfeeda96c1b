"""A mix of any two nets can be saved, loaded and fine-tuned; what no entry describes is refused in a sentence."""

import copy
import json

import pytest
import timm
import torch
import torchvision
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, Triplet, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.backbones.gaussian_smoothed import GaussianSmoothed
from adaptive_smoothing_zoo.backbones.preprocessed import Preprocessed
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.method.logit_maps import HardMax
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.zoo.base_net_config import config_of
from adaptive_smoothing_zoo.zoo.entry import UNSAID

CLASSES = 4
SHAPE = (3, 32, 32)
IMAGES = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
LOOKS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}


def ours():
    return build("small_cnn", num_classes=CLASSES, widths=[4, 6], mean=[0.5] * 3, std=[0.25] * 3)


def layers():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(900, CLASSES))


def of_timm(name, **options):
    return timm.create_model(name, num_classes=CLASSES, **options)


def of_robustbench():
    from adaptive_smoothing_zoo.zoo.robustbench import robustbench_net

    return robustbench_net(model="Wong2020Fast", dataset="cifar10", threat_model="Linf")


NETS = {
    "ours": ours,
    "layers": layers,
    "normalized layers": lambda: Preprocessed(layers(), **LOOKS),
    "ours, preprocessed": lambda: Preprocessed(ours(), **LOOKS, size=(16, 16)),
    "smoothed": lambda: GaussianSmoothed(layers(), sigma=0.1, image_shape=SHAPE, num_noises=2),
    "timm ResNet": lambda: of_timm("resnet10t"),
    "timm ConvNeXt": lambda: of_timm("convnext_atto"),
    "timm ViT": lambda: of_timm("test_vit", img_size=32),
    "timm ResNet, preprocessed": lambda: Preprocessed(of_timm("resnet10t"), **LOOKS, size=(32, 32)),
    "torchvision": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES),
}


@torch.no_grad()
def same_again(mix, folder, **words):
    mix.save_pretrained(folder, **words)
    again = MixedClassifier.from_pretrained(folder)
    mix.eval()
    torch.testing.assert_close(again(IMAGES), mix(IMAGES), rtol=1e-6, atol=1e-6)
    assert identity_of(again, SHAPE) == identity_of(mix, SHAPE)
    assert identity_of(load_model(str(folder)), SHAPE) == identity_of(mix, SHAPE)
    return again


@pytest.mark.parametrize("name", NETS)
def test_a_mix_of_any_net_comes_back(name, tmp_path):
    mix = MixedClassifier(NETS[name](), ours(), 0.375, std_map=HardMax(), rob_map=2.0)
    before = identity_of(mix, SHAPE)
    again = same_again(mix, tmp_path, image_shape=SHAPE, name="Mine2026", eps="4/255")
    assert identity_of(mix, SHAPE) == before
    assert type(mix) is MixedClassifier
    assert isinstance(again, Triplet)
    assert (again.entry.name, again.entry.eps, again.entry.num_classes) == ("Mine2026", "4/255", CLASSES)


def test_a_net_of_robustbench_s_own_class_says_what_it_is():
    config = config_of(of_robustbench())
    assert (config.architecture, config.arguments["model"]) == ("robustbench", "Wong2020Fast")


def test_a_saved_mix_can_be_saved_under_another_name(tmp_path):
    again = same_again(MixedClassifier(ours(), layers(), 0.5), tmp_path, image_shape=SHAPE)
    renamed = same_again(again, tmp_path / "again", name="Other2026")
    assert (again.entry.name, renamed.entry.name) == ("Mix", "Other2026")


def test_a_mix_that_nobody_said_anything_of_claims_nothing(tmp_path):
    silent = same_again(MixedClassifier(ours(), layers(), 0.5), tmp_path, image_shape=SHAPE, limits=("Tiny.",))
    entry = silent.entry
    assert (entry.says_threat, entry.additional_data, entry.limits) == (False, None, ("Tiny.", UNSAID))
    card = model_card(entry, None)
    assert "# Mix (custom)\n" in card
    assert f"- {UNSAID}" in card
    assert "8/255" not in card
    assert "- Linf" not in card
    said = same_again(silent, tmp_path / "said", eps="4/255").entry
    assert (said.says_threat, said.limits) == (True, ("Tiny.",))
    assert "# Mix (custom, Linf, eps 4/255)" in model_card(said, None)


def test_copies_remember_how_their_nets_were_made(tmp_path):
    same_again(copy.deepcopy(MixedClassifier(ours(), ours(), 0.25)), tmp_path, image_shape=SHAPE)


def test_a_timm_net_says_what_images_it_is_for(tmp_path):
    mix = MixedClassifier(of_timm("test_vit", img_size=32), of_timm("resnet10t"), 0.5)
    assert same_again(mix, tmp_path).entry.image_shape == SHAPE
    with pytest.raises(ConfigError, match=r"give image_shape=\(channels, height, width\)"):
        MixedClassifier(ours(), ours(), 0.5).save_pretrained(tmp_path / "unknown")


def test_a_net_with_one_channel(tmp_path):
    mix = MixedClassifier(of_timm("resnet10t", in_chans=1), layers_of_one_channel(), 0.5)
    mix.save_pretrained(tmp_path, image_shape=(1, 32, 32))
    assert torch.equal(Triplet.from_pretrained(tmp_path)(IMAGES[:, :1]), mix.eval()(IMAGES[:, :1]))


def layers_of_one_channel():
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, CLASSES))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3072, CLASSES)

    def forward(self, images):
        return self.linear(images.flatten(1))


class OwnMix(MixedClassifier):
    def forward(self, images):
        return super().forward(images).flip(1)


def edited(net):
    net.fc = nn.Sequential(nn.Dropout(0.5), net.fc)
    return net


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: MixedClassifier(Own(), ours(), 0.5),
            "std_model cannot be saved: an entry cannot describe the code of std_model, a Own",
        ),
        (lambda: MixedClassifier(ours(), Preprocessed(Own(), **LOOKS), 0.5), "rob_model cannot be saved"),
        (lambda: MixedClassifier(edited(of_timm("resnet10t")), ours(), 0.5), "an entry cannot describe that"),
        (
            lambda: MixedClassifier(edited(torchvision.models.shufflenet_v2_x0_5(num_classes=CLASSES)), ours(), 0.5),
            "cannot describe the code",
        ),
        (lambda: MixedClassifier(ours().half(), ours(), 0.5), "cannot be saved"),
        (lambda: OwnMix(ours(), ours(), 0.5), "a OwnMix cannot be saved"),
    ],
)
def test_what_no_entry_describes_is_refused_and_nothing_is_written(make, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        make().save_pretrained(tmp_path / "folder", image_shape=SHAPE)
    assert not (tmp_path / "folder").exists()


def test_an_unknown_word_is_refused(tmp_path):
    with pytest.raises(TypeError, match="colour"):
        MixedClassifier(ours(), ours(), 0.5).save_pretrained(tmp_path, image_shape=SHAPE, colour="red")


def test_a_configuration_makes_timm_read_no_file(tmp_path):
    MixedClassifier(of_timm("resnet10t"), ours(), 0.5).save_pretrained(tmp_path / "mix", image_shape=SHAPE)
    path = tmp_path / "mix" / "config.json"
    config = json.loads(path.read_text())
    config["entry"]["std_model"]["arguments"]["options"] = {"checkpoint_path": str(tmp_path / "pickle.pt")}
    path.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="checkpoint_path of timm reads files"):
        Triplet.from_pretrained(tmp_path / "mix")


@pytest.mark.parametrize(
    ("std", "features"),
    [("timm ViT", "both"), ("timm ViT", "std_model"), ("timm ViT", "rob_model"), ("timm ResNet, preprocessed", "both")],
)
def test_after_a_new_head_and_fine_tuning(std, features, tmp_path):
    mix = MixedClassifier(NETS[std](), ours(), 0.5)
    mix.reset_classifier(3, features=features)
    mix.train()
    nn.functional.cross_entropy(mix(IMAGES), torch.tensor([0, 2])).backward()
    torch.optim.SGD(mix.parameters(), 0.1).step()
    again = same_again(mix, tmp_path, image_shape=SHAPE)
    assert (again.num_classes, again.entry.head.features) == (3, features)
