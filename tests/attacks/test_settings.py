"""Settings: what they take, what is standard, and that an attack of somebody else goes all the way."""

import json
import re
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from adaptive_smoothing_zoo import ThreatModel, cli, load_model
from adaptive_smoothing_zoo.attacks import catalogue
from adaptive_smoothing_zoo.attacks.catalogue import complete
from adaptive_smoothing_zoo.attacks.contract import Entry, register
from adaptive_smoothing_zoo.attacks.search import Search
from adaptive_smoothing_zoo.attacks.settings import STANDARD, STANDARD_ATTACKS, AttackSettings, Plan
from adaptive_smoothing_zoo.errors import ConfigError, ResultsError
from adaptive_smoothing_zoo.evaluation import evaluate
from adaptive_smoothing_zoo.storage.schema import parse, to_json

DOOR = Path(__file__).parents[2] / "docs" / "doors" / "attack.md"


@pytest.mark.parametrize(
    ("settings", "standard"),
    [
        ({}, True),
        ({"attacks": STANDARD_ATTACKS, "engine": "reference", "seed": 5, "batch_size": 3, "channels_last": True}, True),
        ({"attacks": STANDARD_ATTACKS[:3]}, False),
        ({"attacks": STANDARD_ATTACKS[::-1]}, False),
        ({"attacks": (*STANDARD_ATTACKS, "toy")}, False),
        ({"attacks": (Plan("apgd-ce", iterations=50), *STANDARD_ATTACKS[1:])}, False),
        ({"attacks": (*STANDARD_ATTACKS[:3], Plan("square", queries=9000))}, False),
        ({"search_precision": "float32"}, True),
        ({"search_precision": "tf32"}, True),  # as RobustBench's users search; float32 decides
        ({"search_precision": "bfloat16"}, False),
        ({"individual": True}, False),
        ({"begun_at": 0.1}, False),
        ({"aside": ("apgd-t",)}, False),
        ({"attacks": (Plan("apgd-ce", eot=2), *STANDARD_ATTACKS[1:])}, False),
        ({"attacks": (Plan("apgd-ce", eot=1), *STANDARD_ATTACKS[1:])}, True),
    ],
)
def test_what_is_standard_is_called_so_and_nothing_else_is(settings, standard):
    found = AttackSettings(**settings)
    assert found.is_standard == standard
    assert (found.protocol == "AutoAttack standard") == standard
    assert found.protocol.startswith("not standard: ") != standard
    assert parse(AttackSettings, json.loads(json.dumps(to_json(found))), "settings") == found


def test_numbers_apply_where_an_attack_has_them():
    short = STANDARD.limited(iterations=7, queries=20, targets=2)
    assert [plan.numbers for plan in short.attacks] == [
        {"iterations": 7, "restarts": 1, "eot": 1},
        {"iterations": 7, "targets": 2, "restarts": 1, "eot": 1},
        {"iterations": 7, "targets": 2},
        {"queries": 20},
    ]
    open_ = AttackSettings(attacks=("apgd-dlr", "fab", "apgd-p-mix"))
    with pytest.raises(ValueError, match="apgd-dlr has no numbers to limit yet; set them, as Plan"):
        open_.limited(iterations=3, restarts=4)
    assert open_.limited() == open_
    others = complete(open_).limited(iterations=3, restarts=4)
    assert [plan.numbers for plan in others.attacks] == [
        {"iterations": 3, "restarts": 4, "eot": 1},
        {"iterations": 3, "restarts": 4},
        {"iterations": 3, "restarts": 4},
    ]
    adaptive = complete(AttackSettings(attacks=("apgd-p-mix", Plan("apgd-t-pinned", targets=3))))
    assert [plan.numbers for plan in adaptive.attacks] == [
        {"iterations": 100, "restarts": 5},
        {"iterations": 100, "targets": 3},
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": ()}, "at least one attack"),
        ({"attacks": "apgd-ce"}, "a tuple of names or plans"),
        ({"attacks": ("square", "square")}, "square is named twice"),
        ({"attacks": ("../x",)}, "an attack's name has up to 40 of a-z"),
        ({"attacks": (3,)}, "an attack's name"),
        ({"engine": "magic"}, "unknown engine 'magic'; known: fast, reference"),
        ({"search_precision": "float16"}, "must be float32, tf32 or bfloat16"),
        ({"search_precision": "bfloat16", "engine": "reference"}, "searches in float32 or tf32, not in bfloat16"),
        ({"judge_precision": "tf32"}, "the judge computes in float32"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"begun_at": -0.1}, "the radius that attacks began from"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AttackSettings(**settings)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3"])
def test_numbers_of_a_plan_are_whole_and_positive(number):
    with pytest.raises(ValueError, match="iterations of apgd-ce must be an integer of at least 1"):
        Plan("apgd-ce", iterations=number)
    assert Plan("apgd-ce", iterations=np.int64(3)).iterations == 3


@pytest.mark.parametrize(
    ("plan", "message"),
    [(Plan("magic"), "unknown attack 'magic'; known: apgd-ce"), (Plan("fab-t", queries=3), "fab-t has no queries")],
)
def test_what_the_catalogue_does_not_have_is_refused(plan, message):
    images = torch.rand(2, 1, 6, 6)
    with pytest.raises(ValueError, match=message):
        evaluate(Net(), images, torch.zeros(2).long(), eps=0.1, settings=AttackSettings(attacks=(plan,)))


def test_settings_and_words_are_not_mixed_and_unknown_words_are_named():
    arguments = Net(), torch.rand(2, 1, 6, 6), torch.zeros(2).long()
    with pytest.raises(ValueError, match="give seed inside settings"):
        evaluate(*arguments, eps=0.1, settings=AttackSettings(), seed=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sead'"):
        evaluate(*arguments, eps=0.1, sead=3)
    with pytest.raises(ConfigError, match="unknown key 'x'"):
        parse(AttackSettings, {"x": 1}, "settings")


def test_every_file_that_registers_attacks_has_a_line_in_the_catalogue():
    room = Path(catalogue.__file__).parent
    registers = [path for path in room.rglob("*.py") if re.search(r"^ *@?register\(", path.read_text(), re.MULTILINE)]
    files = {".".join(path.relative_to(room).with_suffix("").parts) for path in registers}
    assert sorted(catalogue.ATTACK_FILES) == sorted(files)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 5))

    def forward(self, images):
        return 4 * self.layers(images)


