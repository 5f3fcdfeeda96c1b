"""What is saved is the module as it is now, or nothing."""

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
from hub_server import OWNER
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from adaptive_smoothing_zoo import AdaptiveAlpha, ConstantAlpha, MixingNetwork, Triplet, load_model
from adaptive_smoothing_zoo.backbones import build
from adaptive_smoothing_zoo.errors import ConfigError, WeightsError
from adaptive_smoothing_zoo.method.logit_maps import HardMax, NormClampPowerScale, Scale
from adaptive_smoothing_zoo.publishing.card import model_card
from adaptive_smoothing_zoo.publishing.export import card_from, card_of, export
from adaptive_smoothing_zoo.publishing.push import push
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.zoo import loading
from adaptive_smoothing_zoo.zoo.entry import UNPUBLISHED, Published, Weights, read_entry
from adaptive_smoothing_zoo.zoo.registry import find_entry
from adaptive_smoothing_zoo.zoo.triplet import load_triplet
from adaptive_smoothing_zoo.zoo.weights import write_safetensors

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(5))
NUMBERS = Published(clean="90.00", autoattack="50.00", source="a paper")


def loaded_again(model, folder):
    """What comes back, checked to be the very model that was saved."""
    model.save_pretrained(folder)
    again = Triplet.from_pretrained(folder)
    model.eval()
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert identity_of(again) == identity_of(model)
    assert not list(folder.glob("*.tmp"))
    return again


UNIT = st.floats(0, 1)
REAL = st.floats(-3, 3)
MAPS = st.one_of(
    st.floats(0.1, 5).map(Scale),
    st.just(HardMax()),
    st.builds(NormClampPowerScale, scale=st.floats(0.1, 2), power=st.floats(1, 4), clamp_bias=st.floats(-1, 1)),
)
NETWORKS = st.sampled_from([(4, (4, 6, 8)), (4, (2, 2, 2)), (3, (11, 6, 8))]).map(
    lambda kind: MixingNetwork(7, 11, kind[1], version=kind[0])  # the nets have maps of 3, 5 and of 4, 6 channels
)
TAPS = st.sampled_from([(0, 1), (-2, -1)])
RANGES = st.tuples(UNIT, UNIT).map(sorted).map(lambda ends: {"alpha_min": ends[0], "alpha_max": ends[1]})
SETTINGS = st.fixed_dictionaries({"logit_scale": REAL, "logit_bias": REAL, "std_taps": TAPS, "rob_taps": TAPS})
ALPHAS = st.one_of(
    UNIT.map(ConstantAlpha),
    st.builds(lambda network, ends, others: AdaptiveAlpha(network, **ends, **others), NETWORKS, RANGES, SETTINGS),
)


class TestEdits:
    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(ALPHAS, MAPS, MAPS)
    def test_any_alpha_and_any_maps_come_back(self, entry, tmp_path_factory, alpha, std_map, rob_map):
        model = Triplet(entry).eval()
        model.alpha, model.std_map, model.rob_map = alpha.eval(), std_map, rob_map
        loaded_again(model, tmp_path_factory.mktemp("saved"))

    def test_a_range_that_was_set(self, adaptive_entry, tmp_path):
        model = Triplet(adaptive_entry).eval()
        model.alpha.set_range(0.0, 0.5)
        again = loaded_again(model, tmp_path)
        assert (again.entry.alpha.alpha_min, again.entry.alpha.alpha_max) == (0.0, 0.5)

    @pytest.mark.parametrize("part", ["std_model", "alpha", "alpha.mixing_network", "rob_model.stages.0"])
    def test_compiled_parts(self, adaptive_entry, tmp_path, part):
        model = Triplet(adaptive_entry).eval()
        expected = model(IMAGES)
        parent, _, name = part.rpartition(".")
        setattr(model.get_submodule(parent), name, torch.compile(model.get_submodule(part), backend="eager"))
        model.save_pretrained(tmp_path)
        assert torch.equal(Triplet.from_pretrained(tmp_path)(IMAGES), expected)

    def test_a_compiled_triplet_and_parts_run_in_parallel(self, entry, tmp_path):
        model = Triplet(entry).eval()
        expected = model(IMAGES)
        model.rob_model = nn.DataParallel(model.rob_model)
        torch.compile(model, backend="eager").save_pretrained(tmp_path)
        assert torch.equal(Triplet.from_pretrained(tmp_path)(IMAGES), expected)

    def test_a_folder_holds_the_weights_of_the_last_save_alone(self, tiny_entry, tmp_path):
        model, others = Triplet(tiny_entry), {"config.json", "notes.md", "model-best-of-3.safetensors"}
        for name in others - {"config.json"}:
            (tmp_path / name).write_text("the user's own")
        for size, n in ((None, 1), (2000, 4), (4000, 2), (None, 1)):
            with torch.no_grad():
                model.std_model.head.weight += 1
            model.save_pretrained(tmp_path, size)
            names = {path.name for path in tmp_path.iterdir()}
            assert others <= names
            weights = names - others
            index = {"model.safetensors.index.json"} if n > 1 else set()
            assert len(weights - index) == n
            assert weights == {
                *(Triplet.from_pretrained(tmp_path).entry.weights.shards or ["model.safetensors"]),
                *index,
            }
            assert identity_of(Triplet.from_pretrained(tmp_path)) == identity_of(model.eval())

    @pytest.mark.parametrize("max_shard_size", [None, 500])
    def test_nets_that_share_their_weights(self, tiny_entry, tmp_path, max_shard_size):
        model = Triplet(replace(tiny_entry, rob_model=tiny_entry.std_model)).eval()
        model.rob_model = model.std_model
        model.alpha = ConstantAlpha(0.25)
        model.save_pretrained(tmp_path, max_shard_size)
        again = Triplet.from_pretrained(tmp_path)
        assert torch.equal(again(IMAGES), model(IMAGES))
        assert again.rob_model.head.weight.data_ptr() != again.std_model.head.weight.data_ptr()
        assert model.rob_model is model.std_model


