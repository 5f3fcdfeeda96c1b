"""``asz tune`` from two nets in a user's file to a triplet that loads without that file."""

import json
import re
import textwrap

import numpy as np
import pytest
import torch
from command_line import run
from hub_server import OWNER

from adaptive_smoothing_zoo import MixedClassifier, ThreatModel, load_model, tune
from adaptive_smoothing_zoo.cli.tune_commands import _usual_range
from adaptive_smoothing_zoo.data import load_data
from adaptive_smoothing_zoo.method.logit_maps import Scale
from adaptive_smoothing_zoo.tuning.best_mix import PUBLISHED, choose_mix
from adaptive_smoothing_zoo.tuning.forms import FORMS
from adaptive_smoothing_zoo.tuning.front import Candidate, Front, pareto_front, scored
from adaptive_smoothing_zoo.tuning.measure import GapAttack, measure_tables
from adaptive_smoothing_zoo.tuning.tables import Tables
from adaptive_smoothing_zoo.tuning.tune import Target, suspicion
from adaptive_smoothing_zoo.zoo.references import resolve

CODE = """
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    def _net(noise, flip):
        data = load_digits()
        images, labels = torch.tensor(data.images / 16).float(), torch.tensor(data.target)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        means = torch.stack([images[labels == c].mean(0).flatten() for c in range(10)])
        generator = torch.Generator().manual_seed(flip)
        with torch.no_grad():
            net[1].weight.copy_(noise * torch.randn(10, 64, generator=generator) + 4 * means)
            net[1].bias.copy_(-2 * (means**2).sum(1))
        return net

    def accurate():
        return _net(0.3, 1)

    def robust():
        return _net(0.0, 2)

    class Own(nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :10]

    def own():
        return Own()
"""


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(textwrap.dedent(CODE))
    return path


def arguments(code, out, *more):
    nets = ["--std-model", f"{code}:accurate", "--rob-model", f"{code}:robust", "--dataset", "digits", "--eps", "0.05"]
    return ["tune", str(out), *nets, "--tune-on", "test:60:160", "--iterations", "5", "--targets", "2", *more]


def test_without_a_range_the_held_out_split_of_a_small_data_set_is_taken_whole():
    assert _usual_range("digits") == f"validation:0:{len(load_data('digits', 'validation'))}"
    assert [_usual_range(name) for name in ("imagenet", "cifar10")] == ["validation:0:1000", "test:5000:6000"]


def test_without_a_radius_the_data_set_s_usual_one_is_taken_or_asked_for(code, tmp_path, capsys):
    given = arguments(code, tmp_path / "out")
    given[given.index("--eps") : given.index("--eps") + 2] = []
    status, _, said = run(capsys, *given)
    assert (status, "digits has no usual Linf radius; set one with --eps" in said) == (2, True)
    constant = """
        from torch import nn

        def accurate():
            net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
            net[1].weight.data.zero_()
            net[1].bias.data.copy_(-(net[1].bias.data.new_ones(10).cumsum(0)))
            return net

        robust = accurate
    """
    code.write_text(textwrap.dedent(constant))
    np.savez(tmp_path / "mnist.npz", images=np.zeros((8, 28, 28), np.uint8), labels=np.zeros(8, np.uint8))
    given[given.index("digits")], given[given.index("test:60:160")] = "mnist", "test:0:8"
    status, _, said = run(capsys, *given, "--data-dir", str(tmp_path / "mnist.npz"))
    assert status == 0, said[-600:]
    assert "eps 0.3, the usual Linf radius for mnist" in said
    assert json.loads((tmp_path / "out" / "tuning.json").read_text())["eps"] == "0.3"


def test_a_triplet_comes_out_that_needs_no_code(code, tmp_path, capsys):
    out = tmp_path / "out"
    _, told, _ = run(capsys, *arguments(code, out, "--form", "scaled", "--robust", "0.9"))
    assert "chosen: alpha" in told
    record = json.loads((out / "tuning.json").read_text())
    assert (out / "front.png").stat().st_size > 1000
    assert "](front.png)" in (out / "README.md").read_text()
    images, labels = (each[60:160] for each in (load_data("digits").images, load_data("digits").labels))
    g, h = (resolve(f"{code}:{name}").net for name in ("accurate", "robust"))
    code.unlink()
    triplet = load_model(str(out))
    assert triplet.entry.chosen_on == "test:60:160"
    chosen = record["chosen"]
    maps = {name: chosen[name]["factor"] for name in ("std_map", "rob_map")}
    mix = MixedClassifier(g, h, chosen["alpha"], **maps)
    torch.testing.assert_close(triplet(images), mix.eval()(images))
    assert float((triplet(images).argmax(1) == labels).double().mean()) == pytest.approx(chosen["clean"], abs=0.011)
    assert chosen["clean"] == max(
        c["clean"] for c in record["fronts"]["scaled"] if c["robust"] >= 0.9 * record["rob_robust"]
    )


