"""The published MixedNUTS classifier for ImageNet: RobustBench's classes, with its files, say what our entry says."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import timm
import torch
from command_line import run
from robustbench_nets import architecture, parameters
from torch import Tensor, nn

from adaptive_smoothing_zoo import load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.data.imagenet import PREPROCESSINGS
from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.checkpoints import convert_base_net
from adaptive_smoothing_zoo.zoo.components import load_components
from adaptive_smoothing_zoo.zoo.entry import BaseNetConfig, Entry
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.robustbench import drive_ids, preprocessing_of, robustbench_models
from adaptive_smoothing_zoo.zoo.triplet import Triplet, load_triplet, meta_triplet, timm_cfg

ENTRY = find_entry("Bai2024MixedNUTS", "imagenet", "Linf")
SMALL_STD = {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}
SMALL_ROB = {"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}


def reduced() -> Entry:
    """The entry with small base nets of the same families."""
    std, rob = (
        replace(net, arguments={**net.arguments, "options": options})
        for net, options in ((ENTRY.std_model, SMALL_STD), (ENTRY.rob_model, SMALL_ROB))
    )
    return replace(ENTRY, std_model=std, rob_model=rob)


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 14, 14, generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3)
    return 0.9 * coarse + 0.1 * torch.rand(4, 3, 224, 224, generator=generator)


@torch.no_grad()
def varied(net: nn.Module, head: nn.Linear, images: Tensor) -> None:
    """Random weights of which every one matters, and logits that differ between images."""
    for parameter in net.parameters():
        if parameter.ndim != 2:
            parameter.add_(0.2 * torch.randn_like(parameter))
    head.weight.mul_(100 * torch.linspace(0.1, 1, len(head.weight))[:, None] ** 6)
    head.bias.sub_(net.eval()(images).mean(dim=0))


@pytest.fixture
def small_robustbench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """RobustBench's module ``comp_model``, which makes the classifier with small nets."""
    comp_model = architecture("comp_model")
    net, create = comp_model.convnext_v2.ConvNeXtV2, timm.create_model
    monkeypatch.setattr(comp_model.convnext_v2, "convnextv2_large", lambda **given: net(**given, **SMALL_STD))
    small_swin = type("timm", (), {"create_model": lambda name, pretrained: create(name, pretrained, **SMALL_ROB)})
    monkeypatch.setattr(comp_model, "timm", small_swin)
    return comp_model


def write_files(folder: Path, model: Any, *, constants: bool) -> None:
    """What RobustBench downloads: g under its authors' keys, h under those of timm's older versions."""
    folder = folder / "imagenet" / "Linf"
    folder.mkdir(parents=True)
    std = {k: v for k, v in model.std_model.state_dict().items() if constants or k not in ("mean", "std")}
    torch.save(std, folder / "Bai2024MixedNUTS.pt_m0.pt")
    old: dict[str, Tensor] = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    for key, value in model.rob_model.model.state_dict().items():
        key = re.sub(r"layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", key)
        old[key.replace("head.fc.", "head.")] = value
    wrapped = {f"module.{key}": value for key, value in old.items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, folder / "Bai2024MixedNUTS.pt_m1.pt")