class Adapted(nn.Module):
    """As the libraries for low-rank adaptation inject them."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.lora = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, features):
        return self.base_layer(features) + self.lora(features)


class Louder(Scale):
    def forward(self, logits):
        return 2.0 * super().forward(logits)


def with_head(net, head):
    net.head = head(net.head)


REFUSED = [
    (lambda m: with_head(m.std_model, Adapted), r"std_model\.head is a Adapted, not a Linear"),
    (
        lambda m: setattr(m, "rob_model", build("small_cnn", widths=(4, 8))),
        r"rob_model\.\S+ is 8, not 6",
    ),
    (lambda m: setattr(m, "rob_model", build("resnet20", num_classes=10)), r"rob_model"),
    (lambda m: setattr(m, "std_map", nn.Tanh()), "entries cannot describe the logit map Tanh"),
    (lambda m: setattr(m, "std_map", Louder(1.0)), "std_map is a Louder, not a Scale"),
    (lambda m: setattr(m.alpha, "clamp", 0.6), "clamp of alpha is 0.6, not None"),
    (lambda m: m.double(), r"is torch.float64 of shape .*, not torch.float32 of shape"),
    (
        lambda m: m.std_model.register_buffer("extra", torch.zeros(3)),
        r"std_model\.extra is torch.float32 of shape \(3,\), not missing",
    ),
    (lambda m: m.std_model.register_forward_hook(lambda *args: 2.0 * args[2]), "hooks or code of other packages"),
    (
        lambda m: setattr(m.std_model.final, "forward", lambda features: 3.0 * features),
        r"forward of std_model\.final is",
    ),
    (lambda m: setattr(m.alpha, "std_taps", (1, 0)), "indices of tapped feature maps must be ascending"),
    (lambda m: setattr(m, "alpha", nn.Identity()), "a constant or an adaptive alpha, not a Identity"),
]


class TestRefusals:
    @pytest.mark.parametrize(("edit", "message"), REFUSED)
    def test_what_no_entry_describes_is_named_and_nothing_is_written(self, adaptive_entry, tmp_path, edit, message):
        model = Triplet(adaptive_entry).eval()
        edit(model)
        with pytest.raises(ConfigError, match=f"Doe2024Tiny-digits-Linf cannot be saved: .*{message}"):
            model.save_pretrained(tmp_path / "saved")
        with pytest.raises(ConfigError, match="cannot be saved"):
            export(model, tmp_path / "export", card="")
        assert list(tmp_path.iterdir()) == []

    def test_hooks_that_change_nothing_are_no_obstacle(self, entry, tmp_path):
        model, calls = Triplet(entry).eval(), []
        model.std_model.register_forward_hook(lambda *_: calls.append(1))
        model.save_pretrained(tmp_path)
        assert torch.equal(Triplet.from_pretrained(tmp_path)(IMAGES), model(IMAGES))

    def test_saving_changes_nothing_of_the_module(self, entry, tmp_path):
        model = Triplet(entry).train()
        before = copy.deepcopy(model.state_dict())
        model.std_model.register_forward_hook(lambda *_: None)
        model.save_pretrained(tmp_path)
        assert model.training
        assert model.rob_model.training
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class TestHeads:
    @pytest.mark.parametrize("features", ["both", "std_model", "rob_model"])
    @pytest.mark.parametrize("classes", [0, 5])
    def test_a_fine_tuned_model(self, entry, tmp_path, features, classes):
        model = Triplet(entry)
        model.reset_classifier(classes, features=features)
        again = loaded_again(model, tmp_path)
        assert again.num_classes == classes
        assert again.pretrained_cfg["num_classes"] == classes
        assert again.entry.head.features == features
        assert torch.equal(load_model(str(tmp_path))(IMAGES), model(IMAGES))

    @pytest.mark.parametrize("indices", [(0,), (1,), (0, 1), (2,), (0, 3), (0, 1, 2, 3)])
    @pytest.mark.parametrize("prune_norm", [False, True])
    def test_a_pruned_model(self, entry, tmp_path, indices, prune_norm):
        model = Triplet(entry)
        model.prune_intermediate_layers(indices, prune_norm=prune_norm)
        again = loaded_again(model, tmp_path)
        assert again.feature_info == model.feature_info
        assert (again.std_model is None) == (model.std_model is None)

    def test_a_net_that_is_not_used_may_be_gone(self, entry, tmp_path):
        model = Triplet(entry)
        model.reset_classifier(3, features="rob_model")
        model.std_model = None
        assert loaded_again(model, tmp_path).std_model is None

    def test_an_unused_net_may_lack_feature_maps(self, tmp_path):
        model = load_model("Demo2026Smoothed", dataset="digits", threat_model="L2")
        model.reset_classifier(3, features="std_model")
        assert loaded_again(model, tmp_path).num_classes == 3

    def test_a_word_that_entries_do_not_have_is_refused(self, entry, tmp_path):
        with pytest.raises(TypeError, match="an entry has no field 'safe_serialization'; remove it"):
            Triplet(entry).save_pretrained(tmp_path, safe_serialization=True)

    def test_another_head_is_refused(self, entry, tmp_path):
        model = Triplet(entry)
        model.reset_classifier(3)
        model.head = nn.Sequential(nn.Dropout(), model.head)
        with pytest.raises(ConfigError, match="entries support a linear head or none, not a Sequential"):
            model.save_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"stages": {"std_model": 2}}, "'stages' must name rob_model and std_model"),
            (
                {"stages": {"std_model": 0, "rob_model": 1}},
                r"head\.stages\.std_model: must be greater than or equal to 1",
            ),
            ({"stages": {"std_model": 9, "rob_model": 1}}, "cannot be built"),
            ({"num_classes": -1}, r"head\.num_classes: must be greater than or equal to 0"),
            ({"without_final": ["g"]}, r"head\.without_final\[0\]: must match pattern"),
        ],
    )
    def test_a_config_that_makes_no_sense_is_refused(self, entry, tmp_path, change, message):
        model = Triplet(entry)
        model.reset_classifier(3)
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["entry"]["head"] |= change
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=message):
            Triplet.from_pretrained(tmp_path)

    def test_it_does_not_pass_for_the_mix_of_the_zoo(self, tmp_path):
        model = load_model("Demo2026Adaptive", dataset="digits")
        model.reset_classifier(10)
        model.save_pretrained(tmp_path)
        with pytest.raises(WeightsError, match="with other head than"):
            load_model("Demo2026Adaptive", tmp_path, "digits")


class TestWords:
    """What was said of a model does not pass to what somebody made of it."""

    def test_a_model_of_the_zoo_keeps_its_words(self, tmp_path):
        model = load_model("Demo2026Adaptive", dataset="digits")
        told, cleared = model.entry, replace(model.entry.weights, embedded=None, sha256=None)
        again = loaded_again(loaded_again(model, tmp_path / "one"), tmp_path / "two").entry
        assert replace(again, weights=cleared) == replace(told, weights=cleared)
        assert "Changed from" not in model_card(again, None)

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: model.rob_model.head.bias.data.add_(1e-3),
            lambda model: setattr(model.alpha, "alpha_min", 0.5),
            lambda model: model.reset_classifier(3),
        ],
    )
    @pytest.mark.parametrize("source", ["zoo", "folder"])
    def test_a_changed_one_says_so(self, source, change, tmp_path, caplog):
        model = load_model("Demo2026Adaptive", dataset="digits")
        model = model if source == "zoo" else loaded_again(model, tmp_path / "first")
        before = model.entry
        assert (before.paper.missing, before.additional_data) == ((), False)
        change(model)
        entry = loaded_again(model, tmp_path / "changed").entry
        assert "was changed: paper" in caplog.text
        assert entry.description.startswith("Changed from Demo2026Adaptive-digits-Linf: ")
        assert entry.training.startswith("Changed from Demo2026Adaptive-digits-Linf: ")
        assert before.paper.title in entry.training
        assert before.training in entry.training
        assert (entry.paper, entry.additional_data, entry.aliases) == (UNPUBLISHED, None, ())
        assert (entry.limits, entry.license, entry.name) == (before.limits, before.license, before.name)
        card = model_card(model.described(), None)
        assert "Not published." in card
        assert card.count("Changed from") == 2
        # Said once, however often it is changed and saved; and what its makers say of it stays.
        again = Triplet.from_pretrained(tmp_path / "changed")
        again.entry = replace(again.entry, paper=before.paper).about("0" * 64)
        assert again.described().description == entry.description
        assert again.described().training == entry.training
        model.save_pretrained(tmp_path / "mine", name="Doe2026Mine", training="Fine-tuned.", paper=before.paper)
        mine = Triplet.from_pretrained(tmp_path / "mine").described()
        assert (mine.name, mine.training, mine.paper) == ("Doe2026Mine", "Fine-tuned.", before.paper)

    def test_the_threat_model_is_corrected_by_saving_again(self, tiny_entry, tmp_path):
        Triplet(tiny_entry).save_pretrained(tmp_path)
        Triplet.from_pretrained(tmp_path).save_pretrained(tmp_path, threat_model="L2", eps="0.5")
        entry = Triplet.from_pretrained(tmp_path).described()
        assert (entry.threat_model, entry.eps, entry.paper) == ("L2", "0.5", tiny_entry.paper)

    def test_a_card_of_a_folder_does_not_load_the_zoo_s_model_of_that_name(self, tmp_path):
        model = load_model("Demo2026Adaptive", dataset="digits")
        model.rob_model.head.bias.data.add_(1e-3)
        model.save_pretrained(tmp_path)
        for entry, code in (
            (read_entry(tmp_path / "config.json"), 'load_model("there")'),
            (find_entry("Demo2026Adaptive", "digits", "Linf"), 'load_model("Demo2026Adaptive"'),
        ):
            assert code in card_from(entry, tmp_path / "none", lambda: model, "there")[0]


class TestNumbers:
    """What was published or verified is about weights, and goes with them only."""

    @pytest.fixture
    def published(self, entry):
        state = Triplet(entry).state_dict()
        return load_triplet(replace(entry, published=NUMBERS, weights=Weights(verified=True)), state, checked=True)

    def test_they_stay_with_the_model_that_they_are_about(self, published, tmp_path):
        for folder in (tmp_path / "first", tmp_path / "second"):
            published = loaded_again(published, folder)
            assert published.entry.published == NUMBERS
            assert published.entry.weights.verified
        assert published.entry.weights.model_sha256 == identity_of(published).sha256

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: model.std_model.head.bias.data.add_(1e-3),
            lambda model: model.rob_model.mean.add_(1e-3),
            lambda model: setattr(model, "alpha", ConstantAlpha(0.1)),
            lambda model: model.reset_classifier(10),
        ],
    )
    def test_they_are_left_away_after_any_change_and_that_is_said(self, published, tmp_path, change, caplog):
        change(published)
        again = loaded_again(published, tmp_path)
        assert "are omitted" in caplog.text
        assert (again.entry.published, again.entry.weights.verified) == (None, False)
        assert again.entry.weights.model_sha256 == identity_of(again).sha256
        assert again.entry.paper == UNPUBLISHED

    @pytest.mark.parametrize(
        "edit",
        [
            lambda entry: entry["alpha"].update(alpha_min=0.125),
            lambda entry: entry["std_map"].update(factor=1.25),
            lambda entry: entry["weights"].update(model_sha256="0" * 64),
        ],
    )
    def test_they_are_left_away_where_the_configuration_was_edited(self, published, tmp_path, edit, caplog):
        published.alpha = AdaptiveAlpha(MixingNetwork(7, 11, (4, 6, 8)), alpha_min=0.25, alpha_max=1.0)
        published.entry = published.described().about(identity_of(published).sha256)
        numbers = {"published": NUMBERS, "weights": replace(published.entry.weights, verified=True)}
        published.entry = replace(published.entry, **numbers).about(identity_of(published).sha256)
        assert loaded_again(published, tmp_path).entry.weights.verified
        caplog.clear()
        config = json.loads((tmp_path / "config.json").read_text())
        edit(config["entry"])
        (tmp_path / "config.json").write_text(json.dumps(config))
        model = Triplet.from_pretrained(tmp_path)
        assert "are omitted" in caplog.text
        assert (model.entry.published, model.entry.weights.verified) == (None, False)

    def test_they_are_about_weights_whose_hash_was_checked_and_no_others(self, entry, zoo_of, tmp_path, monkeypatch):
        monkeypatch.setattr(loading, "EMBEDDED", tmp_path)
        state = Triplet(entry).state_dict()
        sha256 = write_safetensors(tmp_path / "tiny.safetensors", state)
        for pinned in (sha256, None):
            weights = Weights(embedded="tiny.safetensors", sha256=pinned, verified=True)
            zoo_of(replace(entry, published=NUMBERS, weights=weights))
            model = load_model("Doe2024Tiny", dataset="digits")
            assert model.described().weights.verified == (pinned is not None)
        zoo_of(replace(entry, published=NUMBERS, weights=replace(weights, sha256=sha256)))
        model = load_model("Doe2024Tiny", dataset="digits")
        model.rob_model.head.bias.data.add_(1e-3)
        assert not model.described().weights.verified

    def test_they_are_left_away_where_nobody_knows(self, entry, tmp_path):
        model = Triplet(replace(entry, published=NUMBERS, weights=Weights(verified=True)))
        again = loaded_again(model, tmp_path)
        assert (again.entry.published, again.entry.weights.verified) == (None, False)

    def test_a_checkpoint_of_somebody_s_own_has_none(self, published, zoo_of, tmp_path):
        zoo_of(published.entry)
        save_file(published.state_dict(), tmp_path / "mine.safetensors")
        model = load_model("Doe2024Tiny", dataset="digits", custom_checkpoint=tmp_path / "mine.safetensors")
        assert (model.entry.published, model.entry.weights.verified) == (None, False)


def run_code_of(card):
    """The model that the card's own code loads."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names = {}
    exec(code, names)
    return names["model"], names["images"], names["log_probabilities"]


