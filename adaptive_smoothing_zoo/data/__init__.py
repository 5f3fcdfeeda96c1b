"""Data sets as tensors. A further data set is one file here, and one line that imports it below."""

from adaptive_smoothing_zoo.data import digits as digits
from adaptive_smoothing_zoo.data import imagenet as imagenet
from adaptive_smoothing_zoo.data import torchvision_sets as torchvision_sets
from adaptive_smoothing_zoo.data.data_set import (
    DATA_SETS,
    DataSet,
    add_data_set,
    count_data,
    find_data_set,
    kind_of,
    load_data,
)
from adaptive_smoothing_zoo.data.examples import Examples, check_examples

__all__ = [
    "DATA_SETS",
    "DataSet",
    "Examples",
    "add_data_set",
    "check_examples",
    "count_data",
    "find_data_set",
    "kind_of",
    "load_data",
]
