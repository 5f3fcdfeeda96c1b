"""Nets of third parties from ``asz tune`` to a page: the whole way, on too few images to be believed."""

from pathlib import Path

import pytest
from command_line import run
from third_parties import NETS

from adaptive_smoothing_zoo import load_model

SHARED = NETS.parent
CODE = Path(__file__).parents[1] / "third_parties.py"
CIFAR10 = SHARED / "data" / "cifar10" / "cifar10_test_first846.npz"
MNIST = SHARED / "data" / "mnist" / "mnist_test.npz"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NETS.is_dir(), reason="the nets of third parties are not next to the project"),
]


@pytest.mark.parametrize(
    ("std_model", "rob_model", "dataset", "data", "eps"),
    [
        (f"{CODE}:resnet56", f"{CODE}:resnet4b", "cifar10", CIFAR10, "2/255"),
        (f"{CODE}:lenet", f"{CODE}:robust_lenet", "mnist", MNIST, "0.3"),
        ("base:pyautoattack_resnet18", "base:cifar10_resnet18_nfgsm", "cifar10", CIFAR10, "8/255"),
    ],
    ids=["resnet56", "lenet", "resnet18"],
)
def test_a_pair_is_tuned_evaluated_and_published(
    std_model, rob_model, dataset, data, eps, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)

    def asz(command, *arguments):
        code, out, err = run(capsys, command, *map(str, arguments))
        assert code == 0, err
        return out + err

    nets = ("--std-model", std_model, "--rob-model", rob_model, "--dataset", dataset, "--eps", eps)
    attack = ("--iterations", 3, "--targets", 1, "--data-dir", data)
    asz("tune", "mix", *nets, *attack, "--tune-on", "test:100:160", "--robust", 0.9, "--name", "Pair")
    on = ("--data-dir", data)
    asz("eval", "mix", *on, "--n", 4)
    asz("adapt", "mix", *on)
    asz("validate", "mix", *on, "--n", 4, "--only", "repeated_forward")
    asz("card", "mix", "--results", "results", "--out", "cards")
    (card,) = Path("cards").iterdir()
    assert "asz tune chose alpha" in card.read_text()
    asz("export", "mix", "exported")
    triplet = load_model("exported")
    assert triplet.entry.name == "Pair"
    assert triplet.entry.eps == eps
