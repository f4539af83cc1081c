"""``llmbind edit``: one picture and what to change about it, or a file of such requests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llmbind_cli.data.pictures import read_picture
from llmbind_cli.errors import InputDataError, OutputError, PartialFailure, UsageError
from llmbind_cli.generators.registry import GeneratorRegistry
from llmbind_cli.inference.artifacts import ArtifactFile, ArtifactFolder, ResultLine
from llmbind_cli.inference.batch.batch import run_batch
from llmbind_cli.inference.batch.batch_settings import BatchSettings
from llmbind_cli.inference.dispatch import Job, dispatch, item_seed, jobs_of_reply
from llmbind_cli.inference.generate import show
from llmbind_cli.inference.model_options import ModelOptions
from llmbind_cli.inference.requests import Request
from llmbind_cli.inference.rounds import run_in_rounds
from llmbind_cli.weights.atomic import write_atomically
from llmbind_cli.weights.hashes import sha256_file

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Other suffixes may end the name of a folder, as in v1.2; these cannot be meant as one.
_UNWRITTEN = {".avif", ".bmp", ".gif", ".heic", ".ppm", ".tif", ".tiff"}
_QUALITY = 95  # of JPEG and WebP: no loss that the eye sees


def edit_picture(
    *,
    image: Path,
    instruction: str,
    out: Path,
    direct: bool,
    generators: dict[str, str],
    max_new_tokens: int,
    seed: int,
    options: ModelOptions,
) -> None:
    """Change one picture; see ``commands/edit.md``.

    Args:
        image: The picture.
        instruction: What to change, in the user's words.
        out: A folder, or a file whose suffix names a type of picture.
        direct: Hand the words to the generator as they are, instead of those that the language
            model makes of them.
        generators: Modality → source, from ``--generator``.
        max_new_tokens: Longest reply, in tokens.
        seed: Value of ``--seed``.
        options: The bundle, and where it runs.

    Raises:
        ModelNotFoundError: There is no edit generator.
        InputDataError: The picture cannot be read, or the instruction is empty.
        OutputError: ``out`` cannot be written.
        UsageError: ``out`` is the picture, or a file of a type that llmbind does not write.
        PartialFailure: The model asks for something else, or for nothing that can be run.
        LlmbindError: The edit failed.
    """
    if not instruction.strip():
        raise InputDataError("INSTRUCTION is empty: say what to change about the picture")
    # All that can be wrong with files and flags is said before a model loads.
    registry = options.generators(generators)
    registry.check("edit")
    read_picture(image)
    # The seed does not hang on the file's name, which only names the result.
    own_seed = item_seed(seed, "edit")
    request = Request(
        id=image.stem, prompt=instruction, images=(image,), modality="edit", seed=own_seed
    )
    with _destination(out, image) as (folder, deliver):
        if direct:
            name = None
            jobs = [
                Job(item_id=request.id, index=0, task="edit", prompt=instruction, seed=own_seed)
            ]
        else:
            name, jobs = _decide(request, options, max_new_tokens=max_new_tokens, run_seed=seed)
        lines = run_in_rounds(
            [jobs],
            pictures={request.id: image},
            run=lambda ready: _run(ready, registry, folder, name),
        )
        for line in deliver(lines):
            show(line)
    for line in lines:
        if line.error is not None:
            raise line.error


def edit_batch(settings: BatchSettings, options: ModelOptions) -> int:
    """Change the picture of each line of a file of requests.

    Returns:
        0, or 130 or 143 when a signal stopped the run after an item.

    Raises:
        UsageError: ``--out`` names a file.
        PartialFailure: Some items failed; the others are done.
        LlmbindError: The run as a whole failed.
    """
    if _is_file_name(settings.out):
        raise UsageError(f"--out {settings.out}: --from needs a folder")
    options.generators(settings.generators).check("edit")
    return run_batch(settings, options, report=show)


def _decide(
    request: Request, options: ModelOptions, *, max_new_tokens: int, run_seed: int
) -> tuple[str, list[Job]]:
    """Let the language model say the instruction in the generator's words."""
    model, plan = options.ask(request, max_new_tokens=max_new_tokens, run_seed=run_seed)
    if plan.error is not None:
        raise plan.error
    other = [call.task for call in plan.calls if call.task != "edit"]
    if other or not plan.calls:
        raise PartialFailure(
            f"the model asks for {', '.join(other) or 'nothing'}, not for an edit: {plan.reply}; "
            f"say it otherwise, or hand the words over with --direct"
        )
    jobs = jobs_of_reply(
        plan.calls, item_id=request.id, run_seed=run_seed, seed=request.seed, reply=plan.reply
    )
    return model.name, jobs


def _run(
    jobs: Sequence[Job], registry: GeneratorRegistry, folder: ArtifactFolder, name: str | None
) -> list[ResultLine]:
    return dispatch(list(jobs), generators=registry, artifacts=folder, model=name)


_Deliver = Callable[[Sequence[ResultLine]], list[ResultLine]]


@contextmanager
def _destination(out: Path, image: Path) -> Iterator[tuple[ArtifactFolder, _Deliver]]:
    """Yield the folder to work in, and what brings the results to where they belong.

    Raises:
        OutputError: ``out`` cannot be written.
        UsageError: It is a file of a type that llmbind does not write, or ``image`` itself.
    """
    if not _is_file_name(out):
        yield ArtifactFolder(out=out), list
        return
    if out.suffix.lower() not in _FORMATS:
        raise UsageError(f"--out {out}: a picture is written as {', '.join(_FORMATS)}")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written; is {out.parent} a folder that you may write?")
    if out.exists() and out.samefile(image):
        raise UsageError(f"--out {out} is the picture itself; name another file")
    with tempfile.TemporaryDirectory() as folder:
        yield ArtifactFolder(out=Path(folder)), lambda lines: _write_last(lines, out)


def _write_last(lines: Sequence[ResultLine], out: Path) -> list[ResultLine]:
    """Write the last picture to ``out``; those on the way to it are not kept."""
    last = lines[-1]
    if not last.files:
        return [last]
    kind = _FORMATS[out.suffix.lower()]
    made = Path(last.files[0].path)
    if kind == "PNG":
        content = made.read_bytes()
        write_atomically(out, lambda stream: stream.write(content))
    else:
        picture = read_picture(made)
        write_atomically(out, lambda stream: picture.save(stream, format=kind, quality=_QUALITY))
    file = ArtifactFile(path=str(out), sha256=sha256_file(out), media_type=f"image/{kind.lower()}")
    return [replace(last, files=(file,))]


def _is_file_name(out: Path) -> bool:
    return out.suffix.lower() in _FORMATS.keys() | _UNWRITTEN and not out.is_dir()
