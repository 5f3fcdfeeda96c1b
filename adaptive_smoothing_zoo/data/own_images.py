"""Images of the user's own, of any size and number of classes: the data sets ``images`` and ``images-NAME``."""

import re
from dataclasses import replace
from pathlib import Path

from adaptive_smoothing_zoo.data.image_files import (
    ImageArray,
    ImageFiles,
    image_folder,
    is_image_folder,
    read_npz,
    reading,
)

NAMES = "'images' or 'images-NAME'"
PLACES = (
    "data_dir (--data-dir) takes a folder with one sub-folder of images per class, or an .npz file with 'images' and "
    "'labels' (and 'classes', their names)"
)
_LISTED = 20  # names of classes that a source tells


def is_own(dataset: str) -> bool:
    """Whether a data set of that name is whatever the user has in ``data_dir``."""
    return isinstance(dataset, str) and re.fullmatch("images(-[A-Za-z0-9_-]+)?", dataset) is not None


def own_images(dataset: str, data_dir: str | Path | None) -> ImageArray | ImageFiles:
    """The images of a file or a folder; what they are the data say, and nothing can be claimed on them.

    Raises:
        ValueError, FileNotFoundError: they are not there or cannot be read, or have fewer than two classes.
    """
    if data_dir is None:
        raise ValueError(f"{dataset} are images of your own: {PLACES}")
    path = Path(data_dir)
    with reading(path):
        if not path.exists():
            raise FileNotFoundError(f"there is no data file or folder {path}; {PLACES}")
        if path.is_file():
            found: ImageArray | ImageFiles = _of_file(path, dataset)
        elif is_image_folder(path):
            found = image_folder(path, dataset)
        else:
            raise ValueError(f"the sub-folders of {path} hold no images; {PLACES}")
    if found.num_classes is not None and found.num_classes < 2:
        raise ValueError(f"{found.source} have {found.num_classes} class; a classifier needs two at least")
    return replace(found, source=f"{found.source}; {_told(found)}")


def _of_file(path: Path, dataset: str) -> ImageArray:
    found = read_npz(path, dataset, PLACES, gray=True)
    if found.classes or not len(found):
        return found
    return replace(found, num_classes=int(found.labels.max()) + 1)


def _told(found: ImageArray | ImageFiles) -> str:
    """How many classes there are, and their first names."""
    names = ", ".join(f"{i} {name}" for i, name in enumerate(found.classes[:_LISTED]))
    more = ", ..." if len(found.classes) > _LISTED else ""
    return f"{found.num_classes} classes" + (f": {names}{more}" if names else "")
