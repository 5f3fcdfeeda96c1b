"""What users bring by mistake or habit: it works, or one sentence says what is wrong and what to do."""

import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from adaptive_smoothing_zoo import MixedClassifier, ThreatModel, certify, evaluate, load_model, tune
from adaptive_smoothing_zoo.attacks.settings import AttackSettings
from adaptive_smoothing_zoo.backbones.asking import Asked, asked
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.errors import ConfigError, EvaluationError, ResultsError, UnknownModelError, WeightsError
from adaptive_smoothing_zoo.tuning.measure import GapAttack
from adaptive_smoothing_zoo.zoo.references import Wanted, resolve

DIGITS = load_data("digits").first(12)
SHORT = AttackSettings(attacks=("apgd-ce",), batch_size=12).limited(iterations=2)
WANTED = Wanted(dataset="digits", threat_model="Linf", num_classes=10, checkpoint=None)


class Norm(nn.Module):
    def forward(self, images):
        return (images - 0.3) / 0.5


def a_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture
def nets():
    model = load_model("Demo2026Constant", dataset="digits")
    return model.std_model, model.rob_model


@pytest.mark.parametrize(
    ("std_model", "part"),
    [
        (nn.Sequential(Norm(), a_net()), "the code of std_model.0, a Norm"),
        (nn.Sequential(nn.Sequential(nn.Identity(), Norm()), a_net()), "the code of std_model.0.1, a Norm"),
        (nn.Sequential(a_net(), nn.Softmax(1), Norm()), "the code of std_model.1, a Softmax"),
    ],
)
def test_a_net_that_cannot_be_saved_is_refused_by_the_part_that_is_the_reason(std_model, part, tmp_path):
    with pytest.raises(ConfigError, match=part) as refused:
        MixedClassifier(std_model, a_net(), 0.5).save_pretrained(tmp_path, image_shape=(1, 8, 8))
    assert "Preprocessed(net, mean, std)" in str(refused.value)


@pytest.mark.parametrize("which", [0, 1])
def test_probabilities_in_place_of_logits_are_told_by_evaluate_and_refused_by_tune(nets, which):
    name, pair = ("std_model", "rob_model")[which], list(nets)
    pair[which] = nn.Sequential(pair[which], nn.Softmax(dim=1)).eval()
    said = f"{name} returns probabilities, where a mix takes logits"

    def told(mix):
        return evaluate(mix, DIGITS.images, DIGITS.labels, eps=0.1, settings=SHORT).warnings

    assert any(said in warning for warning in told(MixedClassifier(*pair, 0.8).eval()))
    pair[which] = nn.Sequential(nets[which], nn.LogSoftmax(dim=1)).eval()
    assert not any("probabilities" in warning for warning in told(MixedClassifier(*pair, 0.8).eval()))
    pair[which] = nn.Sequential(nets[which], nn.Softmax(dim=1)).eval()
    threat, few = ThreatModel("Linf", 0.1), GapAttack(iterations=1, targets=1)
    with pytest.raises(ValueError, match=said):
        tune(*pair, DIGITS.images, DIGITS.labels, threat, form="constant", attack=few)


def test_a_compiled_model_is_evaluated_as_the_module_inside(nets):
    calls = []

    def backend(module, example):
        calls.append(example)
        return module.forward

    mix = MixedClassifier(*nets, 0.8).eval()
    found = evaluate(torch.compile(mix, backend=backend), DIGITS.images, DIGITS.labels, eps=0.1, settings=SHORT)
    plain = evaluate(mix, DIGITS.images, DIGITS.labels, eps=0.1, settings=SHORT)
    np.testing.assert_array_equal(found.robust, plain.robust)
    assert not calls
    assert asked(torch.compile(mix)) is mix
    hooked = torch.compile(a_net())
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    assert isinstance(asked(hooked), Asked)  # the hook belongs to the wrapper
    assert asked(hooked).model is hooked


def test_a_state_is_a_folder_of_its_own(nets, tmp_path):
    def run(state):
        return evaluate(nets[1], DIGITS.images, DIGITS.labels, eps=0.1, settings=SHORT, state=state)

    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"results.json is a file; name a folder, which need not exist"):
        run(tmp_path / "results.json")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ResultsError, match=r"holds thesis.tex and no state; name an empty or a new"):
        run(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty").robust_accuracy == run(tmp_path / "empty").robust_accuracy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; run git lfs pull there"),
        (b"something else", "damaged or another file; copy it again, or in a download cache delete it"),
    ],
)
def test_damaged_weights_of_a_folder_are_not_to_be_deleted(content, said, tmp_path):
    load_model("Demo2026Constant", dataset="digits").save_pretrained(tmp_path / "mix")
    (tmp_path / "mix" / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        load_model(str(tmp_path / "mix"))


def test_near_misses_of_references_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        textwrap.dedent("""
            from torch import nn

            def make():
                return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

            instance = make()
        """)
    )
    assert type(resolve("nets.py:instance", WANTED).net) is nn.Sequential
    with pytest.raises(UnknownModelError, match=r"it is a file: write nets.py:FUNCTION, a function in it that returns"):
        load_model("nets.py", dataset="digits")
    load_model("Demo2026Constant", dataset="digits").save_pretrained("mix")
    with pytest.raises(UnknownModelError, match="it is a file: name its folder"):
        load_model("mix/model.safetensors", dataset="digits")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, y: certify(lambda images: a_net()(images), x, y, sigma=0.25), "model must be a torch.nn.Module"),
        (lambda x, y: certify(a_net(), x, y), "give sigma, the noise's standard deviation"),
        (lambda x, y: certify(a_net(), x, y, sigma="0.25"), "sigma must be a number, got '0.25'"),
        (lambda x, y: evaluate(a_net(), x, y, threat="Linf"), "threat must be a ThreatModel"),
        (lambda x, y: evaluate(a_net(), x, y, threat=("Linf", 0.1)), "threat must be a ThreatModel"),
        (lambda x, y: tune(a_net(), a_net(), x, y, ("Linf", 0.1), form="constant"), "threat must be a ThreatModel"),
        (lambda x, y: evaluate(a_net(), x, y, eps=0.1, settings=["apgd-ce"]), "settings must be AttackSettings"),
        (lambda x, y: evaluate(a_net(), x, y, eps=0.1, settings=SHORT, batchsize=3), "unexpected keyword.*'batchsize'"),
        (lambda x, y: ThreatModel("Linf", None), "eps must be a number or a text such as '8/255', got None"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence(call, said):
    with pytest.raises(TypeError, match=said):
        call(DIGITS.images, DIGITS.labels)


def test_a_net_that_fails_for_its_number_formats_is_not_said_to_take_another_shape():
    net = a_net()
    net[1].register_buffer("shift", torch.zeros(10, dtype=torch.float64))
    net[1].forward = lambda images: torch.nn.functional.linear(images, net[1].weight, net[1].shift)
    with pytest.raises(EvaluationError, match=r"check the shape that it takes, and the number formats of its weights"):
        evaluate(net, DIGITS.images, DIGITS.labels, eps=0.1, settings=SHORT)


def test_what_systems_leave_in_image_folders_is_no_class(tmp_path):
    for name in ("cat", "dog", "__MACOSX", ".ipynb_checkpoints"):
        (tmp_path / name).mkdir()
        if name in ("cat", "dog"):
            Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
        else:
            (tmp_path / name / "._1.png").write_bytes(b"no image")
    found = load_data("images", data_dir=str(tmp_path))
    assert (len(found), found.num_classes) == (2, 2)
