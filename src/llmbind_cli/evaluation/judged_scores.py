"""Scores of single files by a network: beside their words, or beside the picture they came from.

CLIP score (pictures), CLIPSIM (clips), CLAP score (sounds), CLIP direction (edits) and LPIPS. Every
fault of the inputs is collected and told at once; a set with a fault gets no score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmbind_cli.console import console
from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import InputDataError
from llmbind_cli.evaluation import processes
from llmbind_cli.evaluation.faults import FaultList
from llmbind_cli.evaluation.media_decode import MediaDecoder
from llmbind_cli.evaluation.media_set import MediaSet, require_same_ids
from llmbind_cli.evaluation.prompts import Prompts
from llmbind_cli.evaluation.scores import FamilyScores, Score, interval_of
from llmbind_cli.metrics.extractors.clap import ClapExtractor
from llmbind_cli.metrics.extractors.clip import ClipExtractor
from llmbind_cli.metrics.extractors.lpips import LpipsJudge
from llmbind_cli.metrics.similarity import cosines, direction_cosines

Array = np.ndarray[Any, Any]
Judge = ClipExtractor | ClapExtractor

_BATCH_SIZE = 16


def score_pictures_by_words(
    media: MediaSet, prompts: Prompts, judge: ClipExtractor, *, seed: int
) -> FamilyScores:
    """Give the CLIP score: mean cosine of picture and prompt.

    Args:
        media: Pictures.
        prompts: Words by id; the ids must be the same.
        judge: CLIP.
        seed: Of the bootstrap.

    Raises:
        InputDataError: Ids differ, a file is no picture, or a prompt is too long for the network.
    """

    def compare(item: str, path: Path) -> dict[str, Any]:
        vector = judge.embed_pictures([judge.prepare(read_picture(path))])
        words = judge.embed_texts([prompts.words[item]])
        return {"CLIP-score": float(cosines(vector, words)[0])}

    return _by_words("CLIP-score", media, prompts, judge, compare, seed=seed)


def score_clips_by_words(
    media: MediaSet, prompts: Prompts, judge: ClipExtractor, decoder: MediaDecoder, *, seed: int
) -> FamilyScores:
    """Give CLIPSIM (arXiv 2104.14806): mean over clips of the mean cosine of frame and prompt.

    Args:
        media: Clips.
        prompts: Words by id; the ids must be the same.
        judge: CLIP.
        decoder: Reads the clips, and says which frames count.
        seed: Of the bootstrap.

    Raises:
        InputDataError: Ids differ, a file is no clip, or a prompt is too long for the network.
    """
    from PIL import Image

    def compare(item: str, path: Path) -> dict[str, Any]:
        clip = decoder.read_clip(path)
        frames = [judge.prepare(Image.fromarray(frame)) for frame in clip.frames]
        vectors = np.concatenate(
            [judge.embed_pictures(batch) for batch in _batches(frames, _BATCH_SIZE)]
        )
        words = np.repeat(judge.embed_texts([prompts.words[item]]), len(frames), axis=0)
        found = cosines(vectors, words)
        return {"CLIPSIM": float(found.mean()), "frames": len(frames), "of_frames": clip.count}

    scores = _by_words("CLIPSIM", media, prompts, judge, compare, seed=seed)
    scores.parameters["frames"] = decoder.limits.frames
    scores.preprocessing = (
        f"frames in the middles of {decoder.limits.frames} equal parts of a clip, all of a shorter "
        f"one; each: {judge.preprocessing}"
    )
    return scores


def score_sounds_by_words(
    media: MediaSet, prompts: Prompts, judge: ClapExtractor, decoder: MediaDecoder, *, seed: int
) -> FamilyScores:
    """Give the CLAP score: mean cosine of sound and prompt.

    Args:
        media: Sounds.
        prompts: Words by id; the ids must be the same.
        judge: CLAP.
        decoder: Reads the sounds.
        seed: Of the bootstrap.

    Raises:
        InputDataError: Ids differ, a file is no sound, or a prompt is too long for the network.
    """

    def compare(item: str, path: Path) -> dict[str, Any]:
        vector = judge.embed_sounds([judge.prepare(decoder.read_sound(path))])
        words = judge.embed_texts([prompts.words[item]])
        return {"CLAP-score": float(cosines(vector, words)[0])}

    return _by_words("CLAP-score", media, prompts, judge, compare, seed=seed)


def score_directions(
    edited: MediaSet, originals: MediaSet, prompts: Prompts, judge: ClipExtractor, *, seed: int
) -> FamilyScores:
    """Give the CLIP direction of edits: did the picture move where the words moved?

    Args:
        edited: Pictures.
        originals: Pictures of the same ids.
        prompts: Words for both, by the same ids.
        judge: CLIP.
        seed: Of the bootstrap.

    Raises:
        InputDataError: Ids differ, words for an original are missing, a file is no picture, or
            words are too long for the network.
    """
    require_same_ids(edited.path, edited.files, originals.path, originals.files)
    lacking = [item for item in prompts.words if item not in prompts.before]
    if lacking:
        raise InputDataError(
            f'{prompts.path}: lacks "source", the words for the original, of {lacking[0]}'
            + (f" and {len(lacking) - 1} more" if len(lacking) > 1 else "")
        )
    unmoved: list[str] = []

    def compare(item: str, path: Path) -> dict[str, Any]:
        paths = (originals.files[item], path)
        pictures = [judge.embed_pictures([judge.prepare(read_picture(place))]) for place in paths]
        texts = [
            judge.embed_texts([prompts.before[item]]),
            judge.embed_texts([prompts.words[item]]),
        ]
        if np.array_equal(pictures[0], pictures[1]):
            unmoved.append(item)
        return {"CLIP-direction": float(direction_cosines(*pictures, *texts)[0])}

    scores = _by_words("CLIP-direction", edited, prompts, judge, compare, seed=seed)
    if unmoved and "CLIP-direction" in scores.scores:
        note = f"{len(unmoved)} edits left the picture as it was, and count 0"
        scores.scores = {"CLIP-direction": _noted(scores.scores["CLIP-direction"], note)}
    return scores


def score_distances(
    pairs: Sequence[tuple[str, Path, Path]], judge: LpipsJudge, name: str, *, seed: int
) -> FamilyScores:
    """Give LPIPS, the mean over pairs.

    Args:
        pairs: Id, prediction and reference.
        judge: The network.
        name: Of the metric.
        seed: Of the bootstrap.

    Raises:
        InputDataError: A file is no picture, too small, or of another size than its reference.
    """
    by_id = {item: (made, true) for item, made, true in pairs}

    def compare(item: str) -> dict[str, Any]:
        made, true = (np.asarray(read_picture(path)) for path in by_id[item])
        if made.shape != true.shape:
            sizes = [f"{side.shape[1]} × {side.shape[0]} px" for side in (made, true)]
            raise InputDataError(
                f"{by_id[item][0]}: is {sizes[0]}, but its reference {by_id[item][1]} is "
                f"{sizes[1]}; nothing is resized"
            )
        try:
            return {name: judge.distance(made, true)}
        except ValueError as error:
            raise InputDataError(f"{by_id[item][0]}: {error}") from error

    rows = _rows(list(by_id), compare, place="pictures")
    return FamilyScores(
        scores=_mean(name, rows, seed),
        items=rows,
        preprocessing=judge.preprocessing,
        parameters={"device": judge.device.type},
        backbone=judge.card,
    )


def _by_words(
    name: str,
    media: MediaSet,
    prompts: Prompts,
    judge: Judge,
    compare: Callable[[str, Path], dict[str, Any]],
    *,
    seed: int,
) -> FamilyScores:
    require_same_ids(media.path, media.files, prompts.path, prompts.words)
    _require_short(prompts, judge, media.files)
    rows = _rows(list(media.files), lambda item: compare(item, media.files[item]), place=media.path)
    return FamilyScores(
        scores=_mean(name, rows, seed),
        items=rows,
        preprocessing=judge.preprocessing,
        parameters={"device": judge.device.type},
        backbone=judge.weights.card(),
    )


def _require_short(prompts: Prompts, judge: Judge, items: Iterable[str]) -> None:
    """Refuse words that the network would cut off (fault 10)."""
    faults = FaultList(place=prompts.path)
    for item in items:
        for words in (prompts.words[item], prompts.before.get(item)):
            if words is not None and (count := judge.count_tokens(words)) > judge.limit:
                faults.add(
                    f"{prompts.path}: {item}: {count} tokens are more than the {judge.limit} that "
                    "the network reads; nothing is cut off"
                )
    faults.raise_if_any()


def _rows(
    items: Sequence[str], compare: Callable[[str], dict[str, Any]], *, place: str
) -> list[dict[str, Any]]:
    """Score each item in one of the processes; all rows in all of them."""
    faults, own = FaultList(place=place), []
    for item in console.progress(processes.share(items), desc=place, unit="file"):
        try:
            own.append({"id": item} | compare(item))
        except InputDataError as error:
            faults.add(error)
    faults.exchange()
    faults.raise_if_any()
    return processes.gather(own)


def _mean(name: str, rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Score]:
    values = [row[name] for row in rows]
    value = math.fsum(values) / len(values)
    score = Score(value=value, n=len(values), interval=interval_of(values, seed=seed))
    return {name: score}


def _noted(score: Score, note: str) -> Score:
    return Score(value=score.value, n=score.n, interval=score.interval, notes=(*score.notes, note))


def _batches(values: Sequence[Array], size: int) -> Iterator[Sequence[Array]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
