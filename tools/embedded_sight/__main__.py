"""Make what the embedded bundle sees with, one command a stage.

python tools/embedded_sight ground SPRITES.npz WORK [--photos FOLDER]
python tools/embedded_sight draw DRAWINGS
python tools/embedded_sight name SPRITES.npz WORK [--photos FOLDER]
python tools/embedded_sight speak SPRITES.npz WORK [--photos FOLDER]
python tools/embedded_sight follow SPRITES.npz BUNDLE --like BUNDLE [--photos FOLDER]
python tools/embedded_sight fit SPRITES.npz WORK --into BUNDLE [--photos FOLDER]
python tools/embedded_sight held-out SPRITES.npz OUT [--photos FOLDER]
python tools/embedded_sight suite SPRITES.npz OUT
python tools/embedded_sight photos COCO128 OUT [--deeplab FILE.tflite]
python tools/embedded_sight fit-photos COCO128 OUT
python tools/embedded_sight join WORK OUTPUT --set 'data.0.sprites="SPRITES.npz"' [--resume]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

# Run as a folder, Python puts the folder itself on the path and not the one above it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from embedded_sight import stages

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    commands = parser.add_subparsers(dest="stage", required=True)
    _add_teaching(commands)
    _add_measuring(commands)
    arguments = parser.parse_args()
    if getattr(arguments, "coined", 0.0) and not arguments.strange:
        parser.error("--coined is a share of the things that --strange leaves without names")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    arguments.run(arguments)


def _add_teaching(commands: Any) -> None:
    """Add the stages that make parts of a bundle."""
    stage = _stage(commands, stages.ground, "sprites", "work", photos=True)
    stage.add_argument("--steps", type=int, default=8000)
    stage.add_argument("--workers", type=int, default=0, help="processes that look ahead")
    stage.add_argument("--like", type=Path, help="earlier grounding.pt: begin with what fits of it")
    stage = _stage(commands, stages.draw, "out")
    stage.add_argument("--count", type=int, default=3000, help="scenes to learn from")
    stage = _stage(commands, stages.name, "sprites", "work", photos=True)
    stage.add_argument("--drawings", type=Path, help="what draw made: every fourth picture")
    stage.add_argument("--steps", type=int, default=3000)
    stage.add_argument("--workers", type=int, default=0, help="processes that look ahead")
    stage.add_argument("--like", type=Path, help="another projector.pt, to go on from what fits")
    stage.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    stage.add_argument("--into", type=Path, help="bundle that sees alike, to put it into")
    stage.add_argument("--set", dest="overrides", action="append", default=[])
    stage = _stage(commands, stages.speak, "sprites", "work", photos=True)
    stage.add_argument("--count", type=int, default=700, help="dialogues to read")
    stage.add_argument("--into", type=Path, help="bundle to go on from and to put both into")
    stage.add_argument(
        "--states", type=Path, nargs="*", help="states.pt of the same language model, read before"
    )
    stage.add_argument("--set", dest="overrides", action="append", default=[])
    stage = _stage(commands, stages.follow, "sprites", "bundle", photos=True)
    stage.add_argument("--count", type=int, default=2300, help="dialogues to read")
    stage.add_argument("--like", default="embedded", help="bundle with the same mask decoder")
    stage = _stage(commands, stages.fit, "sprites", "work", photos=True)
    stage.add_argument("--drawings", type=Path, help="what draw made: every fourth picture")
    stage.add_argument("--count", type=int, default=2600, help="dialogues to read")
    reading = stage.add_mutually_exclusive_group()
    reading.add_argument("--read", type=Path, nargs="*", help="masks.pt that were read before")
    _add_strange(reading)
    _add_coined(stage)
    told = "the decoder alone learns; of what points, how much an unsure name counts"
    stage.add_argument("--keep-prompts", action="store_true", help=told)
    stage.add_argument("--steps", type=int, default=2000)
    stage.add_argument("--lr", type=float, default=5e-4, help="highest learning rate")
    stage.add_argument(
        "--into", type=Path, required=True, help="bundle to go on from and to put both into"
    )
    stage = _stage(commands, stages.join, "work", "output")
    stage.add_argument("--set", dest="overrides", action="append", default=[])
    stage.add_argument("--resume", action="store_true")
    lists = stage.add_mutually_exclusive_group()
    lists.add_argument(
        "--true-lists", action="store_true", help="read what is in a scene, not what is seen"
    )
    _add_strange(lists)
    _add_coined(stage)
    stage.add_argument(
        "--kept", type=Path, metavar="BUNDLE", help="go on speaking of words alone as it does"
    )


def _add_strange(options: Any) -> None:
    """Add the option to list things that have no name there."""
    told = "of the things in a picture: their names are missing in its list, as if never learned"
    options.add_argument("--strange", type=float, default=0.0, metavar="SHARE", help=told)


def _add_coined(options: Any) -> None:
    """Add the option to call such things by new words."""
    told = "of those without names, that bear words which nothing else bears"
    options.add_argument("--coined", type=float, default=0.0, metavar="SHARE", help=told)


def _add_measuring(commands: Any) -> None:
    """Add the stages that make what a bundle is measured on."""
    stage = _stage(commands, stages.held_out, "sprites", "out", photos=True)
    stage.add_argument("--count", type=int, default=200, help="pictures of each kind and row")
    stage.add_argument("--drawings", type=Path, help="what draw made: write those held out, too")
    stage = _stage(commands, stages.suite, "sprites", "out")
    stage.add_argument("--count", type=int, default=32, help="expressions, and questions")
    stage = _stage(commands, stages.photos, "root", "out")
    stage.add_argument("--deeplab", type=Path, help="needs: pip install ai-edge-litert")
    stage = _stage(commands, stages.fit_photos, "root", "out")
    stage.add_argument("--steps", type=int, default=3000)
    stage.add_argument("--wordings", type=int, default=2, help="replies to each expression")


def _stage(
    commands: Any, run: Callable[[argparse.Namespace], None], *paths: str, photos: bool = False
) -> argparse.ArgumentParser:
    """Add a stage that takes some paths."""
    stage: argparse.ArgumentParser = commands.add_parser(
        run.__name__.replace("_", "-"), help=run.__doc__
    )
    for path in paths:
        stage.add_argument(path, type=Path)
    if photos:
        stage.add_argument("--photos", type=Path, help="photos to stand behind some of the scenes")
    stage.set_defaults(run=run, photos=None)
    return stage


if __name__ == "__main__":
    main()
