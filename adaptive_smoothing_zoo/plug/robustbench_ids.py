"""The Google Drive ids of RobustBench's model zoo, from RobustBench itself."""

from adaptive_smoothing_zoo.errors import WeightsError


def drive_ids(model: str, dataset: str, threat_model: str) -> list[str]:
    """The ids of a model's files, in RobustBench's order.

    Raises:
        WeightsError: RobustBench is not installed, or has no such model on Google Drive.
    """
    from adaptive_smoothing_zoo.plug import register

    register()  # RobustBench imports a module that the package index does not have
    try:
        from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel
        from robustbench.model_zoo.models import model_dicts
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"RobustBench knows where the files of {model} are: pip install 'adaptive-smoothing-zoo[robustbench]' "
            f"({error})"
        ) from error
    try:
        ids = model_dicts[BenchmarkDataset(dataset)][ThreatModel(threat_model)][model]["gdrive_id"]
    except (KeyError, ValueError):
        ids = None
    if not ids:
        raise WeightsError(f"RobustBench has no model {model!r} for {dataset} {threat_model} on Google Drive")
    return list(ids) if isinstance(ids, list) else [ids]
