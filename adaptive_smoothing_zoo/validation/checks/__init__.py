"""The checks, one file per kind of question."""

# The modules enter their checks in the order of these imports; the later ones use what the earlier ones found.
from adaptive_smoothing_zoo.validation.checks import (  # noqa: F401  # isort: skip
    oracles,
    function,
    gradients,
    strength,
    growing_radii,
    parts,
    precisions,
    adversarials,
)
