"""Where examples come from: torchvision's CIFAR, scikit-learn's digits, an image folder, an .npz file."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptive_smoothing_zoo.data.examples import Examples, check_examples
from adaptive_smoothing_zoo.errors import reason

NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}
IMAGE_SHAPE = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "digits": (1, 8, 8)}
TEST_SET_SIZE = {"cifar10": 10_000, "cifar100": 10_000, "digits": 359}
DEFAULT_FOLDER = Path("data")
PLACES = (
    "data_dir (--data-dir) takes an .npz file, a folder of images by class, or the folder of torchvision's copy of "
    "{dataset}, which must exist and may be empty"
)
DIGITS_SPLITS = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}  # index modulo 5


def load_data(dataset: str, split: str = "test", *, data_dir: str | Path | None = None) -> Examples:
    """Read a split of a data set.

    Args:
        dataset: "cifar10", "cifar100" or "digits".
        split: "test" or "train"; digits also have "validation".
        data_dir: for CIFAR, one of: an existing folder that holds, or shall hold, torchvision's copy (downloaded if
            it is not there; ``./data`` by default, which is made); a folder with one sub-folder of images per class,
            in the official order of the classes when sorted by name, or by number if all names begin with one; an
            ``.npz`` file with ``images`` (uint8, N x H x W x channels) and ``labels``. Digits ship with scikit-learn
            and need none.

    Raises:
        ValueError: an unknown data set or split, or a source that cannot be read or does not fit the data set.
        FileNotFoundError: ``data_dir`` does not exist; or the data are not there and cannot be downloaded.
        ModuleNotFoundError: digits without scikit-learn.
    """
    if dataset not in NUM_CLASSES:
        raise ValueError(f"unknown dataset {dataset!r}; known: {', '.join(sorted(NUM_CLASSES))}")
    splits = ("train", "validation", "test") if dataset == "digits" else ("train", "test")
    if split not in splits:
        raise ValueError(f"dataset {dataset!r} has the splits {', '.join(splits)}, not {split!r}")
    if dataset == "digits":
        if data_dir is not None:
            raise ValueError("the digits data ship with scikit-learn; data_dir has no meaning for them")
        examples = _digits(split)
    else:
        examples = _from_disk(Path(data_dir or DEFAULT_FOLDER), dataset, split)
    if tuple(examples.images.shape[1:]) != IMAGE_SHAPE[dataset]:
        raise ValueError(
            f"{dataset} images have shape {IMAGE_SHAPE[dataset]}, those of {examples.source} have "
            f"{tuple(examples.images.shape[1:])}"
        )
    check_examples(examples.images, examples.labels, NUM_CLASSES[dataset])
    return examples


def _from_disk(path: Path, dataset: str, split: str) -> Examples:
    """The examples in a file or a folder, told apart by what it is."""
    try:
        if path.is_file():
            return _npz(path, dataset)
        if not path.exists() and path != DEFAULT_FOLDER:
            raise FileNotFoundError(f"there is no data file or folder {path}; {PLACES.format(dataset=dataset)}")
        if _is_image_folder(path):
            return _image_folder(path, dataset)
        return _torchvision(path, dataset, split)
    except OSError as error:
        if error.errno is None:  # a sentence of ours
            raise
        raise ValueError(f"cannot read the data in {path}: {reason(error)}") from error


def _digits(split: str) -> Examples:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the digits data come with scikit-learn: pip install 'adaptive-smoothing-zoo[evaluation]'"
        ) from None
    digits = load_digits()
    chosen = np.isin(np.arange(len(digits.target)) % 5, DIGITS_SPLITS[split])
    return Examples(
        images=torch.tensor(digits.images[chosen] / 16.0, dtype=torch.float32).unsqueeze(1),
        labels=torch.tensor(digits.target[chosen], dtype=torch.int64),
        source=f"scikit-learn's handwritten digits, {split} split (index modulo 5 in {DIGITS_SPLITS[split]})",
        test_set_size=TEST_SET_SIZE["digits"] if split == "test" else None,
    )


def _npz(path: Path, dataset: str) -> Examples:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception as error:  # a damaged header makes NumPy's parser raise almost anything, SyntaxError included
        raise ValueError(
            f"{path} is not an .npz file with 'images' and 'labels': {reason(error)}; {PLACES.format(dataset=dataset)}"
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"'images' in {path} must be uint8 of shape (N, H, W, channels), got {images.dtype} {images.shape}"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"'labels' in {path} must be one integer per image, got {labels.dtype} {labels.shape}")
    return Examples(
        images=_to_float(images),
        labels=torch.from_numpy(labels.astype(np.int64)),
        source=f"{dataset} images from the file {path.name}, in its order",
    )


def _is_image_folder(path: Path) -> bool:
    """Whether the sub-folders of ``path`` hold images; torchvision's own CIFAR folders do not."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not path.is_dir():
        return False
    return any(
        file.suffix.lower() in IMG_EXTENSIONS
        for folder in path.iterdir()
        if folder.is_dir()
        for file in folder.iterdir()
    )


