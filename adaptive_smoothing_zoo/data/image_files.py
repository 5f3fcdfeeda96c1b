"""Images that users have on disk: an .npz file, or a folder with one sub-folder of images per class."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adaptive_smoothing_zoo.data.data_set import DataSet
from adaptive_smoothing_zoo.data.examples import Examples
from adaptive_smoothing_zoo.errors import reason


def read_npz(path: Path, data_set: DataSet, places: str) -> Examples:
    """The images and labels of an .npz file, in its order; ``places`` says in a refusal what else could be given."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except Exception as error:  # a damaged header makes NumPy's parser raise almost anything, SyntaxError included
        raise ValueError(f"{path} is not an .npz file with 'images' and 'labels': {reason(error)}; {places}") from error
    gray = data_set.image_shape[0] == 1
    if images.dtype != np.uint8 or not (images.ndim == 4 or (gray and images.ndim == 3)):
        shapes = "(N, H, W) or (N, H, W, 1)" if gray else "(N, H, W, channels)"
        raise ValueError(f"'images' in {path} must be uint8 of shape {shapes}, got {images.dtype} {images.shape}")
    images = images if images.ndim == 4 else images[..., None]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"'labels' in {path} must be one integer per image, got {labels.dtype} {labels.shape}")
    return Examples(
        images=to_float(images),
        labels=torch.from_numpy(labels.astype(np.int64)),
        source=f"{data_set.name} images from the file {path.name}, in its order",
    )


def is_image_folder(path: Path) -> bool:
    """Whether the sub-folders of ``path`` hold images; torchvision's own CIFAR folders do not."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folders = [folder for folder in path.iterdir() if folder.is_dir()] if path.is_dir() else []
    return any(file.suffix.lower() in IMG_EXTENSIONS for folder in folders for file in folder.iterdir())


def read_image_folder(path: Path, data_set: DataSet) -> Examples:
    """The images of a folder with one sub-folder per class, by class and file name."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    names = class_order([folder.name for folder in path.iterdir() if folder.is_dir()], str(path))
    if len(names) != data_set.num_classes:
        raise ValueError(
            f"{data_set.name} has {data_set.num_classes} classes, {path} has {len(names)} sub-folders of images"
        )
    try:
        found = make_dataset(str(path), {name: i for i, name in enumerate(names)}, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:  # a sub-folder without images
        raise ValueError(f"{path} is no folder of images by class: {error}") from error
    samples = sorted(found, key=lambda sample: sample[1])  # stable: files stay in the order of their names
    read = _read_gray if data_set.image_shape[0] == 1 else _read_image
    arrays = [read(file) for file, _ in samples]
    for what, kinds in (("shapes", {array.shape for array in arrays}), ("depths", {array.dtype for array in arrays})):
        if len(kinds) > 1:
            listed = ", ".join(sorted(map(str, kinds))[:3])
            raise ValueError(f"the images in {path} have different {what}: {listed}; save all of them alike")
    return Examples(
        images=to_float(np.stack(arrays)),
        labels=torch.tensor([label for _, label in samples], dtype=torch.int64),
        source=f"{data_set.name} images from the folder {path.name}, by class and file name",
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


def _read_gray(file: str) -> np.ndarray:
    """(H, W, 1); the file may hold three equal channels."""
    pixels = _read_image(file)
    if (pixels != pixels[:, :, :1]).any():
        raise ValueError(f"the image {file} has colors, but those of the data set are gray; save it in gray")
    return pixels[:, :, :1]


def to_float(images: Any) -> torch.Tensor:
    """uint8 or uint16 (N, H, W, channels) -> float32 (N, channels, H, W) in [0, 1]."""
    most = np.iinfo(images.dtype).max
    if images.dtype == np.uint16:
        images = images.astype(np.float32)  # holds 16 bits exactly
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(most).contiguous()
