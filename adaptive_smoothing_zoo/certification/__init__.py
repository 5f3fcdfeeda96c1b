"""Certified radii, the bounds behind them, and their logs."""

from adaptive_smoothing_zoo.certification.at_radius import certify_at_radius
from adaptive_smoothing_zoo.certification.bounds import BOUNDS, Bound, vote_needed
from adaptive_smoothing_zoo.certification.bounds.pairwise import (
    lipschitz_pair_radii,
    ranking_radius,
    smoothing_pair_radii,
    top_k_radius,
)
from adaptive_smoothing_zoo.certification.certify import certify
from adaptive_smoothing_zoo.certification.local_lipschitz import estimate_local_lipschitz
from adaptive_smoothing_zoo.certification.logs import Certificates, read_log
from adaptive_smoothing_zoo.certification.mixes import certify_lipschitz, certify_mix, mix_certificates
from adaptive_smoothing_zoo.certification.plots import CertifiedCurve, plot_certified_curves
from adaptive_smoothing_zoo.certification.predicting import predict_smoothed
from adaptive_smoothing_zoo.certification.running import CertifyProgress, Run
from adaptive_smoothing_zoo.certification.sampling import Sampling

__all__ = [
    "BOUNDS",
    "Bound",
    "Certificates",
    "CertifiedCurve",
    "CertifyProgress",
    "Run",
    "Sampling",
    "certify",
    "certify_at_radius",
    "certify_lipschitz",
    "certify_mix",
    "estimate_local_lipschitz",
    "lipschitz_pair_radii",
    "mix_certificates",
    "plot_certified_curves",
    "predict_smoothed",
    "ranking_radius",
    "read_log",
    "smoothing_pair_radii",
    "top_k_radius",
    "vote_needed",
]