class TestOwnTriplet:
    """One that no zoo knows."""

    @pytest.fixture
    def model(self, entry):
        return Triplet(replace(entry, name="Me2026Mine")).eval()

    def test_the_card_of_a_folder_loads_what_is_in_it(self, model, tmp_path, monkeypatch):
        export(model, tmp_path / "folder", card=card_of(model, tmp_path / "none")[0])
        monkeypatch.chdir(tmp_path / "folder")
        loaded, images, output = run_code_of((tmp_path / "folder" / "README.md").read_text())
        assert torch.equal(output, model(images))
        assert loaded.entry.name == "Me2026Mine"

    def test_the_card_of_a_repository_loads_it_for_whoever_reads_it(self, hub, model, tmp_path, monkeypatch):
        export(model, tmp_path / "folder", card=card_of(model, tmp_path / "none")[0])
        before = (tmp_path / "folder" / "README.md").read_bytes()
        pushed = push(tmp_path / "folder", "org/mine", token=OWNER)
        monkeypatch.chdir(tmp_path)
        _, images, output = run_code_of(hub.content("org/mine", "README.md", pushed.commit).decode())
        assert torch.equal(output, model(images))
        assert (tmp_path / "folder" / "README.md").read_bytes() == before

    def test_it_is_pushed_from_memory(self, hub, model):
        model.alpha = ConstantAlpha(0.125)
        assert "/org/mine/tree/" in model.push_to_hub("org/mine", token=OWNER)
        for loaded in (
            load_model("hf-hub:org/mine"),
            load_model("Me2026Mine", hub_repo="org/mine"),
            Triplet.from_pretrained("hf-hub:org/mine"),
        ):
            assert torch.equal(loaded(IMAGES), model(IMAGES))
        with pytest.raises(WeightsError, match=r"org/mine holds Me2026Mine-digits-Linf, not Me2026Other"):
            load_model("Me2026Other", hub_repo="org/mine")

    def test_what_no_entry_describes_is_not_pushed(self, hub, model):
        model.std_map = nn.Tanh()
        with pytest.raises(ConfigError, match="entries cannot describe the logit map Tanh"):
            model.push_to_hub("org/mine", token=OWNER)
        assert "org/mine" not in hub.repositories
