"""Pictures a second from file to statistics: llmbind, pytorch-fid and torchmetrics, one network.

    python benchmarks/eval_throughput.py [--pictures 2000] [--side 256] [--workers 2]

All three decode the same JPEG files and run the same small random network of Inception's make, on
one thread of torch beside ``--workers`` that decode. Decoding and the network are timed alone too,
to tell which of them is the limit. Other tools are used where they are installed; see
``benchmarks/metrics.py``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import network_rows
import numpy as np
import tiny_extractors as tiny
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.features import ExtractionSettings, FeatureSource
from llmbind_cli.evaluation.media_set import MediaSet, read_media_set
from llmbind_cli.metrics.extractors.inception import SIDE_PX, InceptionExtractor

BATCH_SIZE = 32


class ForOthers(nn.Module):
    """The network as the other tools call it: pictures in, features out.

    Args:
        network: Of an `InceptionExtractor`.
        scale: What white is.
        listed: Whether features come in a list, [B, D, 1, 1], as pytorch-fid has them.
    """

    def __init__(self, network: nn.Module, *, scale: float, listed: bool) -> None:
        super().__init__()
        self.network, self.scale, self.listed = network, scale, listed

    def forward(self, pictures: Tensor) -> Any:
        """[B, 3, H, W], 0 to ``scale`` → features."""
        size = (SIDE_PX, SIDE_PX)
        batch = functional.interpolate(pictures.float() / self.scale, size, mode="bilinear")
        features = self.network(2 * batch - 1)[0]
        return [features[..., None, None]] if self.listed else features


def write_pictures(folder: Path, *, n: int, side: int) -> None:
    """Write photo-like JPEG files: smooth colours and some noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    for number in range(n):
        waves = [128 + 90 * np.sin(x / (9 + number % 13) + y / k) for k in (17, 23, 31)]
        pixels = np.stack(waves, axis=-1) + generator.normal(0, 6, (side, side, 3))
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:05}.jpg", quality=90)


def by_llmbind(media: MediaSet, extractor: InceptionExtractor, workers: int) -> float:
    """Decode, extract and sum up; return the trace of the covariance."""
    source = FeatureSource(
        extractor=extractor,
        read=lambda path: [extractor.prepare(read_picture(path))],
        preprocessing=extractor.preprocessing,
        device="cpu",
        settings=ExtractionSettings(batch_size=BATCH_SIZE, workers=workers),
    )
    faults = FaultList(place=media.path)
    statistics = source.statistics(media, faults)
    faults.raise_if_any()
    return float(np.trace(statistics.covariance))


def by_pytorch_fid(media: MediaSet, extractor: InceptionExtractor, workers: int) -> float:
    """The same by pytorch-fid, whose workers are processes."""
    from pytorch_fid import fid_score

    network = ForOthers(extractor.network, scale=1.0, listed=True)
    width = extractor.network.fc.in_features
    _, covariance = fid_score.calculate_activation_statistics(
        list(media.files.values()), network, BATCH_SIZE, width, "cpu", workers
    )
    return float(np.trace(covariance))


def by_torchmetrics(media: MediaSet, extractor: InceptionExtractor, _: int) -> float:
    """The same by torchmetrics, which leaves decoding to its user."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    network = ForOthers(extractor.network, scale=255.0, listed=False)
    network.num_features = extractor.network.fc.in_features
    metric = FrechetInceptionDistance(feature=network, input_img_size=(3, SIDE_PX, SIDE_PX))
    files = list(media.files.values())
    for start in range(0, len(files), BATCH_SIZE):
        batch = [
            np.asarray(Image.open(f).convert("RGB")) for f in files[start : start + BATCH_SIZE]
        ]
        metric.update(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2), real=True)
    n, total = metric.real_features_num_samples, metric.real_features_sum
    scatter = metric.real_features_cov_sum - total[:, None] * total[None] / n
    return float(torch.trace(scatter) / (n - 1))


def decoding_alone(media: MediaSet, extractor: InceptionExtractor, _: int) -> float:
    """Decode and resize on one thread."""
    for path in media.files.values():
        extractor.prepare(read_picture(path))
    return 0.0


def network_alone(media: MediaSet, extractor: InceptionExtractor, _: int) -> float:
    """Run the network on one batch again and again."""
    first = extractor.prepare(read_picture(next(iter(media.files.values()))))
    for _ in range(0, len(media.files), BATCH_SIZE):
        extractor.extract([first] * BATCH_SIZE)
    return 0.0


def main() -> None:
    """Time each way once, after a warm-up on a few files, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the other tools
    torch.set_num_threads(1)
    place = tiny.save_file_of(
        tiny.inception_state(divisor=8), network_rows.folder() / "small" / "m.safetensors"
    ).parent
    extractor = InceptionExtractor(
        network_rows.located(place, "inception-v3"), device=network_rows.CPU
    )
    ways: dict[str, Callable[[MediaSet, InceptionExtractor, int], float]] = {
        "llmbind": by_llmbind,
        "pytorch-fid": by_pytorch_fid,
        "torchmetrics": by_torchmetrics,
        "decoding alone": decoding_alone,
        "network alone": network_alone,
    }
    rows: dict[str, dict[str, float]] = {}
    print("| way | pictures / s | trace of the covariance |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as few:
        write_pictures(Path(folder), n=args.pictures, side=args.side)
        write_pictures(Path(few), n=BATCH_SIZE, side=args.side)
        media, warm_up = read_media_set(Path(folder)), read_media_set(Path(few))
        for name, way in ways.items():
            try:
                way(warm_up, extractor, args.workers)
            except ImportError as error:
                print(f"| {name} | not compared: {error} | |")
                continue
            started = time.perf_counter()
            trace = way(media, extractor, args.workers)
            rate = args.pictures / (time.perf_counter() - started)
            rows[name] = {"pictures_per_s": rate, "trace": trace}
            print(f"| {name} | {rate:.1f} | {f'{trace:.9g}' if trace else ''} |", flush=True)
    if args.report:
        facts = {"torch": torch.__version__, "pictures": args.pictures, "workers": args.workers}
        args.report.write_text(json.dumps(facts | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
