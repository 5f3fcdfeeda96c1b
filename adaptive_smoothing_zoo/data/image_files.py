"""Images that users have on disk: an .npz file, or a folder with one sub-folder of images per class."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch

from adaptive_smoothing_zoo.data.examples import Examples, are_the_first
from adaptive_smoothing_zoo.errors import reason


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Labelled image files, read on demand.

    Attributes:
        files: in the order of the examples.
        labels: one per file.
        read: takes a file; gives (H, W, channels) uint8 or uint16.
        folder: where they are, for messages.
        source, test_set_size, classes: as in ``Examples``.
    """

    files: Sequence[str]
    labels: Sequence[int]
    read: Callable[[str], np.ndarray]
    folder: Path
    source: str
    test_set_size: int | None = None
    classes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels are of, where that is known."""
        return len(self.classes) or None

    def __len__(self) -> int:
        return len(self.files)

    def at(self, places: range) -> Examples:
        """The examples at some places; no other file is read.

        Raises:
            ValueError: a file that cannot be read, or images that are not alike.
        """
        arrays = [self.read(self.files[i]) for i in places]
        for what, kinds in (("shapes", {array.shape for array in arrays}), ("depths", {a.dtype for a in arrays})):
            if len(kinds) > 1:
                listed = ", ".join(sorted(map(str, kinds))[:3])
                raise ValueError(f"the images in {self.folder} have different {what}: {listed}; save all of them alike")
        return Examples(
            images=to_float(np.stack(arrays)),
            labels=torch.tensor([self.labels[i] for i in places], dtype=torch.int64),
            source=self.source,
            test_set_size=self.test_set_size if are_the_first(places) else None,
            num_classes=self.num_classes,
            classes=self.classes,
        )


@dataclass(frozen=True, kw_only=True)
class ImageArray:
    """Labelled images of an .npz file, as they are stored.

    Attributes:
        pixels: (N, H, W, channels) uint8.
        labels: (N,) int64.
        source, num_classes, classes: as in ``Examples``.
    """

    pixels: np.ndarray
    labels: torch.Tensor
    source: str
    num_classes: int | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: range) -> Examples:
        """The examples at some places; no other image becomes float32, which takes four times the memory."""
        where = slice(places.start, places.stop, places.step)
        return Examples(
            images=to_float(self.pixels[where]),
            labels=self.labels[where],
            source=self.source,
            num_classes=self.num_classes,
            classes=self.classes,
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn system errors while reading the data in ``path`` into a ValueError that names it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence of ours
            raise
        raise ValueError(f"cannot read the data in {path}: {reason(error)}") from error


def read_npz(path: Path, name: str, places: str, *, gray: bool) -> ImageArray:
    """The images and labels of an .npz file, in its order.

    Args:
        name: of the data set.
        places: text for error messages about the accepted sources.
        gray: whether images (N, H, W) have one channel; else they are refused.
    """
    try:
        with ZipFile(path) as archive:  # NumPy reads what a damaged header says, which may end before the checksum
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} in it is damaged")
        with np.load(path, allow_pickle=False) as arrays:
            images, labels, names = arrays["images"], arrays["labels"], arrays.get("classes")
    except Exception as error:  # a damaged header makes NumPy's parser raise almost anything, SyntaxError included
        raise ValueError(f"{path} is not an .npz file with 'images' and 'labels': {reason(error)}; {places}") from error
    if images.dtype != np.uint8 or images.ndim not in ((3, 4) if gray else (4,)):
        shapes = ("(N, H, W) or " if gray else "") + "(N, H, W, channels)"
        raise ValueError(f"'images' in {path} must be uint8 of shape {shapes}, got {images.dtype} {images.shape}")
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise ValueError(
            f"'images' in {path} have shape {images.shape}, but channels come last; save images.transpose(0, 2, 3, 1)"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"'labels' in {path} must be one integer per image, got {labels.dtype} {labels.shape}")
    if len(labels) != (n := len(images)):
        raise ValueError(f"the {n} images need labels of shape ({n},), got {labels.shape}, in {path}")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise ValueError(f"'classes' in {path} must be one text per class, got {names.dtype} {names.shape}")
    return ImageArray(
        pixels=images if images.ndim == 4 else images[..., None],
        labels=torch.from_numpy(labels.astype(np.int64)),
        source=f"{name} images from the file {path.name}, in its order",
        num_classes=None if names is None else len(names),
        classes=() if names is None else tuple(map(str, names)),
    )


def is_image_folder(path: Path) -> bool:
    """Whether the sub-folders of ``path`` hold images; torchvision's own CIFAR folders do not."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folders = [f for f in path.iterdir() if f.is_dir() and not _is_clutter(f)] if path.is_dir() else []
    return any(file.suffix.lower() in IMG_EXTENSIONS for folder in folders for file in folder.iterdir())