@pytest.mark.parametrize("constants", [True, False])
def test_the_entry_loads_robustbench_s_files_and_is_its_function(
    small_robustbench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, images: Tensor, constants: bool
) -> None:
    from robustbench import utils

    made = small_robustbench.get_nonlin_mixed_classifier("imagenet")
    varied(made.std_model, made.std_model.head, images)
    varied(made.rob_model, made.rob_model.model.head.fc, images)
    write_files(tmp_path, made, constants=constants)
    with monkeypatch.context() as patch:
        patch.setattr(timm, "is_model", lambda name: False)  # or it would be our module that RobustBench loads
        model = utils.load_model("Bai2024MixedNUTS", str(tmp_path), "imagenet", threat_model="Linf")
    entry = reduced()
    ours = load_triplet(entry, load_components(entry, meta_triplet(entry), model_dir=tmp_path)[0])
    assert isinstance(ours, Triplet)
    with torch.no_grad():
        theirs, their_surrogate, _ = model.double()(images.double(), return_all=True)
        found, surrogate = ours.double()(images.double()), ours.surrogate()(images.double())
    assert theirs.shape == (4, 1000)
    assert len(set(theirs.argmax(dim=1).tolist())) > 1
    torch.testing.assert_close(found.float(), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(surrogate.float(), their_surrogate, rtol=1e-5, atol=1e-6)


def test_the_constants_are_those_of_robustbench() -> None:
    comp_model = architecture("comp_model")
    settings = comp_model.yaml.safe_load((Path(comp_model.__file__).parent / "optimal_spca.yaml").read_text())
    found = settings["imagenet"]["Liu2023Comprehensive_Swin-L"]
    mapped, linear = (found[kind][found[kind]["default_beta"]] for kind in ("gelu", "none"))
    ours: Any = ENTRY
    theirs = (mapped["s"], mapped["p"], mapped["c"], mapped["alpha"], linear["alpha"])
    assert theirs == (
        *(ours.rob_map.scale, ours.rob_map.power, ours.rob_map.clamp_bias),
        *(ours.alpha.value, ours.surrogate.alpha),
    )
    assert (ours.rob_map.top_k, ours.std_map.kind) == (250, "hard_max")


def test_its_files_are_those_of_robustbench() -> None:
    architecture("comp_model")
    g, h = drive_ids("Bai2024MixedNUTS", "imagenet", "Linf")
    sources: Any = [ENTRY.weights.components[part].sources[0] for part in ("std_model", "rob_model")]
    assert [drive_ids(s.model, "imagenet", "Linf")[s.index or 0] for s in sources] == [g, h]


def test_its_images_are_made_as_robustbench_makes_them() -> None:
    models = architecture("xcit") and robustbench_models("imagenet", "Linf")
    assert (
        ENTRY.preprocessing == models[ENTRY.name]["preprocessing"] == preprocessing_of(ENTRY.name, "imagenet", "Linf")
    )
    cfg = timm_cfg(ENTRY)
    assert (cfg["interpolation"], cfg["input_size"], 224 / cfg["crop_pct"]) == ("bicubic", (3, 224, 224), 256)
    assert (timm_cfg(replace(ENTRY, preprocessing=None))["interpolation"]) == "bilinear"


def test_commands_load_its_images_as_the_entry_says(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    load_data = Mock(side_effect=ValueError("seen"))
    monkeypatch.setattr("adaptive_smoothing_zoo.data.load_data", load_data)
    code, _, said = run(capsys, "verify", ENTRY.name, "--dataset", "imagenet", "--data-dir", "here", "--n", 7)
    assert (code, said) == (2, "Error: seen\n")
    load_data.assert_called_once_with("imagenet", data_dir="here", n=7, preprocessing="BicubicRes256Crop224")


def test_of_robustbench_s_other_models_too() -> None:
    """Of those that do not say it, RobustBench asks timm."""
    architecture("xcit")
    from robustbench.data import get_timm_model_preprocessing

    theirs = get_timm_model_preprocessing("debenedetti2022light_xcit_s12_imagenet_linf").transforms[:-1]
    name = preprocessing_of("Debenedetti2022Light_XCiT-S12", "imagenet", "Linf")
    ours: Any = PREPROCESSINGS[name or ""].transform
    for mine, its in zip(ours.transforms, theirs, strict=True):
        assert type(mine) is type(its)
        assert torch.tensor(mine.size).unique().tolist() == torch.tensor(its.size).unique().tolist()
    assert ours.transforms[0].interpolation == theirs[0].interpolation
    assert preprocessing_of("Salman2020Do_R18", "imagenet", "Linf") == "Res256Crop224"
    assert preprocessing_of("Nobody2020", "imagenet", "Linf") is None
    assert preprocessing_of("Carmon2019Unlabeled", "cifar10", "Linf") is None


def test_without_the_files_one_sentence_says_where_they_are_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("adaptive_smoothing_zoo.zoo.loading.meta_triplet", lambda _: meta_triplet(reduced()))
    with pytest.raises(
        WeightsError, match=r"RobustBench's Bai2024MixedNUTS\.pt_m0\.pt on Google Drive is not in the c"
    ):
        load_model("Bai2024MixedNUTS", dataset="imagenet")


def test_a_skeleton_of_library_nets_draws_no_random_numbers_and_has_its_buffers() -> None:
    before = torch.get_rng_state()
    skeleton = meta_triplet(reduced())
    assert torch.equal(torch.get_rng_state(), before)
    built = {name: buffer for name, buffer in skeleton.rob_model.named_buffers() if "relative_position_index" in name}
    assert len(built) == sum(SMALL_ROB["depths"])  # type: ignore[arg-type]
    wanted = dict(build("timm", num_classes=1000, **reduced().rob_model.arguments).named_buffers())
    assert all(torch.equal(buffer, wanted[name]) for name, buffer in built.items())


class TestCheckpointsOfTimmNets:
    """Files under other keys than ours, for a net that an entry takes from timm."""

    config = BaseNetConfig(
        architecture="timm", arguments={"model": "convnextv2_atto", "mean": [0.1] * 3, "options": SMALL_STD}
    )

    def net(self) -> Any:
        return build("timm", num_classes=5, **self.config.arguments)

    def test_timm_s_own_keys(self) -> None:
        net, other = self.net(), self.net()
        state = {f"module.{key}": value for key, value in net.net.state_dict().items()}
        converted = convert_base_net(state, self.config, other, "file")
        other.load_state_dict(converted)
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in other.state_dict().items())
        bare = convert_base_net(state, self.config, other.net, "file")
        assert bare.keys() == net.net.state_dict().keys()

    @pytest.mark.parametrize("options", [{"dims": [8, 16, 24, 40]}, {"depths": [1, 1, 1, 1]}])
    def test_those_of_another_net_are_refused(self, options: dict[str, Any]) -> None:
        other = build("timm", num_classes=5, model="convnextv2_atto", options={**SMALL_STD, **options})
        with pytest.raises(WeightsError, match="do not fit timm"):
            convert_base_net(other.net.state_dict(), self.config, self.net(), "file")  # type: ignore[union-attr, arg-type]

    def test_weights_that_timm_would_resample_are_refused(self) -> None:
        """Its table fits a Swin's position biases to another window, which is another net."""
        config = BaseNetConfig(architecture="timm", arguments={**ENTRY.rob_model.arguments, "options": SMALL_ROB})
        net = build("timm", num_classes=5, **config.arguments)
        other = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, window_size=14, **SMALL_ROB)
        with pytest.raises(WeightsError, match="relative_position_bias_table has shape"):
            convert_base_net(other.state_dict(), config, net, "file")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_size() -> None:
    """About 1.6 GB of weights on each side."""
    model = architecture("comp_model").get_nonlin_mixed_classifier("imagenet")
    ours = meta_triplet(ENTRY)
    constants = model.std_model.mean.numel() + model.std_model.std.numel()
    assert parameters(ours.std_model) == parameters(model.std_model) - constants == 197_956_840
    assert parameters(ours.rob_model) == parameters(model.rob_model) == 196_532_476
    for part, state in (("std_model", model.std_model.state_dict()), ("rob_model", model.rob_model.model.state_dict())):
        converted = convert_base_net(state, getattr(ENTRY, part), ours.get_submodule(part), part)
        assert len(converted) == len(state) - 2 * (part == "std_model") + 2
