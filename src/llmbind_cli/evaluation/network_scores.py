"""Scores that need a network: which one, how its files are read, and what is counted.

The weights of each are found before anything is decoded, so that a scoring without them ends at
once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import InputDataError, UsageError
from llmbind_cli.evaluation import judged_scores, processes
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.feature_scores import FeatureMetricNames, score_features
from llmbind_cli.evaluation.features import ExtractionSettings, FeatureSource
from llmbind_cli.evaluation.media_decode import MediaDecoder
from llmbind_cli.evaluation.media_set import MediaSet, pair_up
from llmbind_cli.evaluation.metric_table import Medium, Metric
from llmbind_cli.evaluation.prompts import Prompts
from llmbind_cli.evaluation.scores import FamilyScores, Score
from llmbind_cli.evaluation.statistics_file import StatisticsFile
from llmbind_cli.metrics.extractors.clap import ClapExtractor
from llmbind_cli.metrics.extractors.clip import ClipExtractor
from llmbind_cli.metrics.extractors.extractor import Extractor
from llmbind_cli.metrics.extractors.published import locate
from llmbind_cli.metrics.extractors.registry import load_extractor
from llmbind_cli.metrics.extractors.vggish import VggishExtractor
from llmbind_cli.metrics.inception_score import inception_score
from llmbind_cli.nn.device import choose_device

SHUFFLE_SEED = 2020
"""Of the order in which samples go to the splits of an inception score (torch-fidelity)."""

_FRECHET = {
    "cnn14-16k": "FD-pann-16k",
    "cnn14-32k": "FD-pann-32k",
    "clap-htsat": "FD-clap",
    "vggish": "FAD-vggish",
}
_PICTURES = {
    "effnet-lite0": FeatureMetricNames(
        frechet="FD-effnet-lite0",
        kernel="KID-effnet-lite0",
        precision="precision",
        recall="recall",
    ),
    "inception-v3": FeatureMetricNames(frechet="FID", kernel="KID"),
    "dinov2-vit-l14": FeatureMetricNames(frechet="FD-DINOv2"),
    "clip-vit-l14": FeatureMetricNames(frechet="FD-CLIP"),
}
FEATURE_METRICS: dict[Medium, dict[str, FeatureMetricNames]] = {
    "picture": _PICTURES,
    "video": {"inception-v3": FeatureMetricNames(frechet="FID-frames")},
    "sound": {name: FeatureMetricNames(frechet=frechet) for name, frechet in _FRECHET.items()},
}
"""Kind of file → name of the weights → names of the scores by its features."""

_PATCHES_OF_A_SOUND = 10
"""Patches of VGGish in ten seconds, which most sounds of its benchmarks last."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Where networks come from and run.

    Attributes:
        weights: Name → source, of
            :func:`~llmbind_cli.metrics.extractors.published.parse_weights`.
        device: ``auto``, ``cpu`` or ``cuda``.
        offline: Never fetch weights.
        extraction: How features are extracted.
        splits: Of an inception score.
        seed: Of the bootstrap and of random subsets.
    """

    weights: Mapping[str, str]
    device: str
    offline: bool
    extraction: ExtractionSettings
    splits: int
    seed: int


def score_by_network(
    metrics: Sequence[Metric],
    predictions: MediaSet,
    references: MediaSet | StatisticsFile | None,
    prompts: Prompts | None,
    settings: NetworkSettings,
    *,
    save_statistics: Path | None = None,
) -> FamilyScores:
    """Score files by the network of some metrics, which have one family and network in common.

    Args:
        metrics: Those to take.
        predictions: What was made.
        references: What is true, for distances.
        prompts: Words, for what is scored beside words.
        settings: Where networks come from and run.
        save_statistics: File for the statistics of the references' features, or ``None``.

    Raises:
        ModelNotFoundError: Weights are missing; the message says how to get them.
        UnavailableError: A package that decodes the files is missing.
        InputDataError: A file cannot be read, ids differ, or there are too few files.
        UsageError: References or prompts are needed and were not given.
    """
    family, medium, seed = metrics[0].family, metrics[0].medium, settings.seed
    with ExitStack() as stack:
        device = choose_device(settings.device)
        if family == "perceptual":
            scores = _perceptual(metrics, predictions, references, settings, device)
        else:
            extractor = load_extractor(
                str(metrics[0].extractor),
                chosen=settings.weights,
                device=device,
                offline=settings.offline,
            )
            decoder = MediaDecoder(medium) if medium != "picture" else None
            if decoder is not None:
                stack.enter_context(decoder)
            source = _source(extractor, decoder, medium, settings, device)
            if family == "features":
                if references is None:
                    raise UsageError(f"--ref: {metrics[0].name} needs references")
                scores = score_features(
                    predictions,
                    references,
                    metrics=[metric.name for metric in metrics],
                    names=FEATURE_METRICS[medium][str(metrics[0].extractor)],
                    source=source,
                    seed=seed,
                    save_statistics=save_statistics,
                )
            elif family == "logits":
                scores = _inception_score(metrics[0].name, predictions, source, settings)
            else:
                scores = _judged(
                    predictions, references, prompts, judge=extractor, decoder=decoder, seed=seed
                )
            scores = with_note(scores, extractor.weights.note)
    return scores


def feature_source(metric: Metric, settings: NetworkSettings, stack: ExitStack) -> FeatureSource:
    """Load the network of a metric by features, and what reads its files.

    Args:
        metric: Of the family ``features``.
        settings: Where networks come from and run.
        stack: Ends the decoding processes.

    Raises:
        LlmbindError: As :func:`score_by_network`.
    """
    device = choose_device(settings.device)
    extractor = load_extractor(
        str(metric.extractor), chosen=settings.weights, device=device, offline=settings.offline
    )
    decoder = None
    if metric.medium != "picture":
        decoder = stack.enter_context(MediaDecoder(metric.medium))
    return _source(extractor, decoder, metric.medium, settings, device)


def with_note(scores: FamilyScores, note: str | None) -> FamilyScores:
    """Add a note to every score; ``None`` adds none."""
    if note is not None:
        scores.scores = {
            name: dataclasses.replace(score, notes=(*score.notes, note))
            for name, score in scores.scores.items()
        }
    return scores


def _source(
    extractor: Extractor,
    decoder: MediaDecoder | None,
    medium: Medium,
    settings: NetworkSettings,
    device: torch.device,
) -> FeatureSource:
    """Say how files of a kind become samples: a picture or sound is one, unless it has parts."""

    def read(path: Path) -> Sequence[Any]:
        if decoder is None:
            return [extractor.prepare(read_picture(path))]
        if medium == "video":
            frames = decoder.read_clip(path).frames
            return [extractor.prepare(Image.fromarray(frame)) for frame in frames]
        sound = decoder.read_sound(path)
        if not isinstance(extractor, VggishExtractor):
            return [extractor.prepare(sound)]
        try:
            return list(extractor.prepare(sound))
        except InputDataError as error:
            raise InputDataError(f"{path}: {error}") from error

    source = FeatureSource(
        extractor=extractor,
        read=read,
        preprocessing=extractor.preprocessing,
        device=device.type,
        settings=settings.extraction,
    )
    if decoder is not None and medium == "video":
        frames = decoder.limits.frames
        return dataclasses.replace(
            source,
            preprocessing=f"frames in the middles of {frames} equal parts of a clip, all of a "
            f"shorter one; each: {extractor.preprocessing}",
            parts="frames",
            samples_per_file=frames,
            parameters={"frames": frames},
        )
    if isinstance(extractor, VggishExtractor):
        return dataclasses.replace(source, parts="patches", samples_per_file=_PATCHES_OF_A_SOUND)
    return source


def _inception_score(
    name: str, predictions: MediaSet, source: FeatureSource, settings: NetworkSettings
) -> FamilyScores:
    n = len(predictions.files)
    if n < settings.splits:
        raise InputDataError(
            f"{name}: {settings.splits} splits need at least as many files, got {n}; fewer splits "
            "are set by --splits"
        )
    faults = FaultList(place=predictions.path)
    logits = source.extract(predictions, faults).logits
    faults.raise_if_any()
    extractor = source.extractor
    if not processes.is_first() or logits is None:
        return FamilyScores(scores={}, items=[], preprocessing=extractor.preprocessing)
    result = inception_score(logits, splits=settings.splits, seed=SHUFFLE_SEED)
    note = "the whole set as one split; torch-fidelity takes 10" if settings.splits == 1 else None
    score = Score(
        value=result.mean,
        n=n,
        std=result.std if settings.splits > 1 else None,
        notes=(note,) if note else (),
    )
    return FamilyScores(
        scores={name: score},
        items=[],
        preprocessing=extractor.preprocessing,
        parameters={
            "splits": settings.splits,
            "order": f"shuffled, seed {SHUFFLE_SEED}",
            "device": source.device,
        },
        backbone=extractor.weights.card(),
    )


def _judged(
    predictions: MediaSet,
    references: MediaSet | StatisticsFile | None,
    prompts: Prompts | None,
    *,
    judge: Extractor,
    decoder: MediaDecoder | None,
    seed: int,
) -> FamilyScores:
    if prompts is None:
        raise UsageError("--prompts: words are needed")
    if isinstance(judge, ClapExtractor) and decoder is not None:
        return judged_scores.score_sounds_by_words(predictions, prompts, judge, decoder, seed=seed)
    if not isinstance(judge, ClipExtractor):
        raise TypeError(f"{type(judge).__name__} does not read words")
    if isinstance(references, MediaSet):
        return judged_scores.score_directions(predictions, references, prompts, judge, seed=seed)
    if decoder is not None:
        return judged_scores.score_clips_by_words(predictions, prompts, judge, decoder, seed=seed)
    return judged_scores.score_pictures_by_words(predictions, prompts, judge, seed=seed)


def _perceptual(
    metrics: Sequence[Metric],
    predictions: MediaSet,
    references: MediaSet | StatisticsFile | None,
    settings: NetworkSettings,
    device: torch.device,
) -> FamilyScores:
    from llmbind_cli.metrics.extractors.lpips import LpipsJudge

    name = metrics[0].name
    if not isinstance(references, MediaSet):
        raise UsageError(f"--ref: {name} needs a folder or manifest of pictures")
    weights = locate(str(metrics[0].extractor), settings.weights, offline=settings.offline)
    judge = LpipsJudge(weights, device=device, offline=settings.offline)
    pairs = pair_up(predictions, references)
    scores = judged_scores.score_distances(pairs, judge, name, seed=settings.seed)
    return with_note(scores, weights.note)
