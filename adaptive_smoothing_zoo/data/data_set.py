"""The data sets by name, and the function that reads and checks them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from adaptive_smoothing_zoo.data.examples import Examples, check_examples, check_n
from adaptive_smoothing_zoo.data.own_images import NAMES, is_own, own_images

DATA_SETS: dict[str, "DataSet"] = {}
DEFAULT_FOLDER = Path("data")


class Readable(Protocol):
    """``Examples``, or something that reads those that it is asked for."""

    @property
    def source(self) -> str: ...

    def __len__(self) -> int: ...

    def at(self, places: range) -> Examples: ...


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set: shape and classes of its images, and how to read them.

    Attributes:
        num_classes: labels are 0 to num_classes - 1.
        image_shape: (channels, H, W).
        test_set_size: number of examples in the official test set.
        splits: names of the splits; "test" is one of them.
        read: takes the data set, a split and the user's ``data_dir`` (None if not given); returns that split.
        prepare: takes the data set and the name of a preprocessing; returns the data set of images made so. None if
            there is but one way to make them.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    test_set_size: int
    splits: tuple[str, ...] = ("train", "test")
    read: Callable[["DataSet", str, str | Path | None], Readable]
    prepare: Callable[["DataSet", str], "DataSet"] | None = None

    def prepared(self, preprocessing: str | None) -> "DataSet":
        """The data set of images that are made so from the original files; ValueError if it knows no such way."""
        if preprocessing is None:
            return self
        if self.prepare is None:
            raise ValueError(f"{self.name} images are as they are; they take no preprocessing {preprocessing!r}")
        return self.prepare(self, preprocessing)


def add_data_set(data_set: DataSet) -> None:
    """Make a data set known under its name, in place of an older one of that name."""
    DATA_SETS[data_set.name] = data_set


def find_data_set(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        ValueError: there is none.
    """
    if is_own(name):
        raise ValueError(f"{name!r} are images of the user's own, of which nothing is known before they are read")
    if not isinstance(name, str) or name not in DATA_SETS:
        known = ", ".join(sorted(DATA_SETS))
        raise ValueError(f"unknown dataset {name!r}; known: {known}; images of your own are called {NAMES}")
    return DATA_SETS[name]


def kind_of(name: str, data_dir: str | Path | None = None) -> tuple[tuple[int, int, int], int]:
    """The shape of a data set's images, (channels, H, W), and its number of classes.

    Args:
        data_dir: where images of the user's own are; nobody else knows what they are.

    Raises:
        ValueError, FileNotFoundError: there is no such data set, or nothing there that can be read.
    """
    if not is_own(name):
        found = find_data_set(name)
        return found.image_shape, found.num_classes
    examples = load_data(name, data_dir=data_dir, n=1)
    channels, height, width = examples.images.shape[1:]
    return (channels, height, width), examples.num_classes or 0


def load_data(
    dataset: str,
    split: str = "test",
    *,
    data_dir: str | Path | None = None,
    n: int | None = None,
    start: int = 0,
    skip: int = 1,
    preprocessing: str | None = None,
) -> Examples:
    """Read a split of a data set, or some of it.

    Args:
        dataset: "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "imagenet" or "digits"; or "images" or
            "images-NAME" for images of your own, of any size and number of classes.
        split: "test" or "train"; digits also have "validation". ImageNet has "test", RobustBench's 5,000 of the
            validation images in its order, and "validation", the others by file name. Images of your own are "test".
        data_dir: one of: an existing folder that holds, or shall hold, torchvision's copy (downloaded if missing;
            ``./data`` by default, which is made); a folder with one sub-folder of images per class, in the official
            order of the classes when sorted by name, or by number if all names begin with one; an ``.npz`` file with
            ``images`` (uint8, N x H x W x channels, or N x H x W of gray images) and ``labels``. Digits ship with
            scikit-learn and need none. ImageNet takes the folder that holds ``val/<class>/<image>.JPEG``, or an
            ``.npz`` file. Images of your own may lie in a folder by class or in an ``.npz`` file, which may also
            hold the names of the ``classes``.
        n: use only the first n examples; all if None. From image folders, only these are read.
        start, skip: take these n from every skip-th example, beginning at index ``start``.
        preprocessing: RobustBench's name of the preprocessing of ImageNet's files, by default "Res256Crop224".

    Raises:
        ValueError: an unknown data set, split or preprocessing, fewer examples than ``n``, no such ``start`` or
            ``skip``, or a source that cannot be read or does not fit the data set.
        FileNotFoundError: ``data_dir`` does not exist; or the data are not there and cannot be downloaded.
        ModuleNotFoundError: digits without scikit-learn, ImageNet's folder without RobustBench.
    """
    source = _source(dataset, split, data_dir, preprocessing)
    examples = source.at(_places(source, n, start, skip))
    if is_own(dataset):
        check_examples(examples.images, examples.labels, examples.num_classes)
        return replace(examples, source="; ".join([examples.source, *_told(examples)]))
    found = find_data_set(dataset).prepared(preprocessing)
    if (shape := tuple(examples.images.shape[1:])) != found.image_shape:
        raise ValueError(f"{dataset} images have shape {found.image_shape}, those of {examples.source} have {shape}")
    if examples.num_classes not in (None, found.num_classes):
        raise ValueError(f"{dataset} has {found.num_classes} classes, {examples.source} have {examples.num_classes}")
    check_examples(examples.images, examples.labels, found.num_classes)
    told = _told(examples, found.num_classes) if split == "test" else []
    return replace(examples, source="; ".join([examples.source, *told]), num_classes=found.num_classes)


def count_data(
    dataset: str, split: str = "test", *, data_dir: str | Path | None = None, preprocessing: str | None = None
) -> int:
    """The number of examples that ``load_data`` finds for the same arguments; from image folders, no image is read."""
    return len(_source(dataset, split, data_dir, preprocessing))


def _source(dataset: str, split: str, data_dir: str | Path | None, preprocessing: str | None) -> Readable:
    if is_own(dataset):
        if split != "test" or preprocessing is not None:
            raise ValueError(
                f"{dataset} are images of your own, as they are: they have the split 'test' and no preprocessing"
            )
        return own_images(dataset, data_dir)
    found = find_data_set(dataset).prepared(preprocessing)
    if split not in found.splits:
        raise ValueError(f"dataset {dataset!r} has the splits {', '.join(found.splits)}, not {split!r}")
    return found.read(found, split, data_dir)


def _places(source: Readable, n: int | None, start: int, skip: int) -> range:
    """The indices of the examples to read."""
    if skip < 1:
        raise ValueError(f"skip must be at least 1, got {skip}")
    if start and not 0 < start < len(source):
        raise ValueError(f"start must be an index of the {len(source)} examples of {source.source}, got {start}")
    places = range(start, len(source), skip)
    if n is not None:
        check_n(n, len(places), source.source + (f" from index {start} of {len(source)} examples on" if start else ""))
    return places[:n]


def _told(examples: Examples, num_classes: int = 0) -> list[str]:
    """What a reader must know of images that are not the official ones: copies among them, and classes without any."""
    if examples.test_set_size is not None:
        return []
    different = {sha256(image.numpy().tobytes()).digest() for image in examples.images}
    copies, classes = len(examples) - len(different), len(examples.labels.unique())
    told = [f"{copies} of these {len(examples)} are copies of others"] if copies else []
    return told + ([f"only {classes} of {num_classes} classes occur"] if classes < num_classes else [])
