import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyautoattack.fab_projections import projection_l2, projection_linf
from scipy.optimize import linprog, minimize

from adaptive_smoothing_zoo.attacks.projections import project_on_hyperplane
from adaptive_smoothing_zoo.threat import ThreatModel

REFERENCE = {"Linf": projection_linf, "L2": projection_l2}


def _length(move, norm):
    return move.abs().amax(1) if norm == "Linf" else move.norm(dim=1)


def _cases(n, dim, dtype=torch.float64, reachable=True):
    generator = torch.Generator().manual_seed(dim)
    points = torch.rand(n, dim, generator=generator, dtype=dtype)
    points[: n // 3] = points[: n // 3].round()  # corners of the box
    normal = torch.randn(n, dim, generator=generator, dtype=dtype)
    normal[::4, ::2] = 0.0
    goal = torch.rand(n, dim, generator=generator, dtype=dtype)
    offset = (normal * goal).sum(1)
    return points, normal, offset if reachable else offset + 10.0 * normal.abs().sum(1)


@pytest.mark.parametrize("norm", REFERENCE)
@pytest.mark.parametrize("dim", [1, 5, 64, 3072])
def test_the_move_reaches_the_hyperplane_inside_the_box_and_is_as_short_as_the_references(norm, dim):
    points, normal, offset = _cases(60, dim)
    move = project_on_hyperplane(points, normal, offset, ThreatModel(norm, 1.0))
    ends = points + move
    assert float(ends.min()) >= -1e-12
    assert float(ends.max()) <= 1 + 1e-12
    torch.testing.assert_close((normal * ends).sum(1), offset, rtol=0, atol=1e-8 * dim)
    theirs = REFERENCE[norm](points.clone(), normal.clone(), offset.clone())
    torch.testing.assert_close(_length(move, norm), _length(theirs, norm), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("norm", REFERENCE)
def test_a_hyperplane_out_of_reach_gives_the_nearest_corner_as_in_the_reference(norm):
    points, normal, offset = _cases(40, 20, reachable=False)
    ends = points + project_on_hyperplane(points, normal, offset, ThreatModel(norm, 1.0))
    torch.testing.assert_close(torch.where(normal != 0, (normal > 0).double(), points), ends)


def test_linf_against_a_linear_program():
    points, normal, offset = _cases(12, 6)
    moves = project_on_hyperplane(points, normal, offset, ThreatModel("Linf", 1.0))
    for t, w, b, move in zip(points.numpy(), normal.numpy(), offset.numpy(), moves, strict=True):
        # Variables: the end z in [0, 1]^D and the length r, |z - t| <= r.
        eye = np.eye(6)
        bound = np.block([[eye, -np.ones((6, 1))], [-eye, -np.ones((6, 1))]])
        best = linprog(
            [0] * 6 + [1],
            A_ub=bound,
            b_ub=np.concatenate([t, -t]),
            A_eq=[[*w, 0]],
            b_eq=[b],
            bounds=[(0, 1)] * 6 + [(0, None)],
        )
        assert float(move.abs().max()) == pytest.approx(best.fun, abs=1e-7)


def test_l2_against_a_general_solver():
    points, normal, offset = _cases(12, 6)
    moves = project_on_hyperplane(points, normal, offset, ThreatModel("L2", 1.0))
    for t, w, b, move in zip(points.numpy(), normal.numpy(), offset.numpy(), moves, strict=True):
        best = minimize(
            lambda z, t=t: ((z - t) ** 2).sum(),
            t,
            jac=lambda z, t=t: 2 * (z - t),
            bounds=[(0, 1)] * 6,
            constraints=[{"type": "eq", "fun": lambda z, w=w, b=b: w @ z - b, "jac": lambda z, w=w: w}],
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert float(move.norm()) <= np.sqrt(best.fun) + 1e-6


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    spread=st.floats(0.0, 12.0),
    share=st.floats(0.0, 1.0 - 1e-6),
    norm=st.sampled_from(["Linf", "L2"]),
)
def test_gradients_of_all_scales_are_solved_within_the_steps_allowed(seed, spread, share, norm):
    # Coefficients over many powers of ten make for many kinks: the hardest case for Newton's method.
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.rand(3, 500, generator=generator, dtype=torch.float64) * spread - spread / 2
    normal = 10**exponents * torch.where(torch.rand(3, 500, generator=generator) < 0.5, -1.0, 1.0)
    points = torch.rand(3, 500, generator=generator, dtype=torch.float64)
    corner = (normal > 0).double()
    room = (normal * (corner - points)).sum(1)
    offset = (normal * points).sum(1) + share * room
    move = project_on_hyperplane(points, normal, offset, ThreatModel(norm, 1.0))
    error = ((normal * move).sum(1) - share * room).abs()
    assert bool((error <= 1e-6 * room + 1e-12 * normal.abs().sum(1)).all())
