"""``tune``: the best mix of two given nets, without training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.tuning.forms import FORMS, PARTS, is_mixednuts
from adaptive_smoothing_zoo.tuning.front import Candidate, Front, Steps
from adaptive_smoothing_zoo.tuning.measure import GapAttack, measure_tables
from adaptive_smoothing_zoo.tuning.published_search import published_front
from adaptive_smoothing_zoo.tuning.tables import Tables
from adaptive_smoothing_zoo.tuning.tune import Target, known_form

Search = Literal["exact", "published"]
PUBLISHED = "mixednuts, published search"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The result of tuning.

    Attributes:
        tables: the outputs of both nets.
        fronts: by form, from the simplest; always contains "constant" for comparison, and the parts of "best".
        chosen: the best candidate for the target; None without a target.
        halves: clean accuracy and robust share by two-fold cross-validation: one half of the images chooses, the other
            is counted. Unlike those of ``chosen``, these numbers are not biased by the choice. None without a target,
            for the published search, or if no mix reaches the target on half of the images.
        model: the chosen mix of the caller's own two nets, unchanged; None without a target.
    """

    tables: Tables
    fronts: dict[str, Front]
    chosen: Candidate | None
    halves: tuple[float, float] | None
    model: MixedClassifier | None


class MeasuringWords(TypedDict, total=False):
    """Options of measuring the nets."""

    attack: GapAttack | None
    device: str | torch.device | None
    state: Path | None
    on_progress: Callable[[int], object] | None


def tune(
    std_model: nn.Module,
    rob_model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    form: str = "best",
    search: Search = "exact",
    clean: float | None = None,
    robust: float | None = None,
    **measuring: Unpack[MeasuringWords],
) -> Tuned:
    """Find the best constant-alpha mix of two nets on held-out images.

    h is attacked on its own gap; every mix is then scored from both nets' logits. The robust shares are lower bounds on
    the share that is right at the points kept of these attacks (``Tables.attacked``), on the images that chose the mix.
    Report results of ``evaluate`` on other images.

    Args:
        std_model, rob_model: g and h, any modules from images in [0, 1] to logits (N, C), of the same classes.
        images: (N, channels, H, W) float32 in [0, 1], which neither net was trained on.
        labels: (N,) int64.
        threat: the ball around each image.
        form: "constant" (alpha alone), "scaled" (and a scale on the logits of g and h), "mixednuts" (the maps of
            [BZPS24]) or "best" (of the last two).
        search: "exact", every map of the form with every relevant alpha; or "published", [BZPS24, Algorithm 1], for the
            form "mixednuts".
        clean: minimal clean accuracy, in (0, 1]; the most robust mix that reaches it is chosen.
        robust: minimal share of h's robust images that the mix keeps, in (0, 1]; give at most one of the two.
            Without either, the fronts are measured and nothing is ``chosen``.
        attack: on h; 50 steps toward 3 classes if None.
        device: where to compute; if None "cuda" when available, else "cpu".
        state: a folder for finished batches, from which the same call resumes.
        on_progress: called after each batch with the number of finished images.

    Raises:
        ValueError: invalid data, form, search or target; nets with different classes; a target that no mix reaches
            (the message says how close the front comes).
        ResultsError: the state belongs to other nets, images or settings, or is in use.
    """
    target = Target(clean=clean, robust=robust)
    check_search(form, search)
    tables = measure_tables(std_model, rob_model, images, labels, threat, **measuring)
    fronts, chosen, halves = choose_mix(tables, target, form, search)
    model = None
    if chosen is not None:
        maps = {"std_map": chosen.std_map, "rob_map": chosen.rob_map}
        model = MixedClassifier(std_model, rob_model, chosen.alpha, **maps)
    return Tuned(tables=tables, fronts=fronts, chosen=chosen, halves=halves, model=model)


def check_search(form: str, search: str) -> None:
    """Raise ValueError for an unknown form or search."""
    known_form(form)
    if search not in ("exact", "published"):
        raise ValueError(f"unknown search {search!r}; known: exact, published")
    if search == "published" and form != "mixednuts":
        raise ValueError(f"the published search is for the form mixednuts, not {form}")


def choose_mix(
    tables: Tables, target: Target, form: str, search: str, on_map: Callable[[], object] = lambda: None
) -> tuple[dict[str, Front], Candidate | None, tuple[float, float] | None]:
    """The fronts, the choice and its cross-validated numbers, see :class:`Tuned`.

    Args:
        on_map: called after each pair of logit maps.
    """
    steps = {name: Steps.of(tables, FORMS[name](), on_map) for name in dict.fromkeys(("constant", form))}
    fronts = {"constant": steps["constant"].front()} | steps[form].fronts(PARTS.get(form, {}) | {form: lambda _: True})
    if form in ("mixednuts", "best"):
        with nullcontext() if search == "published" else suppress(ValueError):  # it is only drawn
            fronts[PUBLISHED] = published_front(tables, steps[form].where(is_mixednuts))
    chosen = target.choose(fronts[PUBLISHED if search == "published" else form], tables)
    halves = None
    if chosen is not None and search == "exact":
        with suppress(ValueError):  # no mix reaches the target on half of the images
            halves = steps[form].halves_in_turn(lambda front, rows: target.reached(front, tables.rows(rows)))
    return fronts, chosen, halves
