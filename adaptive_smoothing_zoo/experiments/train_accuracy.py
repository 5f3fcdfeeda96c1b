"""Accuracy of g and of h on training and on test images, clean and attacked [BAKS24, supp. B.1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptive_smoothing_zoo.data import Examples, count_data, load_data
from adaptive_smoothing_zoo.experiments.bench import Bench, Options, Table, check_apart
from adaptive_smoothing_zoo.experiments.experiment import Case, Experiment, markdown_table, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETS = {"std": "g", "rob": "h"}
SPLITS = ("train", "test")
PAPER = {"train": 0.9301, "test": 0.4555}  # of h under PGD-10


@dataclass(frozen=True, kw_only=True)
class SplitsTable(Table):
    """What was measured on test images and on as many training images, or on all of them if they are fewer.

    Attributes:
        training_n, training_data, training_data_sha256: number and source of the training examples, and their hash.
    """

    training_n: int
    training_data: str
    training_data_sha256: str

    def how(self) -> str:
        return f"{super().how()}; the training images are the first {self.training_n} of {self.training_data}"


@dataclass(frozen=True, kw_only=True)
class SplitsBench(Bench):
    """A triplet, test examples, and training examples.

    Attributes:
        train: examples of the training split.

    Raises:
        ResultsError: test examples are among the training examples.
    """

    train: Examples

    def __post_init__(self) -> None:
        check_apart(self.train, self.images)

    @classmethod
    def _arguments(cls, options: Options, steps: int) -> dict[str, Any]:
        made, entry = super()._arguments(options, steps), options.triplet.entry
        folder = options.train_data_dir or options.data_dir
        n = min(count_data(entry.dataset, "train", data_dir=folder), len(made["examples"]))
        return made | {"train": load_data(entry.dataset, "train", data_dir=folder, n=n)}

    def table(self, experiment: str) -> SplitsTable:
        return SplitsTable(
            **self._about(experiment),
            training_n=len(self.train),
            training_data=self.train.source,
            training_data_sha256=self.train.sha256,
        )

    def on(self, split: str) -> Bench:
        """The bench that attacks the examples of a split, "train" or "test"."""
        fields = ("model", "threat", "pgd", "seed", "batch_size", "device")
        return (
            Bench(examples=self.train, **{name: getattr(self, name) for name in fields}) if split == "train" else self
        )


class TrainAccuracy(Experiment[SplitsBench, SplitsTable]):
    name = "train-accuracy"
    question = "Is h as robust on test images as on training images?"
    paper = (
        "[BAKS24, supp. B.1]: no. The PGD-10 accuracy of the authors' robust ResNet-18 on CIFAR-10 is 93.01 % on "
        "training images and 45.55 % on test images. So the cross-entropy of the mix on training images says little "
        "about when to trust g, and the loss of the mixing network needs the binary cross-entropy of alpha."
    )
    values = ("clean", "attacked")
    bench, table = SplitsBench, SplitsTable
    steps = 10

    def cases(self) -> list[Case]:
        return [{"net": net, "split": split} for net in NETS for split in SPLITS]

    def measure(self, bench: SplitsBench, case: Case) -> dict[str, float]:
        """Clean and attacked accuracy of one net on the images of one split."""
        some, net = bench.on(case["split"]), bench.mix({"std": 0.0, "rob": 1.0}[case["net"]])
        return {"clean": some.accuracy(net, some.images), "attacked": some.accuracy(net, some.attack(net))}

    def draw(self, table: SplitsTable, figure: Figure) -> None:
        axes = figure.subplots()
        for offset, split in ((-0.2, "train"), (0.2, "test")):
            rows = [(row, name) for row in table.where(split=split) for name in self.values]
            heights = [100 * row[name] for row, name in rows]
            axes.bar([place + offset for place in range(len(rows))], heights, width=0.36, label=f"{split} images")
        names = [f"{NETS[row.case['net']]}, {name}" for row in table.where(split="test") for name in self.values]
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("accuracy, %")
        axes.legend()

    def summary(self, table: SplitsTable) -> str:
        rows = [
            (f"{NETS[row.case['net']]}, {row.case['split']}", f"{row['clean']:.2%}", f"{row['attacked']:.2%}")
            for row in table.rows
        ]
        gap, published = _drop(table), PAPER["train"] - PAPER["test"]
        return (
            f"{markdown_table(('net, images', 'clean', 'under PGD'), rows)}\n\nUnder PGD h is {100 * gap:.1f} points "
            f"less accurate on test images than on training images (published: {100 * published:.1f})."
        )

    def agreement(self, table: SplitsTable) -> str:
        """Is the difference larger than two standard errors, taken at accuracies of 1/2, where they are largest?"""
        error = 2 * (0.25 / table.n + 0.25 / table.training_n) ** 0.5
        claim = f"under PGD h is more accurate on training images by more than {100 * error:.1f} points"
        return verdict({claim: _drop(table) > error})


def _drop(table: SplitsTable) -> float:
    train, test = (table.row(net="rob", split=split)["attacked"] for split in SPLITS)
    return train - test


EXPERIMENT = TrainAccuracy()
