"""ImageNet by RobustBench's protocol: 5,000 of the validation images, at 224 pixels."""

import importlib.util
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.data.data_set import DEFAULT_FOLDER, DataSet, add_data_set
from adaptive_smoothing_zoo.data.image_files import ImageArray, ImageFiles, read_image, read_npz, reading

PLACES = (
    "data_dir (--data-dir) takes the folder that holds ImageNet's validation images as val/<class>/<image>.JPEG, or an "
    ".npz file"
)
USUAL = "Res256Crop224"


@dataclass(frozen=True)
class Preprocessing:
    """From a file's image to pixels: ``size`` as torchvision's Resize takes it (None: as it is), then a square crop."""

    size: int | tuple[int, int] | None
    interpolation: str
    crop: int

    @property
    def transform(self) -> Callable[[Any], Any]:
        """The same for an image of PIL."""
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

        resize = [] if self.size is None else [Resize(self.size, InterpolationMode(self.interpolation))]
        made: Callable[[Any], Any] = Compose([*resize, CenterCrop(self.crop)])
        return made

    @property
    def crop_share(self) -> float:
        """Which share of the shorter side the crop keeps, where that is one number; else 1."""
        return self.crop / self.size if isinstance(self.size, int) else 1.0


PREPROCESSINGS = {  # as RobustBench calls them; the third is of its XCiTs, about which it asks timm
    USUAL: Preprocessing(256, "bilinear", 224),
    "BicubicRes256Crop224": Preprocessing(256, "bicubic", 224),
    "BicubicRes224Crop224": Preprocessing(224, "bicubic", 224),
    "Res224": Preprocessing((224, 224), "bilinear", 224),
    "Crop288": Preprocessing(None, "bilinear", 288),
}


def _prepared(data_set: DataSet, preprocessing: str) -> DataSet:
    if preprocessing not in PREPROCESSINGS:
        raise ValueError(f"ImageNet has no preprocessing {preprocessing!r}; known: {', '.join(PREPROCESSINGS)}")
    size = PREPROCESSINGS[preprocessing].crop
    return replace(data_set, image_shape=(3, size, size), read=partial(_read, preprocessing))


def _read(preprocessing: str, data_set: DataSet, split: str, data_dir: str | Path | None) -> ImageArray | ImageFiles:
    path = Path(data_dir or DEFAULT_FOLDER)
    with reading(path):
        if path.is_file():
            return read_npz(path, data_set.name, PLACES, gray=False)
        if not (path / "val").is_dir():
            raise FileNotFoundError(f"there is no folder {path / 'val'}; {PLACES}")
        return _validation_images(path / "val", preprocessing, data_set, split)


def _validation_images(folder: Path, preprocessing: str, data_set: DataSet, split: str) -> ImageFiles:
    """RobustBench's images, or the others; labels are those of its table of classes, whatever folders are there."""
    helpers = _helper_files()
    names = (helpers / "imagenet_test_image_ids.txt").read_text().split()
    labels = json.loads((helpers / "imagenet_class_to_id_map.json").read_text())
    if split == "test":
        which = f"of RobustBench's list, in its order ({preprocessing})"
    else:
        names = _others(folder, set(names), labels)
        which = f"outside RobustBench's list, by file name ({preprocessing})"
    return ImageFiles(
        files=[str(folder / name) for name in names],
        labels=[labels[name.partition("/")[0]] for name in names],
        read=partial(read_image, prepare=PREPROCESSINGS[preprocessing].transform),
        folder=folder,
        source=f"{data_set.name} validation images {which}",
        test_set_size=data_set.test_set_size if split == "test" else None,
    )


def _others(folder: Path, listed: set[str], classes: Iterable[str]) -> list[str]:
    """The images of the classes that are not listed, by file name, which mixes the classes."""
    found = {f"{name}/{file.name}" for name in classes for file in (folder / name).glob("*.JPEG")}
    if not found - listed:
        raise FileNotFoundError(f"{folder} holds no images outside RobustBench's list; {PLACES}")
    return sorted(found - listed, key=lambda name: name.partition("/")[2])


def _helper_files() -> Path:
    """The folder of the installed RobustBench that holds the list; nothing of it is imported."""
    spec = importlib.util.find_spec("robustbench")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "which of ImageNet's validation images are evaluated says a list that comes with RobustBench: "
            "pip install 'adaptive-smoothing-zoo[robustbench]'"
        )
    return Path(spec.origin).parent / "helper_files"


add_data_set(
    DataSet(
        name="imagenet",
        num_classes=1000,
        image_shape=(3, 224, 224),
        test_set_size=5000,
        splits=("test", "validation"),
        read=partial(_read, USUAL),
        prepare=_prepared,
    )
)
