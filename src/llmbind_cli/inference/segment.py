"""``llmbind segment``: one picture and what to cut out of it, or a file of such requests."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import (
    InputDataError,
    OutputError,
    PartialFailure,
    UnavailableError,
    UsageError,
)
from llmbind_cli.inference.artifacts import ArtifactFile, ArtifactFolder, ResultLine
from llmbind_cli.inference.batch.batch import run_batch
from llmbind_cli.inference.batch.batch_settings import BatchSettings
from llmbind_cli.inference.decisions import Decision
from llmbind_cli.inference.dispatch import SIGHT_TASKS, dispatch, item_seed, jobs_of_reply
from llmbind_cli.inference.generate import show
from llmbind_cli.inference.masks import OVERLAY, MaskSettings, WithMasks
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import Request
from llmbind_cli.model.config import BundleConfig
from llmbind_cli.weights.atomic import write_atomically

_SUFFIXES = {"png": ".png", "rle": ".json"}
# No mask is written as one of these, and no folder is meant by them.
_UNWRITTEN = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".ppm", ".tif", ".tiff", ".webp"}
)


def segment_picture(
    *,
    image: Path,
    instruction: str,
    out: Path,
    masks: MaskSettings,
    max_new_tokens: int,
    seed: int,
    options: ModelOptions,
) -> None:
    """Cut something out of one picture; see ``commands/segment.md``.

    Args:
        image: The picture.
        instruction: What to cut out, in the user's words.
        out: A folder, or a file with the suffix of the format.
        masks: How masks are written.
        max_new_tokens: Longest reply, in tokens.
        seed: Value of ``--seed``.
        options: The bundle, and where it runs.

    Raises:
        UnavailableError: The bundle has no mask decoder.
        InputDataError: The picture cannot be read, or the instruction is empty.
        OutputError: ``out`` cannot be written.
        PartialFailure: The reply points at nothing, or some of several masks failed.
    """
    if not instruction.strip():
        raise InputDataError("INSTRUCTION is empty: say what to cut out of the picture")
    # All that can be wrong with files and flags is said before a model loads.
    require_sight(options)
    read_picture(image)
    request = Request(
        id=image.stem,
        prompt=instruction,
        images=(image,),
        modality="segment",
        # The seed does not hang on the file's name, which only names the result.
        seed=item_seed(seed, "segment"),
    )
    with _destination(out, masks, image) as (folder, deliver):
        lines = _point(request, masks, folder, options, max_new_tokens=max_new_tokens, seed=seed)
        for line in deliver(lines):
            show(line)
    errors = [line.error for line in lines if line.error is not None]
    if errors and len(errors) < len(lines):
        raise PartialFailure(f"{len(errors)} of {len(lines)} masks failed; the first: {errors[0]}")
    if errors:
        raise errors[0]


def segment_batch(settings: BatchSettings, options: ModelOptions) -> int:
    """Cut something out of the picture of each line of a file of requests.

    Returns:
        0, or 130 or 143 when a signal stopped the run after an item.

    Raises:
        UnavailableError: The bundle has no mask decoder.
        UsageError: ``--out`` names a file.
        PartialFailure: Some items failed or are empty; the others are done.
        LlmbindError: The run as a whole failed.
    """
    require_sight(options)
    if _is_file_name(settings.out):
        raise UsageError(f"--out {settings.out}: --from needs a folder")
    return run_batch(settings, options, report=show)


def require_sight(options: ModelOptions) -> None:
    """Refuse a bundle that cannot cut anything out; nothing is loaded.

    Raises:
        UnavailableError: It has no mask decoder.
        ModelNotFoundError: There is no bundle.
    """
    config = BundleConfig.read(options.folder())
    has_decoder = config.sight is not None and config.sight.grounding_encoder is not None
    if not has_decoder or not any(token.task == "segment" for token in config.tokens):
        raise UnavailableError(
            f"the bundle {config.name} has no mask decoder, so 'segment' cannot run; name one "
            f"that sees with --model"
        )


def _point(
    request: Request,
    masks: MaskSettings,
    folder: ArtifactFolder,
    options: ModelOptions,
    *,
    max_new_tokens: int,
    seed: int,
) -> list[ResultLine]:
    """Ask the model, and carry out what its reply points at."""
    model, plan = options.ask(request, max_new_tokens=max_new_tokens, run_seed=seed)
    decision = Decision.of(plan).restricted_to(SIGHT_TASKS)
    if decision.error is not None or not decision.calls:
        line = decision.line_without_call(request, run_seed=seed, model=model.name)
        folder.append(line)
        return [line]
    jobs = jobs_of_reply(
        decision.calls,
        item_id=request.id,
        run_seed=seed,
        seed=request.seed,
        reply=decision.reply,
        image=request.images[0],
    )
    generators = WithMasks(options.generators({}), lambda: model, masks)
    return dispatch(jobs, generators=generators, artifacts=folder, model=model.name)


_Deliver = Callable[[Sequence[ResultLine]], list[ResultLine]]


@contextmanager
def _destination(
    out: Path, masks: MaskSettings, image: Path
) -> Iterator[tuple[ArtifactFolder, _Deliver]]:
    """Yield the folder to work in, and what brings the results to where they belong.

    Raises:
        OutputError: ``out`` cannot be written.
        UsageError: It is a file whose suffix is not that of the format, or a name that results
            take from it is that of the picture.
    """
    if not _is_file_name(out):
        yield ArtifactFolder(out=out), list
        return
    if out.suffix.lower() != _SUFFIXES[masks.format]:
        raise UsageError(
            f"--out {out}: --format {masks.format} is written as {_SUFFIXES[masks.format]}"
        )
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written; is {out.parent} a folder that you may write?")
    _spare(image, out)
    with tempfile.TemporaryDirectory() as folder:
        yield ArtifactFolder(out=Path(folder)), lambda lines: _move(lines, out)


def _spare(image: Path, out: Path) -> None:
    """Refuse an output file if it, or a name that :func:`_move` takes from it, is the picture.

    Raises:
        UsageError: It is.
    """
    # The first mask has no number, so the others count from 2.
    name = re.compile(
        rf"{re.escape(out.stem)}(-([2-9]|[1-9]\d+))?(-{OVERLAY})?\.(png|json)", re.IGNORECASE
    )
    for path in out.parent.iterdir():
        if name.fullmatch(path.name) and path.exists() and path.samefile(image):
            raise UsageError(f"--out {out}: {path} is the picture itself; name another file")


def _move(lines: Sequence[ResultLine], out: Path) -> list[ResultLine]:
    """Write each result under the name that was asked for, from the second one on with a number."""
    moved, taken = [], 0
    for line in lines:
        files = []
        # The first file is the mask or box; what comes with it is the overlay.
        for place, file in enumerate(line.files):
            made = Path(file.path)
            is_overlay = place > 0
            taken += not is_overlay
            number = "" if taken == 1 else f"-{taken}"
            label = f"-{OVERLAY}" if is_overlay else ""
            suffix = out.suffix if made.suffix == out.suffix.lower() else made.suffix
            target = out.with_name(f"{out.stem}{number}{label}{suffix}")
            write_atomically(target, partial(_copy, made))
            files.append(
                ArtifactFile(path=str(target), sha256=file.sha256, media_type=file.media_type)
            )
        moved.append(replace(line, files=tuple(files)))
    return moved


def _copy(made: Path, stream: BinaryIO) -> None:
    stream.write(made.read_bytes())


def _is_file_name(out: Path) -> bool:
    return out.suffix.lower() in {*_SUFFIXES.values(), *_UNWRITTEN} and not out.is_dir()