def _image_folder(path: Path, dataset: str) -> Examples:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    names = class_order([folder.name for folder in path.iterdir() if folder.is_dir()], str(path))
    if len(names) != NUM_CLASSES[dataset]:
        raise ValueError(f"{dataset} has {NUM_CLASSES[dataset]} classes, {path} has {len(names)} sub-folders of images")
    try:
        found = make_dataset(str(path), {name: i for i, name in enumerate(names)}, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:  # a sub-folder without images
        raise ValueError(f"{path} is no folder of images by class: {error}") from error
    samples = sorted(found, key=lambda sample: sample[1])  # stable: files stay in the order of their names
    arrays = [_read_image(file) for file, _ in samples]
    for what, kinds in (("shapes", {array.shape for array in arrays}), ("depths", {array.dtype for array in arrays})):
        if len(kinds) > 1:
            listed = ", ".join(sorted(map(str, kinds))[:3])
            raise ValueError(f"the images in {path} have different {what}: {listed}; save all of them alike")
    return Examples(
        images=_to_float(np.stack(arrays)),
        labels=torch.tensor([label for _, label in samples], dtype=torch.int64),
        source=f"{dataset} images from the folder {path.name}, by class and file name",
    )


def class_order(names: list[str], where: str) -> list[str]:
    """The sub-folders of classes in the order of their labels: by number if all begin with one, else by name.

    Raises:
        ValueError: only some begin with a number, or two with the same, so that the order is not known.
    """
    numbers = {name: int(match[0]) for name in names if (match := re.match(r"[0-9]+", name))}
    if not numbers:
        return sorted(names)
    if unnumbered := sorted(set(names) - set(numbers)):
        raise ValueError(
            f"the sub-folders of {where} begin partly with numbers ({min(numbers)!r}) and partly not "
            f"({unnumbered[0]!r}), so the order of the classes is not known; number all of them or none"
        )
    ordered = sorted(names, key=lambda name: (numbers[name], name))
    for before, after in pairwise(ordered):
        if numbers[before] == numbers[after]:
            raise ValueError(
                f"the sub-folders {before!r} and {after!r} of {where} begin with the same number, so the order of the "
                "classes is not known; give each class a number of its own"
            )
    return ordered


def _read_image(file: str) -> np.ndarray:
    """(H, W, 3) uint8, or uint16 if the file has 16 bits; gray in three equal channels."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
            if image.mode in ("I", "F") and not deep:
                raise ValueError(f"pixels of the kind {image.mode!r} have no known range; save it with 8 or 16 bits")
            pixels = np.asarray(image if deep else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of damaged files
        raise ValueError(f"cannot read the image {file}: {reason(error)}") from error
    return np.repeat(pixels.astype(np.uint16)[:, :, None], 3, axis=2) if deep else pixels


def _torchvision(path: Path, dataset: str, split: str) -> Examples:
    from torchvision import datasets

    make: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    try:
        data = make(str(path), train=split == "train", download=False)
    except RuntimeError:  # torchvision's word for "not there, or damaged"
        with _no_empty_folder(path):
            data = _download(make, path, dataset, split)
    return Examples(
        images=_to_float(data.data),
        labels=torch.tensor(data.targets, dtype=torch.int64),
        source=f"{dataset} {split} set through torchvision, in the official order",
        test_set_size=TEST_SET_SIZE[dataset] if split == "test" else None,
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


@contextmanager
def _no_empty_folder(path: Path) -> Iterator[None]:
    """Take the folder away again if the block made it and left it empty."""
    existed = path.exists()
    try:
        yield
    finally:
        if not existed:
            with suppress(OSError):  # not empty, or never made
                path.rmdir()


def _to_float(images: Any) -> torch.Tensor:
    """uint8 or uint16 (N, H, W, channels) -> float32 (N, channels, H, W) in [0, 1]."""
    most = np.iinfo(images.dtype).max
    if images.dtype == np.uint16:
        images = images.astype(np.float32)  # holds 16 bits exactly
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(most).contiguous()
