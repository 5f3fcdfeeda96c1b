"""From two nets to a triplet: measure the tables, search the front, choose a mix, build the module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.method.logit_maps import HardMax
from adaptive_smoothing_zoo.storage.files import write_text
from adaptive_smoothing_zoo.storage.schema import to_json
from adaptive_smoothing_zoo.tuning.forms import FORMS
from adaptive_smoothing_zoo.tuning.front import Candidate, Front
from adaptive_smoothing_zoo.tuning.tables import Tables
from adaptive_smoothing_zoo.zoo.building import map_config
from adaptive_smoothing_zoo.zoo.entry import UNPUBLISHED, Paper, SurrogateConfig
from adaptive_smoothing_zoo.zoo.named import reference_with
from adaptive_smoothing_zoo.zoo.references import Resolved
from adaptive_smoothing_zoo.zoo.triplet import Triplet, with_entry

RECORD_FILE = "tuning.json"
ROUNDING = 1e-9  # 36 of 100 are 90 % of 40 of 100, though 0.9 * 0.4 > 0.36 in floating point
HIDDEN_GRADIENT = (
    "Through its hard maximum g gives no gradient, so AutoAttack's gradient attacks see h alone and the accuracy under "
    "AutoAttack flatters. Read the accuracy after `asz adapt`, which attacks g as well."
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The target of tuning; at most one of the two.

    Attributes:
        clean: minimal clean accuracy on the held-out images, in (0, 1].
        robust: minimal share of h's robust points that the mix keeps, in (0, 1].

    Raises:
        ValueError: both are given, or one is out of range.
    """

    clean: float | None = None
    robust: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.clean, self.robust) if value is not None]
        if len(given) > 1:
            raise ValueError("give a target of clean accuracy or of robustness, not both")
        if given and not 0.0 < given[0] <= 1.0:
            raise ValueError(f"a target must be a share in (0, 1], got {given[0]}")

    def choose(self, front: Front, tables: Tables) -> Candidate | None:
        """The candidate of a front that reaches the target; None without a target.

        Raises:
            ValueError: none does; the message says how close the front comes.
        """
        return None if self.clean is None and self.robust is None else self.reached(front, tables)

    def reached(self, front: Front, tables: Tables) -> Candidate:
        """The same for a given target."""
        if self.clean is not None:
            return front.with_clean(self.clean)
        assert self.robust is not None
        return front.with_robust(self.robust * tables.rob_robust - ROUNDING)


@dataclass(frozen=True, kw_only=True)
class Words:
    """The descriptive fields of a tuned triplet's entry.

    Attributes:
        name: letters, digits and ``_.+-``.
        dataset, threat_model, eps: as in entries.
        num_classes, image_shape: of the data.
        paper: address of the publication.
        additional_data: whether a net was trained on more than the data set's own training images; None if unknown.
        license: of the weights, as the Hub names licenses.
        tuned_on: the images on which alpha was chosen.
        chosen_on: the same as in entries, if they are the data set's own.
    """

    name: str
    dataset: str
    threat_model: str
    eps: str
    num_classes: int
    image_shape: tuple[int, int, int]
    paper: Paper = UNPUBLISHED
    additional_data: bool | None = None
    license: str = "other"
    tuned_on: str = "held-out images"
    chosen_on: str | None = None


def known_form(form: str) -> str:
    """The form; raises ValueError if it is unknown."""
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    return form


def tuned_triplet(
    std: Resolved, rob: Resolved, candidate: Candidate, words: Words, surrogate: SurrogateConfig | None = None
) -> Triplet:
    """The module of a candidate, with an entry that rebuilds it without the user's code. g and h are not copied.

    Args:
        surrogate: as ``surrogate_for`` gives it.

    Raises:
        ConfigError: an entry cannot describe one of the nets.
    """
    mix = MixedClassifier(std.net, rob.net, candidate.alpha, std_map=candidate.std_map, rob_map=candidate.rob_map)
    known = {key: value for key, value in vars(words).items() if key != "tuned_on"}
    g, h = (reference_with(net.reference, None) for net in (std, rob))
    triplet = with_entry(
        mix,
        **known,
        description=f"A mix of {g} and {h}, tuned on held-out images.",
        architecture=f"{g} + {h}",
        training=(
            f"g and h as they came. asz tune chose alpha and the logit maps on {words.tuned_on}; there the mix has "
            f"{candidate.clean:.2%} clean accuracy, and an attack on h leaves {candidate.robust:.2%} right whatever g "
            "says."
        ),
        surrogate=surrogate,
        limits=(chosen_there(words.tuned_on), *([] if surrogate is None else [HIDDEN_GRADIENT])),
    )
    return triplet.eval().requires_grad_(False)


def surrogate_for(candidate: Candidate, constants: Front) -> SurrogateConfig | None:
    """The surrogate for adapted attacks if g's hard maximum hides its gradient [BZPS24]; else None.

    Args:
        constants: the front of plain mixes; the surrogate uses the alpha of about the same clean accuracy.
    """
    if not isinstance(candidate.std_map, HardMax):
        return None
    plain = constants.with_clean(min(candidate.clean, constants.candidates[0].clean))
    return SurrogateConfig(name="mixednuts", alpha=plain.alpha)


def chosen_there(tuned_on: str) -> str:
    """The sentence of an entry about the images on which alpha was chosen."""
    return f"alpha was chosen on {tuned_on}. Accuracies on these images flatter: report others."


def write_record(
    folder: Path,
    fronts: Mapping[str, Front],
    chosen: Candidate | None,
    halves: tuple[float, float] | None,
    tables: Tables,
    about: dict[str, Any],
) -> None:
    """Write ``tuning.json``: the fronts, the choice, and the scores of g and h.

    Args:
        fronts, chosen, halves: see ``best_mix.Tuned``.
        about: JSON values that describe the images, the attack and the form.
    """
    document = {
        **about,
        "n": len(tables),
        "std_accuracy": tables.std_accuracy,
        "rob_accuracy": tables.rob_accuracy,
        "rob_robust": tables.rob_robust,
        "chosen": None if chosen is None else _as_json(chosen),
        "on_halves_in_turn": None if halves is None else dict(zip(("clean", "robust"), halves, strict=True)),
        "looked_at": {form: front.looked_at for form, front in fronts.items()},
        "fronts": {form: [_as_json(candidate) for candidate in front.candidates] for form, front in fronts.items()},
    }
    write_text(folder / RECORD_FILE, json.dumps(document, indent=2) + "\n")


def suspicion(tables: Tables, tuned_on: str) -> str:
    """A warning if g classifies every held-out image correctly, as if trained on them; else ""."""
    if tables.std_accuracy < 1.0 or len(tables) < 100:
        return ""
    return (
        f"g is right about all {len(tables)} images of {tuned_on}; if it was trained on them, the mix's clean accuracy "
        "is too optimistic and alpha too small: tune on images that neither net has seen"
    )


def _as_json(candidate: Candidate) -> dict[str, Any]:
    numbers = {name: getattr(candidate, name) for name in ("alpha", "clean", "robust")}
    return {**numbers, "std_map": _map(candidate.std_map), "rob_map": _map(candidate.rob_map)}


def _map(module: nn.Module) -> Any:
    return to_json(map_config(module))
