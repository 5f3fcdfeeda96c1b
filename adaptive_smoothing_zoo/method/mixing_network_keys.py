"""Published mixing networks (RobustBench's MixingNetV3 and MixingNetV4) under our keys."""

from collections.abc import Mapping

from torch import Tensor

from adaptive_smoothing_zoo.backbones.key_tables import rename

_BLOCK = r"layers\.(\d)\.(\d)\."

MIXING_NETWORK_KEYS = {
    _BLOCK + r"bn([12])\.(\w+)": r"mixing_network.groups.\1.\2.norm\3.\4",
    _BLOCK + r"conv([12])\.weight": r"mixing_network.groups.\1.\2.conv\3.weight",
    _BLOCK + r"shortcut\.0\.weight": r"mixing_network.groups.\1.\2.shortcut.weight",
    r"conv1x1\.weight": "mixing_network.project.weight",
    r"linear\.weight": "mixing_network.head.weight",
}
NORM_KEYS = {r"(running_mean|running_var|num_batches_tracked)": r"norm.\1"}


def from_foreign(network: Mapping[str, Tensor], norm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of an ``AdaptiveAlpha`` (:mod:`adaptive_smoothing_zoo.method.alpha`) from a published file's parts.

    Args:
        network: the mixing network's; the file's ``model``.
        norm: that of the batch norm behind it; the file's ``bn``.

    Raises:
        WeightsError: a key that such a network does not have.
    """
    return {
        **rename(network, MIXING_NETWORK_KEYS, "the mixing network"),
        **rename(norm, NORM_KEYS, "the batch norm behind the mixing network"),
    }
