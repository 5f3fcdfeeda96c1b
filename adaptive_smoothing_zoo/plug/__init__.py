"""Makes our models available in RobustBench and timm."""

import sys


def register() -> None:
    """Make ``robustbench.load_model`` and ``timm.create_model`` return the triplets of the zoo.

    Neither discovers plug-ins by itself: call this once. Repeated calls have no effect.

    - Every entry becomes a timm model, ``<name>_<dataset>_<threat>`` (lower case). RobustBench asks timm for such a
      name first, so its own ``load_model(name, dataset, threat_model)`` gives our module.
    - If no module ``autoattack`` is installed, RobustBench, which imports it, gets
      :mod:`adaptive_smoothing_zoo.zoo.stand_in`, made of pyautoattack. RobustBench itself is not imported.
    """
    from adaptive_smoothing_zoo.plug.timm_models import register_timm_models
    from adaptive_smoothing_zoo.zoo.robustbench import autoattack_shim

    register_timm_models()
    sys.modules |= autoattack_shim()
