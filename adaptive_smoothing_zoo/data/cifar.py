"""CIFAR-10 and CIFAR-100: torchvision's copy, or the user's own images."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from adaptive_smoothing_zoo.data.data_set import DataSet, add_data_set
from adaptive_smoothing_zoo.data.examples import Examples
from adaptive_smoothing_zoo.data.image_files import is_image_folder, read_image_folder, read_npz, to_float
from adaptive_smoothing_zoo.errors import reason

DEFAULT_FOLDER = Path("data")
PLACES = (
    "data_dir (--data-dir) takes an .npz file, a folder of images by class, or the folder of torchvision's copy of "
    "{name}, which must exist and may be empty"
)


def _read(data_set: DataSet, split: str, data_dir: str | Path | None) -> Examples:
    """The examples in a file or a folder, told apart by what it is."""
    path, places = Path(data_dir or DEFAULT_FOLDER), PLACES.format(name=data_set.name)
    try:
        if path.is_file():
            return read_npz(path, data_set, places)
        if not path.exists() and path != DEFAULT_FOLDER:
            raise FileNotFoundError(f"there is no data file or folder {path}; {places}")
        if is_image_folder(path):
            return read_image_folder(path, data_set)
        return _torchvision(path, data_set, split)
    except OSError as error:
        if error.errno is None:  # a sentence of ours
            raise
        raise ValueError(f"cannot read the data in {path}: {reason(error)}") from error


def _torchvision(path: Path, data_set: DataSet, split: str) -> Examples:
    from torchvision import datasets

    make: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data_set.name]
    existed = path.exists()
    try:
        data = make(str(path), train=split == "train", download=False)
    except RuntimeError:  # torchvision's word for "not there, or damaged"
        try:
            data = _download(make, path, data_set.name, split)
        finally:
            if not existed:
                with suppress(OSError):  # not empty, or never made
                    path.rmdir()
    return Examples(
        images=to_float(data.data),
        labels=torch.tensor(data.targets, dtype=torch.int64),
        source=f"{data_set.name} {split} set through torchvision, in the official order",
        test_set_size=data_set.test_set_size if split == "test" else None,
    )


def _download(make: Any, path: Path, dataset: str, split: str) -> Any:
    """torchvision's data set, from its archive if that lies in ``path``, else from its authors' server."""
    try:
        return make(str(path), train=split == "train", download=True)
    except RuntimeError as error:
        raise ValueError(f"{dataset} in {path} is damaged, and downloading it again did not help: {error}") from error
    except OSError as error:
        raise FileNotFoundError(
            f"{dataset} is neither in {path} (torchvision's folder {make.base_folder} or the archive {make.filename}) "
            f"nor can it be downloaded from {make.url} ({reason(error)}); put that archive into {path}, or name "
            "another source by data_dir (--data-dir): an .npz file, a folder of images by class, torchvision's folder"
        ) from error


for _name, _classes in (("cifar10", 10), ("cifar100", 100)):
    add_data_set(DataSet(name=_name, num_classes=_classes, image_shape=(3, 32, 32), test_set_size=10_000, read=_read))