def image_folder(path: Path, name: str, *, num_classes: int | None = None, gray: bool = False) -> ImageFiles:
    """The images of a folder with one sub-folder per class: one of each class in turn, by file name.

    So the first n images are of as many classes as there can be.

    Args:
        name: of the data set.
        num_classes: how many sub-folders there must be; any number if it is None.
        gray: whether the images have one channel; else gray ones get three equal channels.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    names = class_order([f.name for f in path.iterdir() if f.is_dir() and not _is_clutter(f)], str(path))
    if num_classes not in (None, len(names)):
        raise ValueError(f"{name} has {num_classes} classes, {path} has {len(names)} sub-folders of images")
    try:
        found = make_dataset(str(path), {name: i for i, name in enumerate(names)}, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:  # a sub-folder without images
        raise ValueError(f"{path} is not a folder of images by class: {error}") from error
    seen: defaultdict[int, Iterator[int]] = defaultdict(count)  # of a class, in the order of file names
    samples = sorted((next(seen[label]), label, file) for file, label in found)
    return ImageFiles(
        files=[file for _, _, file in samples],
        labels=[label for _, label, _ in samples],
        read=_read_gray if gray else read_image,
        folder=path,
        source=f"{name} images from the folder {path.name}, one of each class in turn, by file name",
        classes=tuple(names),
    )


def _is_clutter(folder: Path) -> bool:
    """Whether a sub-folder is no class but what systems leave behind: hidden ones, macOS's in archives."""
    return folder.name.startswith(".") or folder.name == "__MACOSX"


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


def read_image(file: str, prepare: Callable[[Any], Any] = lambda image: image) -> np.ndarray:
    """(H, W, 3) uint8, or uint16 if the file has 16 bits; gray in three equal channels.

    Args:
        prepare: what is done to the image, as PIL's, before its pixels are taken.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
            if image.mode in ("I", "F") and not deep:
                raise ValueError(f"pixels of the kind {image.mode!r} have no known range; save it with 8 or 16 bits")
            pixels = np.asarray(prepare(image if deep else image.convert("RGB")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # of damaged files
        raise ValueError(f"cannot read the image {file}: {reason(error)}") from error
    return np.repeat(pixels.astype(np.uint16)[:, :, None], 3, axis=2) if deep else pixels


def _read_gray(file: str) -> np.ndarray:
    """(H, W, 1); the file may hold three equal channels."""
    pixels = read_image(file)
    if (pixels != pixels[:, :, :1]).any():
        raise ValueError(f"the image {file} has colors, but those of the data set are gray; save it in gray")
    return pixels[:, :, :1]


def to_float(images: Any) -> torch.Tensor:
    """uint8 or uint16 (N, H, W, channels) -> float32 (N, channels, H, W) in [0, 1]."""
    most = np.iinfo(images.dtype).max
    if images.dtype == np.uint16:
        images = images.astype(np.float32)  # holds 16 bits exactly
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous().float().div_(most)
