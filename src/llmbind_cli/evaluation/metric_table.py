"""THE table of metrics: name, direction, what it needs, and where its definition comes from."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmbind_cli.errors import UsageError

Family = Literal[
    "masks",
    "emission",
    "pairs",
    "features",
    "logits",
    "words",
    "directions",
    "perceptual",
    "routing",
    "answers",
]
Medium = Literal["picture", "video", "sound"]
WITHOUT_REFERENCES = frozenset({"logits", "words"})
"""Families that are scored without ``--ref``."""

WITH_WORDS = frozenset({"words", "directions"})
"""Families that are scored beside words: ``--prompts``, or those of a manifest."""

OF_FILES = frozenset({"pairs", "features", "logits", "words", "directions", "perceptual"})
"""Families that score pictures, clips or sounds, one file for each request."""

EXTRAPOLATED = "-infinity"
"""After the name of a Fréchet distance: the one extrapolated to infinitely many predictions."""

_EXTRAPOLABLE = (
    "FD-effnet-lite0",
    "FID",
    "FD-DINOv2",
    "FD-CLIP",
    "FID-frames",
    "FD-pann-16k",
    "FD-pann-32k",
    "FD-clap",
    "FAD-vggish",
)
PRECISION_BOUNDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        name: As reports, gates and ``--metric`` spell it.
        family: Which inputs it is computed from; one family is computed in one pass.
        higher_is_better: Its direction.
        definition: What it is, in one line, with its source.
        extractor: Name of the weights that it needs, or ``None``.
        medium: What the files are, where a network reads them.
    """

    name: str
    family: Family
    higher_is_better: bool
    definition: str
    extractor: str | None = None
    medium: Medium = "picture"