@pytest.fixture
def toy():
    """The attack of the page, entered into the catalogue."""
    code, _ = re.findall(r"```python\n(.*?)```", DOOR.read_text(), re.DOTALL)
    assert len(code.splitlines()) < 40
    names = {"__name__": "toy"}
    exec(code, names)
    yield names["Toy"]
    del Entry.known["toy"]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_an_attack_that_is_one_file_is_evaluated_like_any_other(toy, norm, tmp_path):
    net, images = Net(), torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    labels, threat = net(images).argmax(1), ThreatModel(norm, {"Linf": 0.12, "L2": 0.6}[norm])
    settings = AttackSettings(attacks=("toy",), batch_size=7)
    found = evaluate(net, images, labels, threat=threat, settings=settings, state=tmp_path / "state")
    assert 0 < found.robust.sum() < 30
    assert set(found.broken_by) == {"toy", ""}
    assert found.settings.protocol == "not standard: toy iterations=20"
    other = evaluate(net, images, labels, threat=threat, settings=AttackSettings(attacks=("toy",), batch_size=30))
    np.testing.assert_array_equal(found.robust, other.robust)
    more = evaluate(net, images, labels, threat=threat, settings=AttackSettings(attacks=(Plan("toy", iterations=200),)))
    assert more.robust.sum() < found.robust.sum()


def test_the_command_attacks_with_it_records_it_as_not_standard_and_lists_it(toy, tmp_path, monkeypatch, capsys):
    def asz(*words):
        monkeypatch.setattr("sys.argv", ["asz", "eval", *words])
        with suppress(SystemExit):
            cli.main()
        return capsys.readouterr()

    triplet = ("Demo2026Constant", "--dataset", "digits", "--n", "6", "--out", str(tmp_path), "--device", "cpu")
    told = asz(*triplet, "--attacks", "apgd-ce,toy", "--iterations", "4", "--search-precision", "tf32")
    assert "after toy" in told.out
    assert "not standard: apgd-ce iterations=4 restarts=1; toy iterations=4" in told.err
    folder = tmp_path / "digits" / "Linf"
    names = ["Demo2026Constant.custom.examples.npz", "Demo2026Constant.custom.run.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    record = json.loads((folder / names[1]).read_text())
    assert record["protocol"].startswith("not standard: ")
    assert record["attacks"] == ["apgd-ce", "toy"]
    assert re.search(r"^toy +iterations=20$", asz("--list-attacks").out, re.MULTILINE)
    assert "unknown attack 'magic'; known: apgd-ce" in asz(*triplet, "--attacks", "magic").err


def test_shards_of_other_attacks_are_merged_under_their_own_name(tmp_path):
    triplet = ["Demo2026Constant", "--dataset", "digits", "--n", "4", "--out", str(tmp_path)]
    for i in range(2):
        words = ["eval", *triplet, "--device", "cpu", "--attacks", "apgd-ce", "--iterations", "2", "--shard", f"{i}/2"]
        CliRunner().invoke(cli.asz, words, catch_exceptions=False)
    words = ["merge", *triplet]
    other = load_model("Demo2026Constant", dataset="digits")
    next(other.parameters()).data += 0.1
    other.save_pretrained(tmp_path / "other")
    refused = (
        (["--eps", "0.01"], "the evaluation had Linf 0."),
        (["--model-dir", str(tmp_path / "other")], "belongs to the model"),
    )
    for wrong, message in refused:
        with pytest.raises(ResultsError, match=message):
            CliRunner().invoke(cli.asz, [*words, *wrong], catch_exceptions=False)
    told = CliRunner().invoke(cli.asz, words, catch_exceptions=False)
    assert "not standard: apgd-ce iterations=2 restarts=1" in told.output
    names = ["Demo2026Constant.custom.examples.npz", "Demo2026Constant.custom.run.json"]
    assert sorted(path.name for path in (tmp_path / "digits" / "Linf").iterdir()) == names


def test_a_name_belongs_to_one_attack(toy):
    with pytest.raises(ValueError, match=r"there is already an attack 'toy', toy\.Toy"):
        register("toy")(Search)
    with pytest.raises(ValueError, match=r"already an attack 'apgd-ce-pinned', .*make_adaptive"):
        register("apgd-ce-pinned")(partial(Search))