def test_an_evaluation_warns_of_images_that_chose_the_mix(code, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, *arguments(code, out, "--form", "constant", "--robust", "0.9"))
    evaluate = ["eval", str(out), "--out", str(tmp_path / "results"), "--attacks", "apgd-ce", "--iterations", "1"]
    assert "Warning" not in run(capsys, *evaluate, "--n", "60")[2]
    _, _, said = run(capsys, *evaluate, "--n", "64")
    assert "Warning: 4 of these images chose the mix (its entry says test:60:160)" in said
    (record,) = (tmp_path / "results").rglob("*.run.json")
    assert json.loads(record.read_text())["chosen_among"] == 4


def test_its_card_on_the_hub_says_how_it_was_tuned_and_loads_it(code, tmp_path, capsys, hub, monkeypatch):
    out = tmp_path / "out"
    run(capsys, *arguments(code, out, "--form", "constant", "--robust", "0.9"))
    triplet, chosen = load_model(str(out)), json.loads((out / "tuning.json").read_text())["chosen"]
    triplet.push_to_hub("org/mine", token=OWNER)
    card = hub.content("org/mine", "README.md").decode()
    assert f"on 100 images (digits test:60:160); there the mix has {chosen['clean']:.2%} clean" in card
    assert "alpha was chosen on 100 images (digits test:60:160). Accuracies on these images flatter" in card
    assert "nets.py:accurate + nets.py:robust" in (out / "config.json").read_text()
    assert str(tmp_path) not in card + (out / "config.json").read_text()
    code.unlink()
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    assert torch.equal(names["log_probabilities"], triplet(names["images"]))