_ALL = (
    Metric(
        name="cIoU",
        family="masks",
        higher_is_better=True,
        definition="sum of intersections / sum of unions over all expressions (LISA, 2308.00692)",
    ),
    Metric(
        name="gIoU",
        family="masks",
        higher_is_better=True,
        definition="mean intersection / union over expressions, 1 where both masks are empty "
        "(LISA, 2308.00692)",
    ),
    *(
        Metric(
            name=f"precision@{bound}",
            family="masks",
            higher_is_better=True,
            definition=f"share of expressions whose intersection / union is at least {bound}",
        )
        for bound in PRECISION_BOUNDS
    ),
    Metric(
        name="emission_rate",
        family="emission",
        higher_is_better=True,
        definition="share of the requests for a mask that were answered with one",
    ),
    Metric(
        name="false_emission_rate",
        family="emission",
        higher_is_better=False,
        definition="share of the requests for no mask that were answered with one",
    ),
    Metric(
        name="PSNR",
        family="pairs",
        higher_is_better=True,
        definition="mean over pairs of 10 log10(255² / mean squared error), in dB, 8-bit sRGB",
    ),
    Metric(
        name="SSIM",
        family="pairs",
        higher_is_better=True,
        definition="mean over pairs of the structural similarity, 8-bit sRGB, Gaussian window "
        "11 × 11, sigma 1.5, mirrored borders (torchmetrics 1.9)",
    ),
    Metric(
        name="FD-effnet-lite0",
        family="features",
        higher_is_better=False,
        extractor="effnet-lite0",
        definition="Fréchet distance (1706.08500, Eq. 6) of EfficientNet-lite0 features, float64; "
        "not FID, which uses Inception-v3",
    ),
    Metric(
        name="KID-effnet-lite0",
        family="features",
        higher_is_better=False,
        extractor="effnet-lite0",
        definition="kernel distance (1801.01401) of EfficientNet-lite0 features, polynomial kernel "
        "of degree 3, mean over random subsets (torch-fidelity); not KID, which uses Inception-v3",
    ),
    Metric(
        name="precision",
        family="features",
        higher_is_better=True,
        extractor="effnet-lite0",
        definition="improved precision, k = 3 (1904.06991), of EfficientNet-lite0 features",
    ),
    Metric(
        name="recall",
        family="features",
        higher_is_better=True,
        extractor="effnet-lite0",
        definition="improved recall, k = 3 (1904.06991), of EfficientNet-lite0 features",
    ),
    Metric(
        name="FID",
        family="features",
        higher_is_better=False,
        extractor="inception-v3",
        definition="Fréchet distance (1706.08500, Eq. 6) of the pool3 features of TensorFlow's "
        "Inception-v3, float64 (pytorch-fid)",
    ),
    Metric(
        name="KID",
        family="features",
        higher_is_better=False,
        extractor="inception-v3",
        definition="kernel distance (1801.01401) of the pool3 features of TensorFlow's "
        "Inception-v3, polynomial kernel of degree 3, mean over random subsets (torch-fidelity)",
    ),
    Metric(
        name="IS",
        family="logits",
        higher_is_better=True,
        extractor="inception-v3",
        definition="inception score (1606.03498) by TensorFlow's Inception-v3, 1008 logits without "
        "bias, mean over shuffled splits (torch-fidelity)",
    ),
    Metric(
        name="FD-DINOv2",
        family="features",
        higher_is_better=False,
        extractor="dinov2-vit-l14",
        definition="Fréchet distance of the class tokens of DINOv2 ViT-L/14 (2306.04675, dgm-eval)",
    ),
    Metric(
        name="FD-CLIP",
        family="features",
        higher_is_better=False,
        extractor="clip-vit-l14",
        definition="Fréchet distance of the class tokens of CLIP ViT-L/14, not projected "
        "(2306.04675; dgm-eval takes other weights of the same network)",
    ),
    Metric(
        name="FID-frames",
        family="features",
        higher_is_better=False,
        extractor="inception-v3",
        medium="video",
        definition="Fréchet distance of the pool3 features of TensorFlow's Inception-v3, each "
        "sampled frame of a clip a sample",
    ),
    *(
        Metric(
            name=f"FD-pann-{rate}k",
            family="features",
            higher_is_better=False,
            extractor=f"cnn14-{rate}k",
            medium="sound",
            definition=f"Fréchet distance of the 2048 features of PANNs Cnn14 at {rate} kHz "
            "(1912.10211; FD of audioldm_eval)",
        )
        for rate in (16, 32)
    ),
    *(
        Metric(
            name=f"IS-pann-{rate}k",
            family="logits",
            higher_is_better=True,
            extractor=f"cnn14-{rate}k",
            medium="sound",
            definition=f"inception score (1606.03498) by the 527 logits of PANNs Cnn14 at {rate} "
            "kHz, mean over shuffled splits (audioldm_eval)",
        )
        for rate in (16, 32)
    ),
    Metric(
        name="FD-clap",
        family="features",
        higher_is_better=False,
        extractor="clap-htsat",
        medium="sound",
        definition="Fréchet distance of the projected sounds of CLAP (2211.06687)",
    ),
    Metric(
        name="FAD-vggish",
        family="features",
        higher_is_better=False,
        extractor="vggish",
        medium="sound",
        definition="Fréchet distance of the 128 features of VGGish, each patch of 0.96 s of a "
        "sound a sample (1812.08466; frechet_audio_distance, audioldm_eval)",
    ),
    Metric(
        name="CLIP-score",
        family="words",
        higher_is_better=True,
        extractor="clip-vit-b32",
        definition="mean cosine of picture and prompt in CLIP ViT-B/32, −1 to 1 (2104.08718 "
        "without its factor of 2.5; torchmetrics has 100 times it, cut off at 0)",
    ),
    Metric(
        name="CLIPSIM",
        family="words",
        higher_is_better=True,
        extractor="clip-vit-b32",
        medium="video",
        definition="mean over clips of the mean cosine of frame and prompt in CLIP ViT-B/32, "
        "−1 to 1 (2104.14806)",
    ),
    Metric(
        name="CLAP-score",
        family="words",
        higher_is_better=True,
        extractor="clap-htsat",
        medium="sound",
        definition="mean cosine of sound and prompt in CLAP, −1 to 1 (2211.06687)",
    ),
    Metric(
        name="CLIP-direction",
        family="directions",
        higher_is_better=True,
        extractor="clip-vit-l14",
        definition="mean cosine of the change of the picture and the change of its caption in CLIP "
        "ViT-L/14 (2108.00946, Eq. 2; InstructPix2Pix, 2211.09800)",
    ),
    *(
        Metric(
            name=f"LPIPS-{short}",
            family="perceptual",
            higher_is_better=False,
            extractor=network,
            definition=f"mean over pairs of LPIPS 0.1 by {worded} (1801.03924)",
        )
        for short, network, worded in (("alex", "alexnet", "AlexNet"), ("vgg", "vgg16", "VGG-16"))
    ),
    Metric(
        name="routing",
        family="routing",
        higher_is_better=True,
        definition="share of requests whose plan makes exactly the expected calls in their order",
    ),
    Metric(
        name="false_calls",
        family="routing",
        higher_is_better=False,
        definition="share of plain-talk requests whose plan makes a call",
    ),
    Metric(
        name="words_kept",
        family="routing",
        higher_is_better=True,
        definition="share of content words that stand in the prompts of rightly routed requests",
    ),
    Metric(
        name="prompts_whole",
        family="routing",
        higher_is_better=True,
        definition="share of the prompts of rightly routed requests that keep all content words",
    ),
    Metric(
        name="exact_match",
        family="answers",
        higher_is_better=True,
        definition="share of questions whose reply is the right answer, in lower case without "
        "articles and punctuation",
    ),
)
_INFINITE = tuple(
    Metric(
        name=f"{metric.name}{EXTRAPOLATED}",
        family=metric.family,
        extractor=metric.extractor,
        medium=metric.medium,
        higher_is_better=metric.higher_is_better,
        definition=f"{metric.name} extrapolated to infinitely many predictions by a line over "
        "1 / N (Chong and Forsyth, 1911.07023)",
    )
    for metric in _ALL
    if metric.name in _EXTRAPOLABLE
)
METRICS = {metric.name: metric for metric in (*_ALL, *_INFINITE)}
SEGMENTATION = "segmentation"
"""What may be named in place of all figures of masks."""


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """Look metrics up by name; ``routing`` brings the other figures of routing along.

    Args:
        names: Names as in the table, each once; case matters, as ``KID`` is not ``kid``. Or
            :data:`SEGMENTATION`.

    Raises:
        UsageError: There is no such metric: the nearest one is named; or none or one twice.
    """
    found: dict[str, Metric] = {}
    masks = [metric.name for metric in _ALL if metric.family == "masks"]
    listed: list[str] = []
    for name in names:
        listed += masks if name == SEGMENTATION else [name]
    for name in listed:
        metric = METRICS.get(name)
        if metric is None:
            known = (SEGMENTATION, *METRICS)
            raise UsageError(f"--metric {name}: no such metric{nearest_metric(name, known)}")
        if name in found:
            raise UsageError(f"--metric {name}: given twice")
        found[name] = metric
    if not found:
        raise UsageError(f"--metric: name at least one of {', '.join(METRICS)}")
    if "routing" in found:
        found |= {metric.name: metric for metric in _ALL if metric.family == "routing"}
    return list(found.values())


def takes_references(names: Iterable[str]) -> bool:
    """Whether any of some metrics compares with references; unknown names are taken to do so."""
    families = [METRICS[name].family if name in METRICS else "" for name in names]
    return not families or any(family not in WITHOUT_REFERENCES for family in families)


def with_extrapolations(names: Iterable[str]) -> list[str]:
    """Add to each Fréchet distance its extrapolation, for ``--extrapolate``.

    Raises:
        UsageError: None of the metrics has one.
    """
    listed = list(names)
    added = [f"{name}{EXTRAPOLATED}" for name in listed if f"{name}{EXTRAPOLATED}" in METRICS]
    if not added and not any(name.endswith(EXTRAPOLATED) for name in listed):
        raise UsageError(f"--extrapolate: is for {', '.join(_EXTRAPOLABLE)}")
    return [*listed, *(name for name in added if name not in listed)]


def nearest_metric(name: str, known: Iterable[str] = METRICS) -> str:
    """Word a hint at the metric that a misspelt name may mean."""
    by_lower = {metric.lower(): metric for metric in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]}?" if close else f"; known: {', '.join(known)}"
