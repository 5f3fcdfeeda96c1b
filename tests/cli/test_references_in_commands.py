"""Commands take any reference: triplets by name or folder, nets of libraries, and the user's own code."""

import json
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from command_line import run
from hub_server import OWNER
from huggingface_hub import hf_hub_download
from short_attacks import shorten
from torch import nn

from adaptive_smoothing_zoo import load_base_net, load_model
from adaptive_smoothing_zoo.errors import ConfigError
from adaptive_smoothing_zoo.method.alpha import ConstantAlpha
from adaptive_smoothing_zoo.publishing.kept_entry import find_kept
from adaptive_smoothing_zoo.publishing.run_record import RunRecord
from adaptive_smoothing_zoo.storage.identity import identity_of
from adaptive_smoothing_zoo.zoo.entry import read_entry
from adaptive_smoothing_zoo.zoo.references import Wanted, resolve
from adaptive_smoothing_zoo.zoo.robustbench import robustbench_net

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
IMAGES = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
SHORT = ("--attacks", "apgd-ce", "--iterations", 2, "--device", "cpu")

CODE = """
    import torch
    from torch import nn

    def make(classes=10):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))

    def five():
        return make(5)

    class Tuple(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make()

        def forward(self, images):
            return self.net(images), None
"""


MIX = """
    from adaptive_smoothing_zoo import MixedClassifier

    def mix():
        return MixedClassifier(make(), make(), 0.5)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the user's file nets.py, three images that its net is right about, and no results."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(textwrap.dedent(CODE))
    monkeypatch.setitem(sys.modules, "nets", None)
    label(linear())
    return tmp_path


def linear(classes=10):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))


def label(net):
    """data.npz: the images with the labels that a net gives them."""
    with torch.no_grad():
        np.savez("data.npz", images=PIXELS, labels=net.eval()(IMAGES).argmax(1).numpy())


def asz(capsys, command, *arguments, data=True):
    """What a command that must succeed says on both streams."""
    more = ("--data-dir", "data.npz") if data else ()
    code, out, err = run(capsys, command, *arguments, *more)
    assert code == 0, err
    return out + err


def refused(capsys, command, *arguments):
    code, _, err = run(capsys, command, *arguments)
    assert code == 2
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("Error: ")
    return err


def of_records(name, folder="results/cifar10/Linf"):
    return json.loads(Path(folder, f"{name}.run.json").read_text())


def saved(net, path="weights.pt"):
    torch.save({"state_dict": net.state_dict()}, path)
    return path


def timm_net():
    return timm.create_model("test_efficientnet", num_classes=10)


def torchvision_net():
    return torchvision.models.shufflenet_v2_x0_5(num_classes=10)


def wong_2020():
    return robustbench_net(model="Wong2020Fast", dataset="cifar10", threat_model="Linf")


@pytest.mark.parametrize(
    ("reference", "theirs", "architecture"),
    [
        ("timm:test_efficientnet", timm_net, "test_efficientnet"),
        ("torchvision:shufflenet_v2_x0_5", torchvision_net, "shufflenet_v2_x0_5"),
        ("robustbench:Wong2020Fast", wong_2020, "Wong2020FastNet"),
        ("nets.py:make", linear, "Sequential"),
    ],
)
def test_a_net_with_the_weights_of_a_file_is_evaluated(here, capsys, reference, theirs, architecture):
    checkpoint = saved(theirs())
    net = resolve(reference, Wanted(checkpoint=here / checkpoint)).net
    label(net)
    told = asz(capsys, "eval", reference, "--checkpoint", checkpoint, *SHORT)
    assert "eps 8/255, the usual Linf radius for cifar10" in told
    name = f"{reference.replace(':', '-')}-with-weights.pt"
    kept = find_kept(here / "results/cifar10/Linf", f"{reference} with weights.pt", None)
    assert (kept.name, kept.architecture, kept.eps, kept.num_classes) == (name, architecture, "8/255", 10)
    record = of_records(f"{name}.custom")
    assert (record["n"], record["clean_accuracy"], record["eps"]) == (3, 1.0, "8/255")
    assert record["identity"]["sha256"] == identity_of(net, (3, 32, 32)).sha256
    assert json.loads(asz(capsys, "info", reference, "--checkpoint", checkpoint, "--json", data=False))["name"] == name


def test_an_embedded_base_net_is_evaluated(here, capsys):
    net = load_base_net("pyautoattack_resnet18")
    label(net)
    asz(capsys, "eval", "base:pyautoattack_resnet18", "--n", 2, *SHORT)
    record = of_records("base-pyautoattack_resnet18.custom")
    assert record["clean_accuracy"] == 1.0
    assert record["identity"]["sha256"] == identity_of(net).sha256


def test_a_function_of_a_module_and_a_net_that_gives_tuples_are_evaluated(here, capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "nets")
    monkeypatch.syspath_prepend(here)
    for reference, name in (("nets:make", "nets-make"), ("nets.py:Tuple", "nets.py-Tuple")):
        asz(capsys, "eval", reference, *SHORT)
        assert of_records(f"{name}.custom")["clean_accuracy"] == 1.0


def test_a_saved_folder_is_evaluated_by_its_path(here, capsys):
    load_model("Demo2026Constant", dataset="digits").save_pretrained("saved")
    asz(capsys, "eval", "saved/", "--n", 2, *SHORT, data=False)
    record = of_records("Demo2026Constant.custom", "results/digits/Linf")
    assert (record["n"], record["dataset"]) == (2, "digits")
    assert not list(here.rglob("*.model.json"))
    assert "has no config.json" in refused(capsys, "eval", "results", *SHORT)


class TestWhatIsRecorded:
    def test_the_standard_protocol_makes_an_entry_that_the_leaderboard_lists_and_a_card(self, here, capsys):
        asz(capsys, "eval", "nets.py:make", "--n", 2)
        kept = find_kept(here / "results/cifar10/Linf", "nets.py:make", None)
        record = RunRecord.read(here / "results", kept)
        assert record.is_standard
        assert record.identity == identity_of(linear())
        asz(capsys, "leaderboard", "results", data=False)
        row = (here / "results/leaderboard.md").read_text().splitlines()[-1]
        assert [cell.strip() for cell in row.split("|")][2:9] == [
            *("nets.py-make", "100.00", f"{100 * record.robust_accuracy:.2f}", f"{100 * record.robust_accuracy:.2f}"),
            *("unknown", "Sequential", "unpublished"),
        ]
        asz(capsys, "card", "nets.py:make", data=False)
        card = (here / "model_cards/nets.py-make-cifar10-Linf.md").read_text()
        assert record.identity.sha256 in card
        assert "Not published." in card

        err = refused(capsys, "claim", "nets.py:make", "--checkpoint", "https://example.org")
        assert "has no title and no link and no word on additional data; asz describe sets what is missing" in err
        words = ("--title", "A net", "--authors", "J. Doe", "--link", "https://example.org", "--no-additional-data")
        asz(capsys, "describe", "nets.py:make", *words, data=False)
        err = refused(capsys, "claim", "nets.py:make", "--checkpoint", "https://example.org")
        assert "describe" not in err
        assert "needs all of the test set" in err
        entry = json.loads((here / "results/cifar10/Linf/nets.py-make.json").read_text())
        assert (entry["name"], entry["authors"], entry["additional_data"]) == ("A net", "J. Doe", False)
        asz(capsys, "card", "nets.py:make", data=False)
        assert "J. Doe. *A net*. <https://example.org>" in (here / card_path()).read_text()

    def test_adapt_validate_and_certify_go_on_from_it(self, here, capsys, monkeypatch):
        shorten(monkeypatch, iterations=2, restarts=1, targets=1, queries=2)
        asz(capsys, "eval", "nets.py:make", "--n", 2, "--eps", "0.0001")
        told = asz(capsys, "adapt", "nets.py:make")
        assert "after apgd-p-mix" in told
        assert "alpha" not in told
        told = asz(capsys, "validate", "nets.py:make", "--n", 2, "--only", "repeated_forward")
        assert "passed" in told
        asz(capsys, "certify", "nets.py:make", "--sigma", 0.1, "--n", 100, "--n-examples", 2)
        path = here / "results/cifar10/Linf/certificates/nets.py-make.smoothed-0.1-hard.json"
        record = json.loads(path.read_text())
        assert (record["alpha_min"], record["part"], record["smoothed"]) == (None, "whole", True)
        err = refused(capsys, "certify", "nets.py:make", "--data-dir", "data.npz", "--n-examples", 2)
        assert "give a sigma" in err
        more = ("--sigma", 0.1, "--part", "rob_model", "--data-dir", "data.npz")
        assert "is not a mix and has no rob_model" in refused(capsys, "certify", "nets.py:make", *more)

    def test_shards_are_merged(self, here, capsys):
        for i in (0, 1):
            asz(capsys, "eval", "nets.py:make", *SHORT, "--shard", f"{i}/2", "--name", "Mine")
        asz(capsys, "merge", "nets.py:make", "--name", "Mine")
        assert of_records("Mine.custom")["n"] == 3
        # The name was said once.
        asz(capsys, "eval", "nets.py:make", *SHORT)
        assert sorted(path.name for path in here.rglob("*.run.json")) == ["Mine.custom.run.json"]

    def test_a_state_of_other_weights_is_not_gone_on_with(self, here, capsys):
        more = ("--checkpoint", "weights.pt", *SHORT, "--shard", "0/2", "--data-dir", "data.npz")
        saved(linear())
        assert run(capsys, "eval", "nets.py:make", *more)[0] == 0
        saved(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
        assert "was made with model" in refused(capsys, "eval", "nets.py:make", *more)

    def test_records_of_other_weights_under_the_same_name_are_not_mixed_up(self, here, capsys):
        more = ("--checkpoint", "weights.pt")
        saved(linear())
        asz(capsys, "eval", "nets.py:make", *more, "--n", 2)
        before = (here / "results/cifar10/Linf/nets.py-make-with-weights.pt.run.json").read_bytes()
        saved(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
        data = ("--data-dir", "data.npz")
        assert "is of another model" in refused(capsys, "eval", "nets.py:make", *more, "--n", 2, *data)
        assert "with another model" in refused(capsys, "adapt", "nets.py:make", *more, *data)
        assert "with another model" in refused(capsys, "card", "nets.py:make", *more)
        told = asz(capsys, "validate", "nets.py:make", *more, "--n", 2, "--only", "repeated_forward")
        assert "nothing to compare with: the recorded run was made with another model" in told
        assert (here / "results/cifar10/Linf/nets.py-make-with-weights.pt.run.json").read_bytes() == before

    def test_a_name_is_that_of_one_reference(self, here, capsys):
        asz(capsys, "eval", "nets.py:make", *SHORT, "--name", "Mine")
        err = refused(capsys, "eval", "nets.py:Tuple", *SHORT, "--name", "Mine", "--data-dir", "data.npz")
        assert "Mine is what records in results/cifar10/Linf call nets.py:make" in err

    def test_a_checkpoint_may_be_called_like_a_record(self, here, capsys):
        for name in ("best.model", "best.run", "best.custom"):
            torch.save(linear().state_dict(), name)
            asz(capsys, "eval", "nets.py:make", "--checkpoint", name, "--n", 2)
        asz(capsys, "eval", "nets.py:make", "--n", 2)
        entries = {path.name for path in (here / "results/cifar10/Linf").glob("*.json")}
        assert {"nets.py-make-with-best-model.json", "nets.py-make-with-best-run.json", "nets.py-make.json"} <= entries
        assert "rank" not in asz(capsys, "leaderboard", "results", data=False)
        assert (here / "results/leaderboard.md").read_text().count("| nets.py-make") == 4

    def test_a_record_of_other_images_is_kept(self, here, capsys):
        asz(capsys, "eval", "nets.py:make", "--n", 2)
        np.savez(here / "other.npz", images=PIXELS[::-1], labels=np.array([1, 2, 3]))
        more = ("--n", 2, "--data-dir", "other.npz")
        assert "is of other images" in refused(capsys, "eval", "nets.py:make", *more)

    def test_a_file_finds_its_neighbours_and_the_current_folder_has_modules(self, here, capsys, monkeypatch):
        (here / "pk").mkdir()
        (here / "pk" / "helper_of_pk.py").write_text(textwrap.dedent(CODE))
        (here / "pk" / "nets2.py").write_text("from helper_of_pk import make\n")
        monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(here))])
        before = list(sys.path)
        (here / "nets_of_here.py").write_text(textwrap.dedent(CODE))
        for reference in ("pk/nets2.py:make", "nets_of_here:make"):
            assert resolve(reference).net[1].out_features == 10
        assert sys.path == before

    def test_weights_without_values_are_refused(self, here, capsys):
        (here / "nets.py").write_text(textwrap.dedent(CODE) + "\ndef meta():\n    return make().to('meta')\n")
        assert "nets.py:meta is on the device meta" in refused(
            capsys, "eval", "nets.py:meta", "--n", 2, "--data-dir", "data.npz"
        )


def card_path():
    return "model_cards/nets.py-make-cifar10-Linf.md"


class TestDescribe:
    def test_a_net_gets_another_name_while_it_has_no_records(self, here, capsys):
        asz(capsys, "describe", "nets.py:make", "--name", "One", "--title", "T", data=False)
        asz(capsys, "describe", "nets.py:make", "--name", "Two", "--link", "https://example.org", data=False)
        assert [path.name for path in here.rglob("*.model.json")] == ["Two.model.json"]
        kept = find_kept(here / "results/cifar10/Linf", "nets.py:make", None)
        assert (kept.paper.title, kept.paper.link) == ("T", "https://example.org")
        asz(capsys, "eval", "nets.py:make", *SHORT)
        assert "has records of Two" in refused(capsys, "describe", "nets.py:make", "--name", "Three")
        assert "ends like a file of records" in refused(capsys, "describe", "nets.py:five", "--name", "a.run")
        assert "ends like a file of records" in refused(capsys, "describe", "nets.py:five", "--name", "a.custom")

    def test_a_folder_keeps_it_in_its_config(self, here, capsys):
        load_model("Demo2026Constant", dataset="digits").save_pretrained("saved")
        before = (here / "saved/model.safetensors").read_bytes()
        asz(capsys, "describe", "saved", "--name", "Mine2026", "--title", "Mine", "--additional-data", data=False)
        asz(capsys, "describe", "saved", "--chosen-on", "test:1:200", data=False)
        entry = read_entry(here / "saved/config.json")
        assert entry.chosen_on == "test:1:200"
        assert (entry.name, entry.paper.title, entry.additional_data) == ("Mine2026", "Mine", True)
        assert entry.paper.authors == load_model("Demo2026Constant", dataset="digits").entry.paper.authors
        assert (here / "saved/model.safetensors").read_bytes() == before
        asz(capsys, "eval", "saved", "--n", 2, *SHORT, data=False)
        assert of_records("Mine2026.custom", "results/digits/Linf")["n"] == 2
        assert of_records("Mine2026.custom", "results/digits/Linf")["chosen_among"] == 1
        assert "has records of Mine2026" in refused(capsys, "describe", "saved", "--name", "Other2026")
        asz(capsys, "card", "saved", data=False)
        assert 'load_model("saved")' in (here / "model_cards/Mine2026-digits-Linf.md").read_text()

    def test_two_folders_of_one_name_are_two_models(self, here, capsys):
        for alpha in (0.3, 0.95):
            mix = load_model("Demo2026Constant", dataset="digits")
            mix.alpha = ConstantAlpha(alpha)
            mix.save_pretrained(f"tuned{alpha}", name="Tuned2026")
        asz(capsys, "eval", "tuned0.3", "--n", 2, data=False)
        path = here / "results/digits/Linf/Tuned2026.json"
        before = path.read_bytes()
        assert "recorded in results" in asz(capsys, "info", "tuned0.3", data=False)
        assert "recorded in results" not in asz(capsys, "info", "tuned0.95", data=False)
        told = asz(capsys, "describe", "tuned0.95", "--title", "Another", data=False)
        assert "stays as it is: it is of another model of this name" in told
        assert path.read_bytes() == before

    def test_a_longer_name_is_another_model_s(self, here, capsys):
        load_model("Demo2026Constant", dataset="digits").save_pretrained("saved", name="Mix")
        folder = here / "results/digits/Linf"
        folder.mkdir(parents=True)
        for name in ("Mix.v2.run.json", "Mix.v2.json"):
            (folder / name).write_text("{}")
        asz(capsys, "describe", "saved", "--name", "Other2026", data=False)
        asz(capsys, "describe", "saved", "--name", "Mix", data=False)
        (folder / "Mix.eps-0_1.run.json").write_text("{}")
        assert "has records of Mix (Mix.eps-0_1" in refused(capsys, "describe", "saved", "--name", "Other2026")

    def test_a_name_that_ends_like_a_record_is_refused_wherever_it_is_given(self, here):
        with pytest.raises(ConfigError, match=r"ends like a file of records, in \.run"):
            load_model("Demo2026Constant", dataset="digits").save_pretrained("saved", name="Tuned.run")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("Demo2026Constant", "--dataset", "digits", "--title", "T"), "is not a folder"),
            (("hf-hub:org/name", "--title", "T", "--checkpoint", "x.pt"), "omit --checkpoint and --data-dir"),
            (("hf-hub:org/name", "--title", "T"), "is not a folder"),
            (("Demo2026Constant", "--dataset", "digits", "--eps", "0.1"), 'save_pretrained("folder", eps="0.1")'),
            (("nets.py:make", "--name", "1a"), "a name begins with a letter"),
            (("nets.py:make", "--chosen-on", "1 to 5"), "chosen_on: must match pattern"),
            (("nets.py:make", "--chosen-on", "test:9:9"), "must end after its first image"),
        ],
    )
    def test_what_cannot_be_described_is_refused(self, here, capsys, arguments, said):
        code, _, err = run(capsys, "describe", *arguments)
        assert code == 2
        assert said in err
        assert not (here / "results").exists()


def test_a_mix_in_the_users_file_is_attacked_as_a_mix(here, capsys, monkeypatch):
    (here / "mix.py").write_text(textwrap.dedent(CODE) + textwrap.dedent(MIX))
    shorten(monkeypatch, iterations=2, restarts=1, targets=1, queries=2)
    asz(capsys, "eval", "mix.py:mix", "--n", 2, "--eps", "0.0001")
    assert json.loads((here / "results/cifar10/Linf/mix.py-mix.model.json").read_text())["number_forward_passes"] == 2
    assert "after apgd-t-pinned" in asz(capsys, "adapt", "mix.py:mix")


def test_chosen_attacks_adapt_a_run_and_do_not_replace_a_record_of_more(here, capsys, monkeypatch):
    (here / "mix.py").write_text(textwrap.dedent(CODE) + textwrap.dedent(MIX))
    shorten(monkeypatch, iterations=2, restarts=1, targets=1, queries=2)
    asz(capsys, "eval", "mix.py:mix", "--n", 2, "--eps", "0.0001")
    path, data = here / "results/cifar10/Linf/mix.py-mix.adaptive.json", ("--data-dir", "data.npz")
    told = asz(capsys, "adapt", "mix.py:mix", "--attacks", "apgd-p-mix, apgd-ce-mix")
    assert re.findall(r"after (\S+)", told) == ["standard", "apgd-p-mix", "apgd-ce-mix"]
    assert json.loads(path.read_text())["protocol"] == "chosen attacks: apgd-p-mix, apgd-ce-mix"
    said = refused(capsys, "adapt", "mix.py:mix", "--attacks", "apgd-ce-mix", *data)
    assert "has attacks that this run does not make (apgd-p-mix)" in said
    asz(capsys, "adapt", "mix.py:mix", "--attacks", "square", "--overwrite")
    said = refused(capsys, "adapt", "mix.py:mix", *data)  # the mix's own attacks do not include it
    assert "has attacks that this run does not make (square)" in said
    asz(capsys, "adapt", "mix.py:mix", "--attacks", "apgd-ce-mix", "--overwrite")
    assert json.loads(path.read_text())["attacks"] == ["apgd-ce-mix"]
    said = refused(capsys, "adapt", "mix.py:mix", "--attacks", "apgd-cx", "--overwrite", *data)
    assert "unknown attack 'apgd-cx'" in said


def test_a_quick_look_at_a_net_writes_nothing(here, capsys):
    assert "robust, at most" in asz(capsys, "eval", "nets.py:make", "--quick")
    assert not (here / "results").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("reference", "said"),
        [
            ("Demo2026Constan", "did you mean Demo2026Constant"),
            ("timm:test_efficientne", "near: test_efficientnet"),
            ("torchvision:shufflenet_v2_x0_6", "near: shufflenet_v2_x0_5"),
            ("robustbench:Wong2020", "near: Wong2020Fast"),
            ("base:pyautoattack", "known: "),
            ("nets.py:mak", "has no function 'mak'"),
            ("absent.py:make", "there is no file absent.py"),
            ("tim:resnet50", "neither one of base, robustbench, timm"),
        ],
    )
    @pytest.mark.parametrize("command", ["eval", "validate"])
    def test_an_unknown_reference_lists_what_is_near(self, here, capsys, command, reference, said):
        more = () if reference.startswith(("Demo", "base", "tim:", "nets", "absent")) else ("--checkpoint", "none.pt")
        assert said in refused(capsys, command, reference, *more, "--data-dir", "data.npz")

    def test_a_missing_extra_is_named_with_the_command_that_brings_it(self, here, capsys, monkeypatch):
        for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "robustbench", None)
        for more in ((), ("--checkpoint", "none.pt")):
            err = refused(capsys, "eval", "robustbench:Wong2020Fast", *more)
            assert "pip install 'adaptive-smoothing-zoo[robustbench]'" in err

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("export", ("nets.py:make", "folder")),
            ("push", ("nets.py:make", "org/name")),
            ("experiment", ("margins", "--model", "nets.py:make")),
        ],
    )
    def test_what_needs_a_triplet_says_what_makes_one(self, here, capsys, command, arguments):
        err = refused(capsys, command, *arguments)
        assert f"asz {command} takes a triplet, and nets.py:make is a net; asz tune or MixedClassifier makes" in err

    def test_a_net_of_other_classes_or_images_is_refused(self, here, capsys):
        data = (*SHORT, "--data-dir", "data.npz")
        err = refused(capsys, "eval", "nets.py:five", *data)
        assert "gives logits of shape (1, 5) for one image, and cifar10 needs 10 classes; give --num-classes" in err
        assert "fails on images of 1 x 8 x 8" in refused(
            capsys, "eval", "nets.py:make", "--dataset", "digits", "--eps", "0.1", *SHORT
        )

    def test_where_a_data_set_has_no_usual_radius_it_must_be_said_once(self, here, capsys):
        (here / "small.py").write_text(textwrap.dedent(CODE).replace("3072", "64"))
        digits = ("small.py:make", "--dataset", "digits")
        assert "digits has no usual Linf radius" in run(capsys, "eval", *digits, *SHORT)[2]
        asz(capsys, "eval", *digits, "--n", 2, "--eps", "0.1", *SHORT, data=False)
        assert of_records("small.py-make.custom", "results/digits/Linf")["eps"] == "0.1"
        told = asz(capsys, "validate", *digits, "--n", 2, "--only", "repeated_forward", data=False)
        assert "passed" in told

    def test_what_a_net_does_not_have_is_refused(self, here, capsys):
        said = run(capsys, "eval", "nets.py:make", "--model-dir", "here")[2]
        assert "takes no --model-dir; use --checkpoint for a file of weights" in said
        assert "the norm must be 'Linf' or 'L2'" in refused(capsys, "eval", "nets.py:make", "--threat-model", "L7")
        assert "unknown dataset" in refused(capsys, "eval", "nets.py:make", "--dataset", "none")

    def test_a_triplet_has_name_and_classes_of_its_own(self, here, capsys):
        for more in (("--name", "Mine"), ("--num-classes", 10)):
            code, _, err = run(capsys, "eval", "Demo2026Constant", "--dataset", "digits", *more)
            assert code == 2
            assert "asz describe FOLDER --name renames it" in err


def test_a_tuned_folder_goes_through_all_commands_and_keeps_its_paper(here, capsys, monkeypatch):
    (here / "small.py").write_text(textwrap.dedent(CODE).replace("3072", "64"))
    nets = ("--std-model", "small.py:make", "--rob-model", "small.py:make", "--dataset", "digits", "--eps", "0.01")
    words = ("--name", "Doe2026Mix", "--title", "A mix", "--link", "https://example.org", "--additional-data")
    how = ("--tune-on", "test:0:40", "--iterations", 2, "--targets", 1, "--form", "constant", "--robust", 0.9)
    asz(capsys, "tune", "tuned", *nets, *words, *how, data=False)
    (here / "small.py").unlink()
    entry = read_entry(here / "tuned/config.json")
    assert (entry.paper.title, entry.paper.link, entry.additional_data) == ("A mix", "https://example.org", True)
    shorten(monkeypatch, iterations=2, restarts=1, targets=1, queries=2)
    asz(capsys, "eval", "tuned", "--n", 2, data=False)
    asz(capsys, "adapt", "tuned", data=False)
    asz(capsys, "validate", "tuned", "--n", 2, "--only", "repeated_forward", data=False)
    asz(capsys, "certify", "tuned", "--sigma", 0.1, "--n", 50, "--n-examples", 2, data=False)
    asz(capsys, "export", "tuned", "exported", data=False)
    assert "A mix" in (here / "exported/README.md").read_text()
    asz(capsys, "leaderboard", "results", data=False)
    assert "https://example.org" in (here / "results/leaderboard.html").read_text()
    assert "RobustBench has no leaderboard for digits" in refused(capsys, "claim", "tuned", "--checkpoint", "x")
    asz(capsys, "experiment", "trust-options", "--model", "tuned", "--n", 2, "--steps", 1, data=False)
    assert (here / "experiments/trust-options/Doe2026Mix-digits-Linf.json").exists()


def test_a_triplet_takes_the_weights_of_a_file(here, capsys):
    other = load_model("Demo2026Constant", dataset="digits")
    for parameter in other.rob_model.parameters():
        parameter.data.zero_()
    saved(other)
    more = ("--dataset", "digits", "--checkpoint", "weights.pt", "--n", 2, *SHORT)
    asz(capsys, "eval", "Demo2026Constant", *more, data=False)
    record = of_records("Demo2026Constant.custom", "results/digits/Linf")
    assert record["identity"]["sha256"] == identity_of(other).sha256


def test_a_folder_without_a_card_is_pushed_with_one(here, capsys, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", OWNER)
    load_model("Demo2026Constant", dataset="digits").save_pretrained("saved")
    asz(capsys, "describe", "saved", "--name", "Mine2026", data=False)
    assert "uploaded" in asz(capsys, "push", "saved", "org/mine", data=False)
    assert load_model("hf-hub:org/mine").entry.name == "Mine2026"
    card = Path(hf_hub_download("org/mine", "README.md")).read_text()
    assert 'load_model("hf-hub:org/mine")' in card


def test_what_asz_tune_made_is_pushed_with_its_figure_and_a_card_that_follows_describe(here, capsys, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", OWNER)
    tune = ("tune", "mix", "--std-model", "nets.py:make", "--rob-model", "nets.py:make", "--tune-on", "test:0:3")
    asz(capsys, *tune, "--form", "constant", "--robust", 0.1, "--iterations", 1, "--eps", 0)
    asz(capsys, "describe", "mix", "--name", "Mine2026", "--title", "Two in one", data=False)
    assert "Two in one" in Path("mix", "README.md").read_text()
    assert "uploaded" in asz(capsys, "push", "mix", "org/tuned", data=False)
    card = Path(hf_hub_download("org/tuned", "README.md")).read_text()
    assert "](front.png)" in card
    assert "Two in one" in card
    assert Path(hf_hub_download("org/tuned", "front.png")).stat().st_size > 1000
    assert json.loads(Path(hf_hub_download("org/tuned", "tuning.json")).read_text())["n"] == 3
    assert load_model("hf-hub:org/tuned").entry.name == "Mine2026"


def test_images_of_one_s_own_say_what_they_are(here, capsys):
    np.savez("data.npz", images=PIXELS, labels=np.array([0, 4, 1]))
    said = asz(capsys, "eval", "nets.py:five", "--dataset", "images-mine", "--eps", "1/255,2/255", *SHORT)
    assert "eps 2/255" in said
    (kept,) = Path("results", "images-mine", "Linf").glob("*.model.json")
    assert json.loads(kept.read_text())["num_classes"] == 5
