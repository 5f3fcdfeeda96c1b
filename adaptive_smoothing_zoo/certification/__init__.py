"""What no attack can break: certified radii, the bounds behind them, and their logs."""

from adaptive_smoothing_zoo.certification.bounds import (
    betting_lower,
    betting_upper,
    clopper_pearson_lower,
    clopper_pearson_upper,
    empirical_bernstein_lower,
    empirical_bernstein_upper,
    split_failure_probability,
)
from adaptive_smoothing_zoo.certification.certify import CertifyProgress, certify
from adaptive_smoothing_zoo.certification.logs import ABSTAIN, Certificates, mix_certificates, read_log
from adaptive_smoothing_zoo.certification.mixes import certify_lipschitz, certify_mix
from adaptive_smoothing_zoo.certification.plots import certified_curve, plot_certified_curves
from adaptive_smoothing_zoo.certification.radii import (
    cohen_radius,
    gaussian_lipschitz,
    lipschitz_radius,
    margin_needed,
    sharp_smoothing_radius,
    smoothing_radius,
)

__all__ = [
    "ABSTAIN",
    "Certificates",
    "CertifyProgress",
    "betting_lower",
    "betting_upper",
    "certified_curve",
    "certify",
    "certify_lipschitz",
    "certify_mix",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "cohen_radius",
    "empirical_bernstein_lower",
    "empirical_bernstein_upper",
    "gaussian_lipschitz",
    "lipschitz_radius",
    "margin_needed",
    "mix_certificates",
    "plot_certified_curves",
    "read_log",
    "sharp_smoothing_radius",
    "smoothing_radius",
    "split_failure_probability",
]