def test_without_a_target_the_front_alone_is_written(code, tmp_path, capsys):
    out = tmp_path / "out"
    status, told, _ = run(capsys, *arguments(code, out, "--form", "constant"))
    assert status == 0
    assert "no triplet, since there is no target: add --clean or --robust" in told
    assert json.loads((out / "tuning.json").read_text())["chosen"] is None
    assert not (out / "config.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--clean", "0.9", "--robust", "0.9"], "not both"),
        (["--clean", "2"], r"\(0, 1\]"),
        (["--form", "linear"], "unknown form"),
        (["--search", "random"], "unknown search"),
        (["--form", "scaled", "--search", "published"], "form mixednuts, not scaled"),
        (["--tune-on", "test"], "SPLIT:FIRST:END"),
        (["--tune-on", "test:300:900"], "359 examples"),
        (["--tune-on", "test:90:90"], "SPLIT:FIRST:END"),
        (["--form", "constant", "--clean", "1.0"], "the best is"),
        (["--form", "constant", "--recipe", "r"], "--recipe has no effect with --form constant; omit it"),
        (["--form", "constant", "--set", "a=1"], "--set has no effect"),
        (["--form", "learned"], "--iterations has no effect with --form learned"),
        (["--clean", "0.9", "--name", "a.run"], "ends like a file of records"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(code, tmp_path, capsys, more, said):
    status, _, told = run(capsys, *arguments(code, tmp_path / "out", *more))
    assert status == 2
    assert re.search(said, told)


def test_code_that_no_entry_describes_is_refused(code, tmp_path, capsys):
    more = ["--std-model", f"{code}:own", "--form", "constant", "--robust", "0.5"]
    status, _, told = run(capsys, *arguments(code, tmp_path / "out", *more))
    assert status == 2
    assert "std_model cannot be saved: an entry cannot describe" in told
    assert "asz eval takes the mix as FILE.py:FUNCTION" in told
    assert not (tmp_path / "out").exists()  # before the attack, not after it
    assert run(capsys, *arguments(code, tmp_path / "out", *more[:-2]))[0] == 0  # the front alone


def test_the_best_form_comes_with_the_fronts_of_its_parts(code, tmp_path, capsys, monkeypatch):
    few = list(FORMS["mixednuts"]())[::97], list(FORMS["scaled"]())[::13]
    monkeypatch.setitem(FORMS, "best", lambda: iter([*few[1], *few[0]]))
    out = tmp_path / "out"
    _, told, _ = run(capsys, *arguments(code, out))
    fronts = json.loads((out / "tuning.json").read_text())["fronts"]
    assert list(fronts) == ["constant", "scaled", "mixednuts", "best", PUBLISHED]
    assert "| clean at least | constant | scaled | mixednuts | best |" in told
    points = {form: {(c["clean"], c["robust"]) for c in front} for form, front in fronts.items()}
    assert points["best"] <= points["scaled"] | points["mixednuts"]
    for form in ("scaled", "mixednuts"):
        assert {candidate["std_map"]["kind"] == "hard_max" for candidate in fronts[form]} == {form == "mixednuts"}
        for clean, robust in points[form]:
            assert any(c >= clean and r >= robust for c, r in points["best"])


@pytest.mark.parametrize("search", ["exact", "published"])
def test_in_python_the_mix_is_of_the_caller_s_own_nets(code, search, monkeypatch):
    few = list(FORMS["mixednuts"]())[::97]
    monkeypatch.setitem(FORMS, "mixednuts", lambda: iter(few))
    g, h = (resolve(f"{code}:{name}").net for name in ("accurate", "robust"))
    examples = load_data("digits").first(60)
    g.train()
    about = {"attack": GapAttack(iterations=3, targets=1), "form": "mixednuts", "search": search, "robust": 0.8}
    tuned = tune(g, h, examples.images, examples.labels, ThreatModel("Linf", 0.05), **about)
    assert tuned.model.std_model is g
    assert g.training
    assert tuned.chosen in tuned.fronts["mixednuts" if search == "exact" else PUBLISHED].candidates
    assert (tuned.halves is None) == (search == "published")
    right = tuned.model(examples.images).argmax(dim=1) == examples.labels
    assert float(right.double().mean()) == pytest.approx(tuned.chosen.clean, abs=1e-9)
    for theirs in tuned.fronts[PUBLISHED].candidates:  # on the same tables, ours is as good or better
        assert tuned.fronts["mixednuts"].with_robust(theirs.robust).clean >= theirs.clean


def test_a_mix_whose_g_hides_its_gradient_names_what_to_attack_instead(code, tmp_path, capsys, monkeypatch):
    few = list(FORMS["mixednuts"]())[::97]
    monkeypatch.setitem(FORMS, "mixednuts", lambda: iter(few))
    out = tmp_path / "out"
    assert run(capsys, *arguments(code, out, "--form", "mixednuts", "--robust", "0.8"))[0] == 0
    triplet, record = load_model(str(out)), json.loads((out / "tuning.json").read_text())
    plain = [c for c in record["fronts"]["constant"] if c["clean"] >= record["chosen"]["clean"]]
    expected = max(plain, key=lambda c: c["robust"]) if plain else record["fronts"]["constant"][0]
    assert triplet.entry.surrogate.alpha == expected["alpha"]
    images = load_data("digits").first(4).images.requires_grad_()
    log_std = triplet.std_model(images).log_softmax(1)
    (through_the_mix,) = torch.autograd.grad(triplet.std_map(log_std).sum(), images, retain_graph=True)
    assert not through_the_mix.any()
    assert triplet.surrogate()(images).sum().requires_grad
    assert "flatters" in (out / "README.md").read_text()


def test_the_suspicion_is_said(code):
    images = load_data("digits").images[:120]
    net = resolve(f"{code}:robust").net
    labels = net(images).argmax(dim=1)
    attack = GapAttack(iterations=1, targets=1)
    tables = measure_tables(net, net, images, labels, ThreatModel("Linf", 0.01), attack=attack)
    assert "all 120 images of test:0:120" in suspicion(tables, "test:0:120")
    front = pareto_front(tables, FORMS["constant"]())
    assert isinstance(front, Front)
    assert Target().choose(front, tables) is None
    chosen = Target(robust=0.5).choose(front, tables)
    assert scored(tables, next(FORMS["constant"]()), chosen.alpha).robust == chosen.robust


@pytest.mark.parametrize(
    ("dataset", "expected"), [("digits", "validation:0:359"), ("cifar10", "test:5000:6000"), ("own", "test:5000:6000")]
)
def test_the_images_that_are_tuned_on_if_nobody_says_exist(dataset, expected):
    assert _usual_range(dataset) == expected
    if dataset == "digits":
        assert len(load_data(dataset, "validation")) >= 359


def robust_where(right):
    """Tables of a g that is always right and of an h that is sure, and right there, whatever the attack."""
    rob = torch.where(torch.tensor(right)[:, None], torch.tensor([9.0, -9.0]), torch.tensor([-9.0, 9.0]))
    std = torch.tensor([5.0, 0.0]).expand(len(right), 2)
    return Tables(labels=torch.zeros(len(right), dtype=torch.int64), std=std, rob=rob, attacked=rob[None])


def test_each_half_keeps_a_share_of_its_own_robust_images():
    tables = robust_where([True, True, True, False, True, True, True, False])  # 4 of 4 in one half, 2 of 4 in the other
    _, chosen, halves = choose_mix(tables, Target(robust=1.0), "constant", "exact")
    assert chosen.robust == 0.75
    assert halves == (0.75, 0.75)


def test_a_share_that_is_just_kept_is_kept():
    tables = robust_where([True] * 40 + [False] * 60)
    some = Candidate(std_map=Scale(), rob_map=Scale(), alpha=0.6, clean=0.9, robust=0.36)
    front = Front(candidates=(some,), looked_at=1)
    assert Target(robust=0.9).reached(front, tables) is some  # 0.9 * 0.4 > 0.36 in floating point
    with pytest.raises(ValueError, match="robust share"):
        Target(robust=0.91).reached(front, tables)
