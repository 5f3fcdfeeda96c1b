"""The folder with weights that a user names."""

from pathlib import Path

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.entry import Entry


def check_model_dir(model_dir: str | None, entry: Entry) -> None:
    """Check that the user's folder has the weights of the entry; ``load_model`` would fall back to other places.

    Raises:
        WeightsError: it has not.
    """
    from adaptive_smoothing_zoo.zoo.loading import has_weights
    from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE

    if model_dir is not None and not has_weights(Path(model_dir), entry):
        raise WeightsError(f"there is no {CONFIG_FILE} of {entry.key} in {model_dir}")
