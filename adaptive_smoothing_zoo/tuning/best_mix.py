"""``tune``: the best mix of two given nets, without training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.method.classifier import MixedClassifier
from adaptive_smoothing_zoo.threat import ThreatModel
from adaptive_smoothing_zoo.tuning.forms import FORMS, is_mixednuts
from adaptive_smoothing_zoo.tuning.front import Candidate, Front, Steps
from adaptive_smoothing_zoo.tuning.measure import GapAttack, measure_tables
from adaptive_smoothing_zoo.tuning.published_search import published_front
from adaptive_smoothing_zoo.tuning.tables import Tables
from adaptive_smoothing_zoo.tuning.tune import Target, known_form

Search = Literal["exact", "published"]
PUBLISHED = "mixednuts, published search"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What tuning found.

    Attributes:
        tables: what both nets answered.
        fronts: by form; "constant" is always there, to compare with.
        chosen: the best candidate for the target; None without a target.
        halves: clean accuracy and robust share where every other image chooses and the images in between are
            counted: numbers that did not choose, unlike those of ``chosen``. None without a target, for the published
            search, or where half of the images reach no target.
        model: the mix of the choice, made of the caller's own two nets as they are; None without a target.
    """

    tables: Tables
    fronts: dict[str, Front]
    chosen: Candidate | None
    halves: tuple[float, float] | None
    model: MixedClassifier | None


class MeasuringWords(TypedDict, total=False):
    """How the nets are asked."""

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

    h is attacked on its own gap; every mix is then scored from both nets' logits. The robust shares are lower bounds
    on the share that is right at the points which are kept of these attacks (``Tables.attacked``), on the images that
    chose the mix: report other images, attacked by ``evaluate``.

    Args:
        std_model, rob_model: g and h, any modules from images in [0, 1] to logits (N, C), of the same classes.
        images: (N, channels, H, W) float32 in [0, 1], which neither net was trained on.
        labels: (N,) int64.
        threat: the ball around each image.
        form: "constant" (alpha alone), "scaled" (and a scale on the logits of g and h), "mixednuts" (the maps of
            [BZPS24]) or "best" (of the last two).
        search: "exact", every map of the form with every alpha that matters; or "published", [BZPS24, Algorithm 1],
            for the form "mixednuts".
        clean: least clean accuracy, in (0, 1]; of what reaches it the most robust mix is taken.
        robust: least share of h's robust images that the mix keeps, in (0, 1]; give one of both, or none.
        attack: on h; 50 steps toward 3 classes if None.
        device: where to compute; "cuda" if there is one and else "cpu" if None.
        state: a folder in which finished batches are kept, so that the same call resumes.
        on_progress: called after each batch with the number of images that are done.

    Raises:
        ValueError: data, form, search or target that cannot be; nets of different classes; a target that no mix
            reaches, with how near the front comes.
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
    """Raise ValueError for a form or a search that there is not."""
    known_form(form)
    if search not in ("exact", "published"):
        raise ValueError(f"unknown search {search!r}; known: exact, published")
    if search == "published" and form != "mixednuts":
        raise ValueError(f"the published search is for the form mixednuts, not {form}")


def choose_mix(
    tables: Tables, target: Target, form: str, search: str, on_map: Callable[[], object] = lambda: None
) -> tuple[dict[str, Front], Candidate | None, tuple[float, float] | None]:
    """The fronts, the choice and its numbers on halves in turn, see :class:`Tuned`.

    Args:
        on_map: called after each pair of logit maps.
    """
    steps = {name: Steps.of(tables, FORMS[name](), on_map) for name in dict.fromkeys(("constant", form))}
    fronts = {name: each.front() for name, each in steps.items()}
    if form in ("mixednuts", "best"):
        fronts[PUBLISHED] = published_front(tables, steps[form].where(is_mixednuts))
    chosen = target.choose(fronts[PUBLISHED if search == "published" else form], tables)
    halves = None
    if chosen is not None and search == "exact":
        with suppress(ValueError):  # half of the images reach no target
            halves = steps[form].halves_in_turn(lambda front, rows: target.reached(front, tables.rows(rows)))
    return fronts, chosen, halves
