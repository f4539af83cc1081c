"""Train and rate the judge.

    python tools/embedded_generator/judge train SOURCE OUT [--steps 2000] [--without twemoji]
    python tools/embedded_generator/judge score SOURCE OUT SPRITES.npz

SOURCE is the folder that ``fetch.py`` filled; the other styles are fetched into it. OUT gets
``judge.safetensors`` and the state of the run. ``score`` tells how well the judge knows drawings
that it never saw: those of SPRITES, the style that the generator learns from. What it cannot tell
there it cannot tell in the generator's pictures either.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

# Run as a folder, Python puts the folder itself on the path and not the one above it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Run one command."""
    from judge.ceiling import rate
    from judge.recognise import Judge
    from judge.styles import STYLES, fetch_styles, load_styles
    from judge.training import JudgeTraining, train
    from judge.views import Views
    from llmbind_cli.data.scenes.sprites import Sprites
    from llmbind_cli.data.scenes.world import load_world

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train, or go on")
    scoring = commands.add_parser("score", help="rate on drawings that were not learnt from")
    for command in (training, scoring):
        command.add_argument("source", type=Path)
        command.add_argument("out", type=Path)
    training.add_argument("--steps", type=int, default=2000)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--without", choices=STYLES, help="leave a style out, to score it")
    scoring.add_argument("sprites", type=Path, help="a sheet that render.py drew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = load_world()
    if arguments.command == "train":
        fetch_styles(arguments.source)
        styles = load_styles(arguments.source, arguments.source / "sheets", world)
        styles.pop(arguments.without, None)
        views = Views(world=world, styles=styles, seed=arguments.seed)
        train(views=views, settings=JudgeTraining(steps=arguments.steps), folder=arguments.out)
        return
    judge = Judge.load(arguments.out / "judge.safetensors", world)
    report = rate(judge, Sprites.load(arguments.sprites))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
