"""The folder with weights that a user names."""

from pathlib import Path

from adaptive_smoothing_zoo.errors import WeightsError
from adaptive_smoothing_zoo.zoo.entry import Entry


def check_model_dir(model_dir: str | None, entry: Entry) -> None:
    """A folder that a user names must be the one that is used; ``load_model`` would look elsewhere.

    Raises:
        WeightsError: it has no weights of the entry.
    """
    from adaptive_smoothing_zoo.zoo.loading import has_weights
    from adaptive_smoothing_zoo.zoo.place import CONFIG_FILE

    if model_dir is not None and not has_weights(Path(model_dir), entry):
        raise WeightsError(f"there is no {CONFIG_FILE} of {entry.key} in {model_dir}")
