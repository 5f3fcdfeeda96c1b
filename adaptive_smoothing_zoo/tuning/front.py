"""The Pareto front of mixes of two nets, clean accuracy against robustness, exact in alpha, from tables of logits.

For given logit maps, a mix classifies a clean image correctly for an interval of alphas, since its probabilities are
linear in alpha. It is robust at an image for any g if alpha * gap > 1 - alpha, where gap is the smallest probability
gap of h in the ball ([BAS24, Lemma 2]). Here gap is the smallest at the points that attacks on h found, so the robust
share is a lower bound on the share that is right at these points, not a certificate. Both are step functions of alpha
and are evaluated between their steps, without a grid of alphas.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from adaptive_smoothing_zoo.tuning.tables import Tables, gaps

NARROW = 1e-5
"""Two steps of alpha closer than this, in log-odds, are equal in float32."""

Maps = tuple[nn.Module, nn.Module]  # of g's and of h's logits


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One mix and its scores from the tables.

    Attributes:
        std_map, rob_map: of the logits of g and h.
        alpha: weight of h, in [0, 1].
        clean: share of the images that the mix classifies correctly, in [0, 1].
        robust: share classified correctly at the clean image and at every attacked point, for any g.
    """

    std_map: nn.Module
    rob_map: nn.Module
    alpha: float
    clean: float
    robust: float


@dataclass(frozen=True, kw_only=True)
class Front:
    """The candidates that no other beats in both clean accuracy and robustness.

    Attributes:
        candidates: from the most accurate to the most robust.
        looked_at: number of compared pairs of maps and alpha.
    """

    candidates: tuple[Candidate, ...]
    looked_at: int

    def with_clean(self, least: float) -> Candidate:
        """The most robust candidate whose clean accuracy is at least this.

        Raises:
            ValueError: there is none; the message says how close the front comes.
        """
        return self._best(lambda c: c.clean >= least, lambda c: c.robust, f"a clean accuracy of {least:.2%}", "clean")

    def with_robust(self, least: float) -> Candidate:
        """The most accurate candidate whose robust share is at least this; errors as ``with_clean``."""
        return self._best(lambda c: c.robust >= least, lambda c: c.clean, f"a robust share of {least:.2%}", "robust")

    def _best(
        self, fits: Callable[[Candidate], bool], rank: Callable[[Candidate], float], target: str, name: str
    ) -> Candidate:
        fitting = [candidate for candidate in self.candidates if fits(candidate)]
        if not fitting:
            nearest = max(getattr(candidate, name) for candidate in self.candidates)
            raise ValueError(f"no mix of these nets reaches {target}; the best is {nearest:.2%}")
        return max(fitting, key=rank)


def pareto_front(tables: Tables, maps: Iterable[Maps], on_map: Callable[[], object] = lambda: None) -> Front:
    """The best mixes over all these logit maps and every alpha in [0, 1].

    Args:
        maps: pairs of modules from logits (..., C) to logits.
        on_map: called after each pair.
    """
    return Steps.of(tables, maps, on_map).front()


@dataclass(frozen=True)
class Steps:
    """The alphas at which the verdicts on N images change, for M pairs of maps.

    Attributes:
        maps: the pairs.
        bounds: (M, 4, N) float64, see ``steps_of``.
    """

    maps: tuple[Maps, ...]
    bounds: Tensor

    @classmethod
    def of(cls, tables: Tables, maps: Iterable[Maps], on_map: Callable[[], object] = lambda: None) -> Steps:
        """From the tables, on all cores; arguments as for ``pareto_front``."""
        pairs, bounds = tuple(maps), []
        if not pairs:
            raise ValueError("there are no logit maps to choose from")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for found in pool.map(lambda pair: steps_of(tables, *pair), pairs):
                bounds.append(found)
                on_map()
        return cls(pairs, torch.stack(bounds))

    def where(self, wanted: Callable[[Maps], bool]) -> Steps:
        """The steps of some pairs."""
        chosen = [i for i, pair in enumerate(self.maps) if wanted(pair)]
        return Steps(tuple(self.maps[i] for i in chosen), self.bounds[chosen])

    def front(self, rows: Tensor | None = None) -> Front:
        """The best mixes for these images, (n,) int64; for all if None."""
        return self.fronts({"": lambda maps: True}, rows)[""]

    def fronts(self, groups: Mapping[str, Callable[[Maps], bool]], rows: Tensor | None = None) -> dict[str, Front]:
        """The same for groups of the pairs, by name. A group without pairs has no front and is left out."""
        bounds = self.bounds if rows is None else self.bounds[..., rows]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            curves = list(pool.map(alpha_curve, bounds))
        members = {name: [i for i, pair in enumerate(self.maps) if wanted(pair)] for name, wanted in groups.items()}
        return {name: self._front(curves, chosen) for name, chosen in members.items() if chosen}

    def _front(self, curves: Sequence[Tensor], chosen: Sequence[int]) -> Front:
        """The front of the chosen pairs, from the curves of all, see ``alpha_curve``."""
        apart = [curves[i][:, curves[i][3] > NARROW] for i in chosen]
        kept = [curve[:, undominated(curve[1], curve[2], curve[3])] for curve in apart]
        every = torch.cat(kept, dim=1)
        owner = torch.cat([torch.full((curve.shape[1],), i) for i, curve in zip(chosen, kept, strict=True)])
        best = undominated(every[1], every[2], every[3])
        candidates = [
            Candidate(std_map=self.maps[i][0], rob_map=self.maps[i][1], alpha=alpha, clean=clean, robust=robust)
            for i, (alpha, clean, robust) in zip(owner[best].tolist(), every[:3, best].T.tolist(), strict=True)
        ]
        return Front(candidates=tuple(candidates), looked_at=sum(curves[i].shape[1] for i in chosen))

    def halves_in_turn(self, choose: Callable[[Front, Tensor], Candidate]) -> tuple[float, float]:
        """Two-fold cross-validated clean accuracy and robust share: choose on every other image, count on the rest,
        average both ways. Unlike the numbers on the choosing images, these are not biased by the choice.

        Args:
            choose: from the front of some images, and which these are, (n,) int64.

        Raises:
            ValueError: as ``choose`` does.
        """
        rows = torch.arange(self.bounds.shape[-1])
        right = []
        for mine, others in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
            chosen = choose(self.front(mine), mine)
            pair = self.maps.index((chosen.std_map, chosen.rob_map))
            right.append(_right(self.bounds[pair][:, others], chosen.alpha))
        clean, robust = torch.cat(right, dim=1).double().mean(dim=1).tolist()
        return clean, robust


