"""The data sets by name, and the one way in which they are read and checked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adaptive_smoothing_zoo.data.examples import Examples, check_examples

DATA_SETS: dict[str, "DataSet"] = {}


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What the images of a data set are, and where they come from.

    Attributes:
        num_classes: labels are 0 to num_classes - 1.
        image_shape: (channels, H, W).
        test_set_size: number of examples in the official test set.
        splits: names of the splits; "test" is one of them.
        read: takes the data set, a split and the user's ``data_dir`` (None if not given); returns that split.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    test_set_size: int
    splits: tuple[str, ...] = ("train", "test")
    read: Callable[["DataSet", str, str | Path | None], Examples]


def add_data_set(data_set: DataSet) -> None:
    """Make a data set known under its name, in place of an older one of that name."""
    DATA_SETS[data_set.name] = data_set


def find_data_set(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(name, str) or name not in DATA_SETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(DATA_SETS))}")
    return DATA_SETS[name]


def load_data(dataset: str, split: str = "test", *, data_dir: str | Path | None = None) -> Examples:
    """Read a split of a data set.

    Args:
        dataset: "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn" or "digits".
        split: "test" or "train"; digits also have "validation".
        data_dir: one of: an existing folder that holds, or shall hold, torchvision's copy (downloaded if missing;
            ``./data`` by default, which is made); a folder with one sub-folder of images per class, in the official
            order of the classes when sorted by name, or by number if all names begin with one; an ``.npz`` file with
            ``images`` (uint8, N x H x W x channels, or N x H x W of gray images) and ``labels``. Digits ship with
            scikit-learn and need none.

    Raises:
        ValueError: an unknown data set or split, or a source that cannot be read or does not fit the data set.
        FileNotFoundError: ``data_dir`` does not exist; or the data are not there and cannot be downloaded.
        ModuleNotFoundError: digits without scikit-learn.
    """
    found = find_data_set(dataset)
    if split not in found.splits:
        raise ValueError(f"dataset {dataset!r} has the splits {', '.join(found.splits)}, not {split!r}")
    examples = found.read(found, split, data_dir)
    if (shape := tuple(examples.images.shape[1:])) != found.image_shape:
        raise ValueError(f"{dataset} images have shape {found.image_shape}, those of {examples.source} have {shape}")
    check_examples(examples.images, examples.labels, found.num_classes)
    return examples
