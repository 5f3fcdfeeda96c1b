"""Where examples come from: torchvision's CIFAR, scikit-learn's digits, an image folder, an .npz file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptive_smoothing_zoo.data.examples import Examples, check_examples
from adaptive_smoothing_zoo.errors import reason

NUM_CLASSES = {"cifar10": 10, "cifar100": 100, "digits": 10}
IMAGE_SHAPE = {"cifar10": (3, 32, 32), "cifar100": (3, 32, 32), "digits": (1, 8, 8)}
TEST_SET_SIZE = {"cifar10": 10_000, "cifar100": 10_000, "digits": 359}
DIGITS_SPLITS = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}  # index modulo 5


def load_data(dataset: str, split: str = "test", *, data_dir: str | Path | None = None) -> Examples:
    """Read a split of a data set.

    Args:
        dataset: "cifar10", "cifar100" or "digits".
        split: "test" or "train"; digits also have "validation".
        data_dir: for CIFAR, one of: the folder that holds, or shall hold, torchvision's copy (downloaded if it is
            not there; ``./data`` by default); a folder with one sub-folder of images per class, in the official order
            of the classes when sorted by name; an ``.npz`` file with ``images`` (uint8, N x H x W x channels) and
            ``labels``. Digits ship with scikit-learn and need none.

    Raises:
        ValueError: an unknown data set or split, or a source whose content does not fit the data set.
        FileNotFoundError: the ``.npz`` file does not exist.
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
        path = Path(data_dir or "data")
        if path.suffix == ".npz":
            examples = _npz(path, dataset)
        elif _is_image_folder(path):
            examples = _image_folder(path, dataset)
        else:
            examples = _torchvision(path, dataset, split)
    if tuple(examples.images.shape[1:]) != IMAGE_SHAPE[dataset]:
        raise ValueError(
            f"{dataset} images have shape {IMAGE_SHAPE[dataset]}, those of {examples.source} have "
            f"{tuple(examples.images.shape[1:])}"
        )
    check_examples(examples.images, examples.labels, NUM_CLASSES[dataset])
    return examples


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
    if not path.is_file():
        raise FileNotFoundError(f"there is no data file {path}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception as error:  # a damaged header makes NumPy's parser raise almost anything, SyntaxError included
        raise ValueError(f"{path} is not an .npz file with 'images' and 'labels': {reason(error)}") from error
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
    from torchvision.datasets import ImageFolder

    try:
        folder = ImageFolder(str(path))
    except FileNotFoundError as error:  # a sub-folder without images
        raise ValueError(f"{path} is no folder of images by class: {error}") from error
    if len(folder.classes) != NUM_CLASSES[dataset]:
        raise ValueError(
            f"{dataset} has {NUM_CLASSES[dataset]} classes, {path} has {len(folder.classes)} sub-folders of images"
        )
    arrays = []
    for file, _ in folder.samples:
        try:
            arrays.append(np.asarray(folder.loader(file).convert("RGB")))
        except (OSError, SyntaxError) as error:  # what PIL raises for damaged files
            raise ValueError(f"cannot read the image {file}: {error}") from error
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"the images in {path} have different shapes: {sorted(shapes)[:3]}")
    return Examples(
        images=_to_float(np.stack(arrays)),
        labels=torch.tensor(folder.targets, dtype=torch.int64),
        source=f"{dataset} images from the folder {path.name}, by class and file name",
    )


def _torchvision(path: Path, dataset: str, split: str) -> Examples:
    from torchvision import datasets

    make: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    try:
        data = make(str(path), train=split == "train", download=False)
    except RuntimeError:  # torchvision's word for "not there, or damaged"
        try:
            data = make(str(path), train=split == "train", download=True)
        except RuntimeError as error:
            raise ValueError(
                f"{dataset} in {path} is damaged, and downloading it again did not help: {error}"
            ) from error
    return Examples(
        images=_to_float(data.data),
        labels=torch.tensor(data.targets, dtype=torch.int64),
        source=f"{dataset} {split} set through torchvision, in the official order",
        test_set_size=TEST_SET_SIZE[dataset] if split == "test" else None,
    )


def _to_float(images: Any) -> torch.Tensor:
    """uint8 (N, H, W, channels) -> float32 (N, channels, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(255.0).contiguous()