def front_of(candidates: Sequence[Candidate], looked_at: int) -> Front:
    """The front of some candidates."""
    clean, robust = (torch.tensor([getattr(c, name) for c in candidates]) for name in ("clean", "robust"))
    chosen = undominated(clean, robust, torch.zeros(len(candidates))).tolist()
    return Front(candidates=tuple(candidates[i] for i in chosen), looked_at=looked_at)


def alpha_curve(bounds: Tensor) -> Tensor:
    """(4, A) float64 from what ``steps_of`` gives: alphas in ascending order, one between any two steps; clean
    accuracy; robust share; how far apart the two steps are in log-odds, infinite for 0 and 1 themselves."""
    low, high, least = bounds[0], bounds[1], _least_alpha(bounds[2])
    steps = torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), low, high, least])
    steps = steps[(steps >= 0) & (steps <= 1)].unique()
    alphas = torch.cat([steps[:1], 0.5 * (steps[1:] + steps[:-1]), steps[-1:]])
    clean = _below(low, alphas) - torch.searchsorted(high.sort().values, alphas, right=True)
    width = nn.functional.pad(steps.logit().diff(), (1, 1), value=torch.inf)
    return torch.stack([alphas, clean.double() / len(low), _below(least, alphas).double() / len(low), width])


def scored(tables: Tables, maps: Maps, alpha: float) -> Candidate:
    """Score one mix from the tables."""
    clean, robust = _right(steps_of(tables, *maps), alpha).double().mean(dim=1).tolist()
    return Candidate(std_map=maps[0], rob_map=maps[1], alpha=alpha, clean=clean, robust=robust)


def _right(bounds: Tensor, alpha: float) -> Tensor:
    """(2, N) bool: clean image classified correctly; robust."""
    low, high, gap, _ = bounds
    return torch.stack([(low < alpha) & (alpha < high), _least_alpha(gap) < alpha])


def _least_alpha(gap: Tensor) -> Tensor:
    """The alpha above which a gap of h decides for any g [BAS24, Lemma 2]; infinite where h is wrong."""
    return torch.where(gap > 0, 1.0 / (1.0 + gap), torch.inf)


@torch.no_grad()
def steps_of(tables: Tables, std_map: nn.Module, rob_map: nn.Module) -> Tensor:
    """(4, N) float64, per image: the two ends of the interval of alphas that classify it correctly without attack; h's
    smallest gap, clean and attacked; the difference of h's two largest probabilities on the clean image."""
    std, everywhere = _probabilities(std_map, tables.std), _probabilities(rob_map, tables.everywhere)
    low, high = right_interval(std, everywhere[0], tables.labels)
    first, second = everywhere[0].topk(2, dim=-1).values.unbind(dim=-1)
    return torch.stack([low, high, gaps(everywhere, tables.labels).amin(dim=0), first - second])


def right_interval(std: Tensor, rob: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The open interval of alphas at which (1 - alpha) std + alpha rob is largest at the label, as two (N,) bounds.

    Bounds lie outside [0, 1] where an end of it belongs to the interval. An image without such alphas has (inf, inf).

    Args:
        std, rob: (N, C) probabilities in float64.
    """
    index = labels[:, None]
    std_lead, rob_lead = (probs.gather(1, index) - probs for probs in (std, rob))
    slope = rob_lead - std_lead
    root = torch.where(slope == 0, 0.0, -std_lead / slope)
    own = torch.zeros_like(std, dtype=torch.bool).scatter(1, index, True)
    low = torch.where((slope > 0) & ~own, root, -torch.inf).amax(dim=1)
    high = torch.where((slope < 0) & ~own, root, torch.inf).amin(dim=1)
    never = ((slope == 0) & (std_lead <= 0) & ~own).any(dim=1) | (low >= high)
    nothing = torch.full_like(low, torch.inf)
    return torch.where(never, nothing, low), torch.where(never, nothing, high)


def _probabilities(net_map: nn.Module, logits: Tensor) -> Tensor:
    return net_map(logits.double()).softmax(dim=-1)  # type: ignore[no-any-return]


def _below(bounds: Tensor, alphas: Tensor) -> Tensor:
    """The number of bounds below each alpha."""
    return torch.searchsorted(bounds.sort().values, alphas)


def undominated(clean: Tensor, robust: Tensor, width: Tensor) -> Tensor:
    """Indices of the undominated points, from high to low ``clean``; of equal points the one with the largest width,
    which is least sensitive to rounding and to other images."""
    order = np.lexsort((-width.numpy(), -robust.numpy(), -clean.numpy()))
    ranked = robust.numpy()[order]
    before = np.concatenate([[-1.0], np.maximum.accumulate(ranked)[:-1]])
    return torch.from_numpy(order[ranked > before])
