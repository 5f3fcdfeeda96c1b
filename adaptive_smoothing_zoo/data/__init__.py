"""Data sets as tensors."""

from adaptive_smoothing_zoo.data.examples import Examples, check_examples
from adaptive_smoothing_zoo.data.sources import IMAGE_SHAPE, NUM_CLASSES, TEST_SET_SIZE, load_data

__all__ = ["IMAGE_SHAPE", "NUM_CLASSES", "TEST_SET_SIZE", "Examples", "check_examples", "load_data"]
