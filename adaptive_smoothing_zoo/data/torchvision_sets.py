"""CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST and SVHN: torchvision's copy, or the user's own images."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptive_smoothing_zoo.data.data_set import DEFAULT_FOLDER, DataSet, add_data_set
from adaptive_smoothing_zoo.data.examples import Examples
from adaptive_smoothing_zoo.data.image_files import (
    ImageArray,
    ImageFiles,
    image_folder,
    is_image_folder,
    read_npz,
    reading,
    to_float,
)
from adaptive_smoothing_zoo.errors import reason

PLACES = (
    "data_dir (--data-dir) takes an .npz file, a folder of images by class, or the folder of torchvision's copy of "
    "{name}, which must exist and may be empty"
)


@dataclass(frozen=True, kw_only=True)
class Copy:
    """torchvision's copy of a data set.

    Attributes:
        name: of torchvision's class.
        address: where it downloads from.
        archives: the files that it downloads; "{split}" stands for the split.
        folder: where they lie in the user's folder.
        pixels: torchvision's array of images as (N, H, W, channels).
        by_name: the class takes ``split="test"``; else ``train=False``.
    """

    name: str
    address: str
    archives: tuple[str, ...]
    folder: str = "."
    pixels: Callable[[Tensor], Tensor] = lambda images: images
    by_name: bool = False

    def read(self, path: Path, split: str, *, download: bool) -> tuple[Tensor, Tensor]:
        """uint8 images (N, H, W, channels) and int64 labels (N,)."""
        from torchvision import datasets

        chosen: dict[str, Any] = {"split": split} if self.by_name else {"train": split == "train"}
        data = getattr(datasets, self.name)(str(path), download=download, **chosen)
        labels = data.labels if self.by_name else data.targets
        return self.pixels(torch.as_tensor(data.data)), torch.as_tensor(labels, dtype=torch.int64)


def _read(copy: Copy, data_set: DataSet, split: str, data_dir: str | Path | None) -> Examples | ImageArray | ImageFiles:
    """The examples in a file or a folder, told apart by what it is."""
    path, places = Path(data_dir or DEFAULT_FOLDER), PLACES.format(name=data_set.name)
    gray = data_set.image_shape[0] == 1
    with reading(path):
        if path.is_file():
            return read_npz(path, data_set.name, places, gray=gray)
        if not path.exists() and path != DEFAULT_FOLDER:
            raise FileNotFoundError(f"there is no data file or folder {path}; {places}")
        if is_image_folder(path):
            return image_folder(path, data_set.name, num_classes=data_set.num_classes, gray=gray)
        return _torchvision(copy, path, data_set, split)


def _torchvision(copy: Copy, path: Path, data_set: DataSet, split: str) -> Examples:
    existed = path.exists()
    try:
        images, labels = copy.read(path, split, download=False)
    except RuntimeError:  # torchvision's word for "not there, or damaged"
        try:
            images, labels = _download(copy, path, data_set.name, split)
        finally:
            if not existed:
                _remove_empty(path / copy.folder, path)
    except (AssertionError, LookupError, TypeError, ValueError) as error:  # of its parsers
        raise _damaged(path, data_set.name, error) from error
    return Examples(
        images=to_float(images.numpy()),
        labels=labels,
        source=f"{data_set.name} {split} set through torchvision, in the official order",
        test_set_size=data_set.test_set_size if split == "test" else None,
    )


def _download(copy: Copy, path: Path, dataset: str, split: str) -> tuple[Tensor, Tensor]:
    """torchvision's data set, from its archives if they lie in ``path``, else from its authors' server."""
    try:
        return copy.read(path, split, download=True)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("Error downloading"):
            raise _damaged(path, dataset, error) from error
        archives = ", ".join(copy.archives).format(split=split)
        raise FileNotFoundError(
            f"{dataset} is not in {path} and cannot be downloaded from {copy.address} ({reason(error)}); "
            f"put {archives} into {path / copy.folder}, or name another source by data_dir (--data-dir): an .npz file, "
            "a folder of images by class, torchvision's folder"
        ) from error


def _damaged(path: Path, dataset: str, error: Exception) -> ValueError:
    return ValueError(f"{dataset} in {path} is damaged: {reason(error)}; delete its files, so that they are made again")


def _remove_empty(inner: Path, outer: Path) -> None:
    """Remove the folders from ``inner`` up to ``outer`` that hold nothing."""
    for folder in (inner, *inner.parents):
        if folder.is_relative_to(outer):
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()


def _add(name: str, shape: tuple[int, int, int], copy: Copy, classes: int = 10, test_set_size: int = 10_000) -> None:
    add_data_set(
        DataSet(
            name=name,
            num_classes=classes,
            image_shape=shape,
            test_set_size=test_set_size,
            read=partial(_read, copy),
        )
    )


def _cifar(name: str, archive: str) -> Copy:
    return Copy(name=name, address="https://www.cs.toronto.edu/~kriz/", archives=(archive,))


def _mnist(name: str, address: str) -> Copy:
    archives = tuple(f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
    return Copy(
        name=name, address=address, archives=archives, folder=f"{name}/raw", pixels=lambda gray: gray.unsqueeze(3)
    )


_add("cifar10", (3, 32, 32), _cifar("CIFAR10", "cifar-10-python.tar.gz"))
_add("cifar100", (3, 32, 32), _cifar("CIFAR100", "cifar-100-python.tar.gz"), classes=100)
_add("mnist", (1, 28, 28), _mnist("MNIST", "https://ossci-datasets.s3.amazonaws.com/mnist/"))
_add(
    "fashion_mnist",
    (1, 28, 28),
    _mnist("FashionMNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
)
_add(
    "svhn",
    (3, 32, 32),
    Copy(
        name="SVHN",
        address="http://ufldl.stanford.edu/housenumbers/",
        archives=("{split}_32x32.mat",),
        pixels=lambda images: images.permute(0, 2, 3, 1),
        by_name=True,
    ),
    test_set_size=26_032,
)
