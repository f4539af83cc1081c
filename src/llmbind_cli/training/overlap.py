"""Pictures that training shares with evaluation: by name, and by content under another name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from llmbind_cli.data.pictures import PictureFile, PictureSource

SHOWN = 5
"""Shared pictures that a message names."""


@dataclass(kw_only=True)
class UsedPictures:
    """The pictures of some sources.

    Attributes:
        by_key: Name of a picture → the picture, and the source that has it first. Photos behind
            the things of drawn scenes are among them.
    """

    by_key: dict[str, tuple[PictureSource, str]] = field(default_factory=dict)

    def add(self, pictures: Iterable[PictureSource], source: str) -> None:
        """Count pictures of a source."""
        for picture in pictures:
            self.by_key.setdefault(picture.key, (picture, source))
            for file in picture.files():
                self.by_key.setdefault(file.key, (file, source))


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPicture:
    """One picture on both sides.

    Attributes:
        trained: Its name in training.
        trained_in: The source there.
        evaluated: Its name in evaluation.
        evaluated_in: The source there.
        by: ``id`` where the names are the same, ``content`` where only the content is.
    """

    trained: str
    trained_in: str
    evaluated: str
    evaluated_in: str
    by: str


def shared_pictures(trained: UsedPictures, evaluated: UsedPictures) -> list[SharedPicture]:
    """Find pictures of evaluation among those of training.

    Files are hashed only where a file of the other side has the same size.

    Raises:
        InputDataError: A file cannot be read.
    """
    shared = [
        SharedPicture(
            trained=key,
            trained_in=trained.by_key[key][1],
            evaluated=key,
            evaluated_in=source,
            by="id",
        )
        for key, (_, source) in evaluated.by_key.items()
        if key in trained.by_key
    ]
    ours, theirs = _by_size(trained.by_key), _by_size(evaluated.by_key)
    for size in ours.keys() & theirs.keys():
        hashes = {trained.by_key[key][0].sha256(): key for key in ours[size]}
        for key in theirs[size]:
            picture, source = evaluated.by_key[key]
            same = hashes.get(picture.sha256())
            if same is not None and key not in trained.by_key:
                shared.append(
                    SharedPicture(
                        trained=same,
                        trained_in=trained.by_key[same][1],
                        evaluated=key,
                        evaluated_in=source,
                        by="content",
                    )
                )
    return sorted(shared, key=lambda one: (one.evaluated_in, one.evaluated))


def overlap_message(shared: Sequence[SharedPicture]) -> str:
    """Word that pictures are on both sides, with the first of them."""
    named = [
        f"{one.evaluated} of {one.evaluated_in}"
        + (f" in {one.trained_in}" if one.by == "id" else f" is {one.trained} of {one.trained_in}")
        for one in shared[:SHOWN]
    ]
    more = f" and {len(shared) - SHOWN:,} more" if len(shared) > SHOWN else ""
    # What has another name cannot be dropped by it.
    way_out = '"drop" to train without them, or "allow"'
    if any(one.by == "content" for one in shared):
        way_out = '"allow", or take what has the same content out of one side'
    return (
        f"{len(shared):,} pictures to be evaluated on are trained on: {', '.join(named)}{more}; "
        f"set overlap = {way_out}"
    )


def _by_size(by_key: Mapping[str, tuple[PictureSource, str]]) -> dict[int, list[str]]:
    """Group names by the size of their file; drawn pictures are one group."""
    groups: dict[int, list[str]] = defaultdict(list)
    for key, (picture, _) in by_key.items():
        size = picture.path.stat().st_size if isinstance(picture, PictureFile) else -1
        groups[size].append(key)
    return groups
