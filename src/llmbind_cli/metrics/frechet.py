"""Fréchet distance of two normal distributions fitted to features (FID, arXiv 1706.08500).

d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½. The last trace is taken without a matrix root:

* Σ₁ = L Lᵀ: the sum of the roots of the eigenvalues of Lᵀ Σ₂ L, which is symmetric;
* one covariance is singular: the nuclear norm of F₂ᵀ F₁ with Σ = F Fᵀ from its eigenvectors;
* n ≤ D: the nuclear norm of the centred features themselves, X Yᵀ / √((n − 1)(m − 1)).

All in float64; in float32 the result is wrong in the third digit.

Notation: n and m samples, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_BLOCK = 256
_EPSILON = float(np.finfo(np.float64).eps)
_SMALLEST = float(np.finfo(np.float64).tiny)
_ACCURACY = 1e-8
"""Share of the trace that rounding may make up before the slower way is taken."""


def frechet_distance(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any) -> float:
    """Give the squared Fréchet distance of two normal distributions, as FID is defined.

    Args:
        mu1: Mean, [D]; numpy or torch on the CPU, taken as float64.
        sigma1: Covariance, [D, D], symmetric, positive semi-definite.
        mu2: Mean, [D].
        sigma2: Covariance, [D, D].

    Returns:
        At least 0.

    Raises:
        ValueError: Shapes do not fit, or a value is not finite.
    """
    mean1, mean2 = _finite(mu1, "mu1"), _finite(mu2, "mu2")
    covariance1, covariance2 = _finite(sigma1, "sigma1"), _finite(sigma2, "sigma2")
    width = mean1.shape[-1] if mean1.ndim == 1 else 0
    if mean2.shape != (width,) or {covariance1.shape, covariance2.shape} != {(width, width)}:
        raise ValueError(
            f"mu must be [D] and sigma [D, D], got {mean1.shape}, {covariance1.shape}, "
            f"{mean2.shape}, {covariance2.shape}"
        )
    spread = float(np.trace(covariance1) + np.trace(covariance2))
    return _distance(mean1, mean2, spread, _trace_of_root(covariance1, covariance2))


def frechet_distance_from_features(x: Any, y: Any) -> float:
    """Give the squared Fréchet distance of the normal distributions of two sets of features.

    Args:
        x: [n, D], numpy or torch on the CPU, taken as float64.
        y: [m, D].

    Returns:
        At least 0. The figure is biased: it falls as n and m grow (arXiv 1911.07023).

    Raises:
        ValueError: n or m is below 2, the widths differ, or a value is not finite.
    """
    first, second = _finite(x, "x"), _finite(y, "y")
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"x and y must be [n, D] and [m, D], got {first.shape}, {second.shape}")
    if min(len(first), len(second)) < 2:
        raise ValueError(
            f"a Fréchet distance needs at least 2 samples a side, got {len(first)} and "
            f"{len(second)}"
        )
    mean1, mean2 = first.mean(axis=0), second.mean(axis=0)
    factor1 = (first - mean1) / np.sqrt(len(first) - 1)  # Σ = Fᵀ F
    factor2 = (second - mean2) / np.sqrt(len(second) - 1)
    if min(len(first), len(second)) > first.shape[1]:
        return frechet_distance(mean1, factor1.T @ factor1, mean2, factor2.T @ factor2)
    spread = float(np.square(factor1).sum() + np.square(factor2).sum())
    trace = _nuclear_norm(_at_most_square(factor1) @ _at_most_square(factor2).T)
    return _distance(mean1, mean2, spread, trace)


def _distance(mean1: Array, mean2: Array, spread: float, trace_of_root: float) -> float:
    shift = mean1 - mean2
    # arXiv 1706.08500, Eq. (6); rounding may carry the distance of equal sets below 0
    return max(0.0, float(shift @ shift) + spread - 2 * trace_of_root)


def _trace_of_root(sigma1: Array, sigma2: Array) -> float:
    """The trace of (Σ₁ Σ₂)^½, [D, D] each."""
    try:
        lower = np.linalg.cholesky(sigma1)
        values = np.linalg.eigvalsh(_lower_half(lower, sigma2), UPLO="L")
    except np.linalg.LinAlgError:
        values = np.zeros(1)
    roots = np.sqrt(values.clip(min=0.0))
    # A root turns a rounding of 1e-16 into one of 1e-8, so values near 0 need the other way.
    rounding = np.sqrt(len(values)) * _EPSILON * values[-1]
    doubt = np.minimum(np.sqrt(rounding), rounding / (2 * roots.clip(min=_SMALLEST))).sum()
    if 0 < doubt <= _ACCURACY * roots.sum():
        return float(roots.sum())
    return _nuclear_norm(_factor(sigma2).T @ _factor(sigma1))


def _lower_half(lower: Array, sigma: Array) -> Array:
    """The lower triangle of Lᵀ Σ L, [D, D]; zeros of L and the upper triangle are not computed.

    Block by block that takes a third of the multiplications of the two products.
    """
    width = len(sigma)
    product, result = np.empty_like(sigma), np.zeros_like(sigma)
    for start in range(0, width, _BLOCK):
        part = slice(start, start + _BLOCK)
        product[:, part] = sigma[:, start:] @ lower[start:, part]
    for start in range(0, width, _BLOCK):
        stop = min(start + _BLOCK, width)
        result[start:stop, :stop] = lower[start:, start:stop].T @ product[start:, :stop]
    return result


def _factor(sigma: Array) -> Array:
    """F with F Fᵀ = Σ, [D, rank]; directions within rounding of 0 are left out."""
    values, vectors = np.linalg.eigh(sigma)
    kept = values > len(values) * _EPSILON * max(values[-1], 0.0)
    factor: Array = vectors[:, kept] * np.sqrt(values[kept])
    return factor


def _at_most_square(factor: Array) -> Array:
    """R with Rᵀ R = Fᵀ F and no more rows than columns."""
    if factor.shape[0] <= factor.shape[1]:
        return factor
    upper = np.linalg.qr(factor, mode="reduced").R
    return np.asarray(upper)


def _nuclear_norm(matrix: Array) -> float:
    if not matrix.size:
        return 0.0
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


def _finite(values: Any, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array
