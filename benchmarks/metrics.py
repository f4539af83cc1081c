"""llmbind's metrics beside the tools that people compare with, on the same inputs.

    python benchmarks/metrics.py [--report FILE.json]

Each row has llmbind's value, that of the other tool, their difference and the ratio of their times.
A tool that is not installed is left out and named. Its own packages are not llmbind's: on a machine
without a GPU, `pip install --no-deps torchvision==0.16.2 torch-fidelity==0.4.0 pytorch-fid==0.3.0
pycocotools==2.0.11 torchmetrics==1.9.0 lightning-utilities scipy==1.17.1` into a folder of its own,
named in PYTHONPATH, gives all of them; ``lpips==0.1.4`` goes there too. The inputs are made from a
seed. Distances are taken of made features; scores by networks are taken by small random ones that
both sides load, see ``network_rows.py``.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import network_rows
import numpy as np
import torch

from llmbind_cli.metrics.frechet import frechet_distance, frechet_distance_from_features
from llmbind_cli.metrics.inception_score import inception_score
from llmbind_cli.metrics.iou import ciou_giou
from llmbind_cli.metrics.kernel_distance import kernel_distance
from llmbind_cli.metrics.precision_recall import precision_recall
from llmbind_cli.metrics.psnr import psnr
from llmbind_cli.metrics.ssim import ssim

SEED = 2020
_PATIENCE_S = 10.0
Way = Callable[[], float]
Row = tuple[str, str, Way, Callable[[], Way]]
"""Metric, tool, ours, and what imports the tool and gives its way."""


def masks() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return 60 pairs of discs, bool, [160, 200]."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:160, :200]
    pairs = []
    for _ in range(60):
        top, left, radius, shift = generator.integers([40, 40, 10, -15], [120, 160, 40, 16])
        target = np.hypot(y - top, x - left) < radius
        pairs.append((np.hypot(y - top, x - left - shift) < radius, target))
    return pairs


def features(n: int, seed: int, width: int = 256) -> np.ndarray:
    """Return correlated features, float64, [n, width]."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return generator.normal(size=(n, width)) @ mixing + 0.05 * seed


