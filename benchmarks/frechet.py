"""How long a Fréchet distance takes, and by how much the ways to it differ.

    python benchmarks/frechet.py [--width 2048] [--samples 5000] [--report FILE.json]

Beside llmbind stand the two usual ways, on the same means and covariances: the eigenvalues of Σ₁ Σ₂
(torchmetrics, torch-fidelity) and SciPy's root of that matrix (pytorch-fid, clean-fid; needs the
extra ``eval``). The features are made, with a spectrum that falls as those of networks do.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from llmbind_cli.metrics.frechet import frechet_distance, frechet_distance_from_features

SLOWEST_ONCE_S = 2.0


def features(n: int, width: int, *, seed: int) -> np.ndarray:
    """Return made features, float64, [n, width], with standard deviations from 1 down to 1e-3."""
    generator = np.random.default_rng(seed)
    rotation = np.linalg.qr(generator.normal(size=(width, width)))[0]
    scales = np.logspace(0, -3, width)
    return (generator.normal(size=(n, width)) * scales) @ rotation + 0.01 * generator.normal()


def by_eigenvalues(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
    """As torchmetrics 1.9 has it, ``image/fid.py``, in float64."""
    mean1, sigma1, mean2, sigma2 = map(torch.from_numpy, (mu1, s1, mu2, s2))
    roots = torch.linalg.eigvals(sigma1 @ sigma2).sqrt().real.sum()
    shift = (mean1 - mean2).square().sum()
    return float(shift + sigma1.trace() + sigma2.trace() - 2 * roots)


def by_matrix_root(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
    """As pytorch-fid 0.3.0 has it, ``fid_score.py``."""
    from scipy import linalg

    root = linalg.sqrtm(s1 @ s2).real
    shift = mu1 - mu2
    return float(shift @ shift + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))


def timed(function: Callable[[], float], *, repeats: int = 3) -> tuple[float, float]:
    """Return the result and the best time in seconds; a slow function runs once."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        value = function()
        best = min(best, time.perf_counter() - started)
        if best > SLOWEST_ONCE_S:
            break
    return value, best


def main() -> None:
    """Time all ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    x, y = (features(args.samples, args.width, seed=seed) for seed in (0, 1))
    moments = [part for z in (x, y) for part in (z.mean(axis=0), np.cov(z, rowvar=False))]
    few = min(args.samples, args.width // 4)
    ways: dict[str, Callable[[], float]] = {
        "llmbind": lambda: frechet_distance(*moments),
        "eigenvalues of the product": lambda: by_eigenvalues(*moments),
        "SciPy's matrix root": lambda: by_matrix_root(*moments),
        f"llmbind, {few} samples": lambda: frechet_distance_from_features(x[:few], y[:few]),
    }
    rows: dict[str, dict[str, float]] = {}
    for name, way in ways.items():
        try:
            value, seconds = timed(way)
        except ImportError as error:
            print(f"{name}: skipped, {error}")
            continue
        rows[name] = {"value": value, "seconds": seconds}
    ours = rows["llmbind"]
    print(f"D = {args.width}, n = {args.samples}, {torch.get_num_threads()} threads")
    print(f"{'way':28}{'seconds':>10}{'ratio':>8}{'value':>18}{'difference':>12}")
    for name, row in rows.items():
        same_input = "samples" not in name
        row["ratio"] = row["seconds"] / ours["seconds"]
        row["difference"] = abs(row["value"] / ours["value"] - 1) if same_input else float("nan")
        difference = f"{row['difference']:.1e}" if same_input else ""
        print(
            f"{name:28}{row['seconds']:10.3f}{row['ratio']:8.1f}{row['value']:18.10f}"
            f"{difference:>12}"
        )
    if args.report:
        facts = {
            "width": args.width,
            "samples": args.samples,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }
        kept = {
            name: {key: value for key, value in row.items() if value == value}  # noqa: PLR0124
            for name, row in rows.items()
        }
        args.report.write_text(json.dumps(facts | {"ways": kept}, indent=2) + "\n")


if __name__ == "__main__":
    main()
