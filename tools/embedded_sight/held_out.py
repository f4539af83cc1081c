"""Writes scenes that training never sees as files that ``llmbind eval`` scores.

For each of the two held-out rows, ``held_out_scenes`` (pairs of things never seen together) and
``held_out_things`` (things never seen at all), and for ``drawings`` that the embedded generator
made of pairs never seen together and of colours that it never saw, into ``OUT/ROW``:

- ``pictures/N.png``
- ``KIND.jsonl`` and ``KIND-masks.jsonl`` for the kinds refer, spatial and reason: the words of one
  thing of each picture, with the reply that teacher forcing takes, and its mask in COCO's run
  lengths
- ``asked.jsonl``: the same wishes as people put them, and questions that words answer, each with
  its ``task``
- ``answers.jsonl``: those questions with their answers
- ``near.jsonl``: whether something is there, with the answer: half of what is asked for is not, and
  of a kind with something that is, as a dog is with a cat

And a few scenes of the first row for the suite that comes with the package: of at most three things
on plain ground, with captions to draw them by.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embedded_sight.scenes import Scenes
from llmbind_cli.data.rle import coco_rle
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.arrangements import Arrangement, ArrangementSampler
from llmbind_cli.data.scenes.pictures import SceneRenderer
from llmbind_cli.data.scenes.questions import QuestionKind, SceneQuestions, describe

ROWS = ("held_out_scenes", "held_out_things")
SEED, SUITE_SEED = 1021, 2021
_POINTING: tuple[QuestionKind, ...] = ("refer", "spatial", "reason")
_ANSWERED: tuple[QuestionKind, ...] = ("presence", "count", "colour", "name", "relation")
_SUITE_THINGS = 3


def write_held_out(
    out: Path, world: Any, renderer: SceneRenderer, photos: tuple[Path, ...], *, count: int
) -> None:
    """Write both rows of scenes.

    Args:
        out: Folder.
        world: The things.
        renderer: Draws them.
        photos: May stand behind them; those held out do.
        count: Pictures of each kind, and questions with an answer, in each row.
    """
    for row in ROWS:
        sampler = ArrangementSampler(world, SEED, split=row, photos=photos)
        _write_row(out / row, sampler, renderer, count)


def write_drawings(out: Path, drawings: Path, scenes: Scenes, *, count: int) -> None:
    """Write the row of drawings.

    Args:
        out: Folder.
        drawings: What ``draw`` made.
        scenes: Tell where in them things are.
        count: Drawings of each kind, and questions with an answer.
    """
    sampler, renderer = scenes.drawings(drawings, "held_out")
    _write_row(out / "drawings", sampler, renderer, count)


def _write_row(folder: Path, sampler: Any, renderer: SceneRenderer, count: int) -> None:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    asked: list[dict[str, Any]] = []
    for kind in _POINTING:
        samples = _samples(sampler, renderer, folder.name, (kind,))
        asked += _write_pointing(folder, kind, itertools.islice(samples, count))
    samples = _samples(sampler, renderer, folder.name, _ANSWERED)
    lines = _write_answered(folder, "answers", itertools.islice(samples, count))
    near = _samples(sampler, renderer, f"{folder.name}-near", ("presence",), near=1.0)
    _write_answered(folder, "near", itertools.islice(near, count))
    _write(folder / "asked.jsonl", [*asked, *(line | {"task": "text"} for line in lines)])


def write_suite(out: Path, world: Any, renderer: SceneRenderer, *, count: int) -> None:
    """Write ``refer.jsonl``, ``refer-masks.jsonl``, ``answers.jsonl`` and ``captions.jsonl``.

    Args:
        out: Folder.
        world: The things.
        renderer: Draws them.
        count: Expressions, and questions; each has a picture and a caption of its own.
    """
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    sampler = ArrangementSampler(world, SUITE_SEED, split="held_out_scenes", grounds={"plain": 1.0})

    def few(*kinds: QuestionKind) -> list[Sample]:
        samples = _samples(sampler, renderer, "suite", kinds)
        fitting = (one for one in samples if len(_arrangement(one).things) <= _SUITE_THINGS)
        return list(itertools.islice(fitting, count))

    pointing, answered = few("refer"), few(*_ANSWERED)
    _write_pointing(out, "refer", iter(pointing))
    _write_answered(out, "answers", iter(answered))
    captions = [
        {"id": _name(sample), "prompt": describe(_arrangement(sample))}
        for sample in (*pointing, *answered)
    ]
    _write(out / "captions.jsonl", captions)


def _samples(
    sampler: Any,
    renderer: SceneRenderer,
    row: str,
    kinds: tuple[QuestionKind, ...],
    *,
    near: float = 0.0,
) -> Iterator[Sample]:
    asked = SceneQuestions(
        sampler,
        renderer,
        name=f"{row}-{kinds[0]}",
        questions=dict.fromkeys(kinds, 1.0),
        turns=1,
        tied=True,
        held_out_targets=row == "held_out_things" and len(kinds) == 1,
        near=near,
    )
    return (asked[number] for number in itertools.count())


def _write_pointing(folder: Path, kind: str, samples: Iterator[Sample]) -> list[dict[str, Any]]:
    requests, masks, asked = [], [], []
    for sample in samples:
        line, (segment,) = _line(folder, sample), sample.segments
        requests.append(line | {"prompt": segment.phrase, "reply": sample.turns[1].text})
        masks.append({"id": line["id"], "segmentation": coco_rle(segment.mask.decode())})
        asked.append(line | {"task": "segment"})
    _write(folder / f"{kind}.jsonl", requests)
    _write(folder / f"{kind}-masks.jsonl", masks)
    return asked


def _write_answered(folder: Path, name: str, samples: Iterator[Sample]) -> list[dict[str, Any]]:
    """Write ``NAME.jsonl``; return its lines without the answers."""
    lines, answers = [], []
    for sample in samples:
        lines.append(_line(folder, sample))
        answers.append(lines[-1] | {"answer": sample.turns[1].text})
    _write(folder / f"{name}.jsonl", answers)
    return lines


def _line(folder: Path, sample: Sample) -> dict[str, Any]:
    """Return a sample's request, and write its picture."""
    name = _name(sample)
    image = f"pictures/{name}.png"
    sample.pictures[0].load().save(folder / image, optimize=True)
    return {"id": name, "prompt": sample.turns[0].text, "image": image}


def _name(sample: Sample) -> str:
    return sample.id.replace("/", "-")


def _arrangement(sample: Sample) -> Arrangement:
    picture: Any = sample.pictures[0]
    arrangement: Arrangement = picture.arrangement
    return arrangement


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
