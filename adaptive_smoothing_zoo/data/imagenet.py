"""ImageNet by RobustBench's protocol: 5,000 of the validation images, at 224 pixels."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from adaptive_smoothing_zoo.data.data_set import DEFAULT_FOLDER, DataSet, add_data_set
from adaptive_smoothing_zoo.data.examples import Examples
from adaptive_smoothing_zoo.data.image_files import ImageFiles, read_image, read_npz, reading

PLACES = (
    "data_dir (--data-dir) takes the folder that holds ImageNet's validation images as val/<class>/<image>.JPEG, or an "
    ".npz file"
)
USUAL = "Res256Crop224"


def _preprocessings() -> dict[str, Callable[[Any], Any]]:
    """RobustBench's ways from a file's image to the pixels, by its names, without the last step to a tensor."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    return {
        USUAL: Compose([Resize(256), CenterCrop(224)]),
        "BicubicRes256Crop224": Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)]),
        "Res224": Resize([224, 224]),
        "Crop288": CenterCrop(288),
    }


def _prepared(data_set: DataSet, preprocessing: str) -> DataSet:
    if preprocessing not in (known := _preprocessings()):
        raise ValueError(f"ImageNet has no preprocessing {preprocessing!r}; known: {', '.join(known)}")
    size = 288 if preprocessing == "Crop288" else 224
    return replace(data_set, image_shape=(3, size, size), read=partial(_read, preprocessing))


def _read(preprocessing: str, data_set: DataSet, split: str, data_dir: str | Path | None) -> Examples | ImageFiles:
    path = Path(data_dir or DEFAULT_FOLDER)
    with reading(path):
        if path.is_file():
            return read_npz(path, data_set.name, PLACES, gray=False)
        if not (path / "val").is_dir():
            raise FileNotFoundError(f"there is no folder {path / 'val'}; {PLACES}")
        return _chosen_images(path, preprocessing, data_set)


def _chosen_images(path: Path, preprocessing: str, data_set: DataSet) -> ImageFiles:
    """RobustBench's images, by its list; labels are those of its table of classes, whatever folders are there."""
    helpers = _helper_files()
    chosen = (helpers / "imagenet_test_image_ids.txt").read_text().split()
    labels = json.loads((helpers / "imagenet_class_to_id_map.json").read_text())
    return ImageFiles(
        files=[str(path / "val" / name) for name in chosen],
        labels=[labels[name.partition("/")[0]] for name in chosen],
        read=partial(read_image, prepare=_preprocessings()[preprocessing]),
        folder=path / "val",
        source=f"{data_set.name} validation images of RobustBench's list, in its order ({preprocessing})",
        test_set_size=data_set.test_set_size,
    )


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
        splits=("test",),
        read=partial(_read, USUAL),
        prepare=_prepared,
    )
)
