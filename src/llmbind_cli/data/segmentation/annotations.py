"""What a data set says of a picture, in the form that all readers give."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmbind_cli.data.masks import MaskSource
from llmbind_cli.data.pictures import PictureFile, missing_message, missing_pictures
from llmbind_cli.errors import InputDataError

Naming = Literal["phrase", "class", "part", "sentence", "plural"]
"""How a region is spoken of: "the dog on the left", "dog", "the tail of the dog", a question of its
own, or "the dogs"."""

SourceTask = Literal["semantic", "refer", "reason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of a picture that can be asked for.

    Attributes:
        names: Words that each mean it and nothing else in the picture.
        naming: What kind of words they are.
        mask: Its pixels.
        ignored: Pixels that neither loss nor score counts.
        explanation: Why it is what was asked for, in words; "" where the data set does not say.
        category: Its class, for plain questions; "" where there is none.
    """

    names: tuple[str, ...]
    naming: Naming
    mask: MaskSource
    ignored: MaskSource | None = None
    explanation: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A plain question with its answer, which needs no mask.

    Attributes:
        kind: Section of the wordings it is asked with.
        words: Values for that section.
        answer: What is right.
    """

    kind: str
    words: Mapping[str, str]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedPicture:
    """A picture with its regions.

    Attributes:
        id: Name within its data set.
        picture: The picture.
        regions: What can be asked for; at least one.
        facts: Plain questions about it.
    """

    id: str
    picture: PictureFile
    regions: tuple[Region, ...]
    facts: tuple[Fact, ...] = ()


@dataclass(kw_only=True)
class AnnotationCounts:
    """What a data set held.

    Attributes:
        pictures: Pictures with something to ask for.
        regions: Regions of them.
        names: Expressions of the regions.
        facts: Plain questions.
        missing: Pictures whose file was not there, with ``skip_missing``.
        empty: Annotations without a pixel, which were passed over.
    """

    pictures: int = 0
    regions: int = 0
    names: int = 0
    facts: int = 0
    missing: int = 0
    empty: int = 0

    def as_fields(self) -> dict[str, int]:
        """Return the counts for a manifest."""
        return dict(vars(self))

    def __str__(self) -> str:
        text = f"{self.pictures:,} pictures, {self.regions:,} regions, {self.names:,} expressions"
        if self.facts:
            text += f", {self.facts:,} plain questions"
        if self.missing:
            text += f"; {self.missing:,} pictures missing and left out"
        if self.empty:
            text += f"; {self.empty:,} annotations without a pixel passed over"
        return text


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """A whole data set, checked.

    Attributes:
        pictures: In the order of the files.
        counts: What it held.
        files: The files that were read beside the pictures.
    """

    pictures: tuple[AnnotatedPicture, ...]
    counts: AnnotationCounts = field(default_factory=AnnotationCounts)
    files: tuple[Path, ...] = ()


def finish_annotations(
    name: str,
    pictures: Sequence[AnnotatedPicture],
    *,
    skip_missing: bool,
    files: Iterable[Path] = (),
    empty: int = 0,
) -> Annotations:
    """Check that every picture is there, and count.

    Args:
        name: Data source, for messages.
        pictures: What was read.
        skip_missing: Leave out what speaks of missing pictures, and count them.
        files: The files that were read.
        empty: Annotations without a pixel.

    Raises:
        InputDataError: Pictures are missing, with the first of them; or nothing is left.
    """
    missing = {picture.path for picture in missing_pictures(entry.picture for entry in pictures)}
    if missing and not skip_missing:
        listed = [entry.picture for entry in pictures if entry.picture.path in missing]
        raise InputDataError(missing_message(name, listed, len(pictures)))
    kept = tuple(entry for entry in pictures if entry.picture.path not in missing)
    if not kept:
        why = f"; {len(missing):,} pictures are missing" if missing else ""
        raise InputDataError(f"{name}: holds no picture with a region{why}")
    regions = [region for entry in kept for region in entry.regions]
    counts = AnnotationCounts(
        pictures=len(kept),
        regions=len(regions),
        names=sum(len(region.names) for region in regions),
        facts=sum(len(entry.facts) for entry in kept),
        missing=len(missing),
        empty=empty,
    )
    return Annotations(pictures=kept, counts=counts, files=tuple(files))


def read_json(path: Path, *, encodings: Sequence[str] = ("utf-8-sig",)) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        encodings: Tried in turn.

    Raises:
        InputDataError: It cannot be read or is no JSON; names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputDataError(f"{path}: cannot be read: {error.strerror}") from None
    for encoding in encodings:
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise InputDataError(f"{path}: is not in {' or '.join(encodings)}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputDataError(f"{path}: line {error.lineno}: no JSON: {error.msg}") from None
    except RecursionError:
        raise InputDataError(f"{path}: brackets nest too deep") from None


def field_of(record: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return a field of a record, which must be there and of a type.

    Raises:
        InputDataError: It is not; names file and record.
    """
    if not isinstance(record, dict):
        raise InputDataError(f"{where}: expected an object, got {record!r:.40}")
    value = record.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        expected = " or ".join(_KINDS.get(one, one.__name__) for one in kinds)
        got = f"got {value!r:.40}" if name in record else "which is missing"
        raise InputDataError(f"{where}: {name!r} must be {expected}, {got}")
    return value


_KINDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def presence_facts(counts: Mapping[str, int], absent: Sequence[str]) -> tuple[Fact, ...]:
    """Return plain questions about which classes a picture has.

    Args:
        counts: Class → how many of it are there; 0 where that is not known.
        absent: Classes that it surely has nothing of.
    """
    facts = [Fact(kind="is_there", words={"x": name}, answer="yes") for name in counts]
    facts += [Fact(kind="is_there", words={"x": name}, answer="no") for name in absent]
    return tuple(facts)


def most_common(counter: Counter[str]) -> list[str]:
    """Return names, most frequent first and by name among equals."""
    return sorted(counter, key=lambda name: (-counter[name], name))