def pictures() -> list[tuple[np.ndarray, np.ndarray]]:
    """Return 12 smooth pictures with noise beside those without, uint8, [128, 128, 3]."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:128, :128]
    pairs = []
    for number in range(12):
        waves = np.stack([np.sin(x / (5 + number)), np.cos(y / 9), np.sin((x + y) / 13)], axis=-1)
        true = (127 + 100 * waves).round().astype(np.uint8)
        noisy = true + generator.normal(0, 12, true.shape)
        pairs.append((noisy.clip(0, 255).round().astype(np.uint8), true))
    return pairs


def mask_rows() -> Iterator[Row]:
    """The overlaps."""
    pairs = masks()

    def lisa(index: int) -> Way:
        """LISA 3cb2d43: ``intersectionAndUnionGPU`` by histograms, and its meters."""

        def accumulate() -> float:
            total, ious = np.zeros((2, 2)), []
            for prediction, target in pairs:
                made, true = (torch.from_numpy(z).float().view(-1) for z in (prediction, target))
                bins = {"bins": 2, "min": 0, "max": 1}
                both = torch.histc(made[made == true], **bins)
                union = torch.histc(made, **bins) + torch.histc(true, **bins) - both
                total += torch.stack([both, union]).numpy()
                ious.append(float(both[1] / (union[1] + 1e-5)) if union[1] else 1.0)
            return (float(total[0, 1] / (total[1, 1] + 1e-10)), float(np.mean(ious)))[index]

        return accumulate

    def coco() -> Way:
        from pycocotools import mask

        def mean() -> float:
            ious = []
            for pair in pairs:
                made, true = (mask.encode(np.asfortranarray(z, dtype=np.uint8)) for z in pair)
                ious.append(mask.iou([made], [true], [0]).item())
            return float(np.mean(ious))

        return mean

    yield "cIoU", "LISA's formula", lambda: ciou_giou(pairs).ciou, lambda: lisa(0)
    yield "gIoU", "LISA's formula", lambda: ciou_giou(pairs).giou, lambda: lisa(1)
    yield "gIoU", "pycocotools", lambda: ciou_giou(pairs).giou, coco


def distance_rows() -> Iterator[Row]:
    """The Fréchet distances: more samples than features, and fewer."""
    x, y = features(900, 0), features(800, 1)
    moments = [part for z in (x, y) for part in (z.mean(axis=0), np.cov(z, rowvar=False))]
    few = x[:100], y[:100]
    few_moments = [part for z in few for part in (z.mean(axis=0), np.cov(z, rowvar=False))]

    def by_pytorch_fid(parts: list[np.ndarray]) -> Way:
        from pytorch_fid.fid_score import calculate_frechet_distance

        return lambda: float(calculate_frechet_distance(*parts))

    def by_torchmetrics() -> Way:
        from torchmetrics.image.fid import _compute_fid

        tensors = [torch.from_numpy(part) for part in moments]
        return lambda: _compute_fid(*tensors).item()

    def ours() -> float:
        return frechet_distance(*moments)

    yield "Fréchet distance", "pytorch-fid", ours, lambda: by_pytorch_fid(moments)
    yield "Fréchet distance", "torchmetrics", ours, by_torchmetrics
    yield (
        "Fréchet distance, n < D",
        "pytorch-fid",
        lambda: frechet_distance_from_features(*few),
        lambda: by_pytorch_fid(few_moments),
    )


def sample_rows() -> Iterator[Row]:
    """What torch-fidelity computes from features and logits."""
    x, y = features(900, 0), features(800, 1)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    logits = 3 * features(1000, 2, width=64)

    def kid() -> Way:
        from torch_fidelity.metric_kid import kid_features_to_metric

        options: dict[str, Any] = {"kid_subsets": 20, "kid_subset_size": 200, "rng_seed": SEED}
        return lambda: kid_features_to_metric(*tensors, **options, verbose=False)[
            "kernel_inception_distance_mean"
        ]

    def prc(name: str) -> Way:
        from torch_fidelity.metric_prc import prc_features_to_metric

        # Since 0.4.0 what was made comes first; before, both figures came the other way round.
        return lambda: prc_features_to_metric(*tensors, verbose=False)[name]

    def score() -> Way:
        from torch_fidelity.metric_isc import isc_features_to_metric

        tensor = torch.from_numpy(logits)
        return lambda: isc_features_to_metric(tensor, 10, True, SEED)["inception_score_mean"]

    yield (
        "kernel distance",
        "torch-fidelity",
        lambda: kernel_distance(x, y, subsets=20, subset_size=200, seed=SEED).mean,
        kid,
    )
    yield "precision", "torch-fidelity", lambda: precision_recall(x, y)[0], lambda: prc("precision")
    yield "recall", "torch-fidelity", lambda: precision_recall(x, y)[1], lambda: prc("recall")
    yield (
        "inception score",
        "torch-fidelity",
        lambda: inception_score(logits, splits=10, seed=SEED).mean,
        score,
    )


def picture_rows() -> Iterator[Row]:
    """Pairs of pictures, one pair at a time."""
    pairs = pictures()

    def by_torchmetrics(name: str) -> Way:
        from torchmetrics.functional import image

        function = getattr(image, name)
        tensors = [
            [torch.from_numpy(z).permute(2, 0, 1)[None].double() for z in pair] for pair in pairs
        ]
        return lambda: float(np.mean([function(*t, data_range=255.0).item() for t in tensors]))

    yield (
        "PSNR",
        "torchmetrics",
        lambda: float(np.mean([psnr(*pair) for pair in pairs])),
        lambda: by_torchmetrics("peak_signal_noise_ratio"),
    )
    yield (
        "SSIM",
        "torchmetrics",
        lambda: float(np.mean([ssim(*pair) for pair in pairs])),
        lambda: by_torchmetrics("structural_similarity_index_measure"),
    )


def timed(way: Way) -> tuple[float, float]:
    """Return the value and the best of five times in seconds, of slow ways fewer, once warm."""
    value, best, began = way(), float("inf"), time.perf_counter()
    for _ in range(5):
        started = time.perf_counter()
        way()
        best = min(best, time.perf_counter() - started)
        if time.perf_counter() - began > _PATIENCE_S:
            break
    return value, best


def version_of(tool: str) -> str:
    """Return a tool's version; a formula that is written out here has none, or a commit."""
    if tool.startswith("SciPy"):
        return metadata.version("scipy")
    if tool.startswith("the "):
        return ""
    return "3cb2d43" if tool.startswith("LISA") else metadata.version(tool)


def main() -> None:
    """Compare, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the other tools
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    print("| metric | tool | llmbind | the tool | difference | its time / ours |")
    print("|---|---|---:|---:|---:|---:|")
    of_networks = (network_rows.picture_rows(), network_rows.sound_rows())
    for rows in (mask_rows(), distance_rows(), sample_rows(), picture_rows(), *of_networks):
        for metric, tool, ours, theirs in rows:
            try:
                reference = theirs()
            except (ImportError, OSError) as error:  # OSError: a library that does not load
                print(f"| {metric} | {tool} | not compared: {error} | | | |")
                continue
            (value, seconds), (other, other_seconds) = timed(ours), timed(reference)
            row = {
                "metric": metric,
                "tool": f"{tool} {version_of(tool)}".strip(),
                "llmbind": value,
                "other": other,
                "difference": value - other,
                "time_ratio": other_seconds / seconds,
            }
            found.append(row)
            print(
                f"| {metric} | {row['tool']} | {value:.10g} | {other:.10g} | "
                f"{abs(value - other):.1e} | {row['time_ratio']:.1f} |"
            )
    if args.report:
        facts = {"torch": torch.__version__, "numpy": np.__version__, "threads": 1}
        args.report.write_text(json.dumps(facts | {"rows": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
