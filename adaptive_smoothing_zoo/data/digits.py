"""scikit-learn's handwritten digits."""

from pathlib import Path

import numpy as np
import torch

from adaptive_smoothing_zoo.data.data_set import DataSet, add_data_set
from adaptive_smoothing_zoo.data.examples import Examples

SPLITS = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}  # index modulo 5


def _read(data_set: DataSet, split: str, data_dir: str | Path | None) -> Examples:
    if data_dir is not None:
        raise ValueError("the digits data ship with scikit-learn; data_dir has no meaning for them")
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the digits data come with scikit-learn: pip install 'adaptive-smoothing-zoo[evaluation]'"
        ) from None
    digits = load_digits()
    chosen = np.isin(np.arange(len(digits.target)) % 5, SPLITS[split])
    return Examples(
        images=torch.tensor(digits.images[chosen] / 16.0, dtype=torch.float32).unsqueeze(1),
        labels=torch.tensor(digits.target[chosen], dtype=torch.int64),
        source=f"scikit-learn's handwritten digits, {split} split (index modulo 5 in {SPLITS[split]})",
        test_set_size=data_set.test_set_size if split == "test" else None,
    )


add_data_set(
    DataSet(name="digits", num_classes=10, image_shape=(1, 8, 8), test_set_size=359, splits=tuple(SPLITS), read=_read)
)
