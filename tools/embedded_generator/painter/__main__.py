"""Make the embedded image generator, one command a stage.

python tools/embedded_generator/painter words SPRITES.npz WORK
python tools/embedded_generator/painter names SPRITES.npz WORK
python tools/embedded_generator/painter plan SPRITES.npz WORK
python tools/embedded_generator/painter denoiser SPRITES.npz WORK
python tools/embedded_generator/painter together SPRITES.npz WORK
python tools/embedded_generator/painter enliven SPRITES.npz WORK
python tools/embedded_generator/painter autoencoder SPRITES.npz WORK
python tools/embedded_generator/painter export WORK PIPELINE
python tools/embedded_generator/painter measure PIPELINE JUDGE --report REPORT.json
python tools/embedded_generator/painter card PIPELINE REPORT.json CEILING.json
python tools/embedded_generator/painter sheet PIPELINE SHEET.png

``--threads N`` before the stage computes with more than one; the result then differs in rounding.

The long stages, from ``plan`` to ``autoencoder``, go on where they were stopped; ``words`` and
``names`` take minutes and start anew. ``plan``, ``denoiser`` and ``autoencoder`` need nothing of
each other.

SPRITES.npz is the sheet that ``render.py`` drew, WORK a folder for all that is made, JUDGE the
folder of ``judge.safetensors``, CEILING.json what ``judge score`` printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

# Run as a folder, Python puts the folder itself on the path and not those above it.
sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

if TYPE_CHECKING:
    from painter.latents import PatchSpace
    from painter.scenes import SceneBatches

SEED = 0

STEADINESS = 0.4
"""Share of the denoiser without variety in the one that is shipped. Weights between those before
and after a fine-tuning keep what both do well (Wortsman et al., arXiv 2109.01903)."""

SHEET = (
    "a red apple next to a cat", "a dog", "a blue car", "two strawberries", "an owl at night",
    "a rocket", "a pink elephant", "a cup of coffee",
    "a green frog on a purple background", "a fish in the sea", "a guitar", "three bananas",
    "a penguin in the snow", "a sunflower", "a purple hat", "a pizza",
    "a cactus to the left of a camel", "a crab on the beach", "a yellow umbrella", "a lion",
    "a balloon above a house", "a small mouse", "a bicycle on the street", "a birthday cake",
    "a black cat", "a tree", "an orange teapot", "a robot", "a bee and a flower", "a castle",
    "a snail below a mushroom", "a blue butterfly",
)  # fmt: skip
"""Prompts of the sheet of samples."""


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    stages = parser.add_subparsers(dest="stage", required=True)
    for run, steps in (
        (words, 700), (names, 2400), (plan, 4000), (denoiser, 3000), (together, 3000),
        (enliven, 2000), (autoencoder, 1500),
    ):  # fmt: skip
        stage = stages.add_parser(run.__name__, help=run.__doc__)
        stage.add_argument("sprites", type=Path)
        stage.add_argument("work", type=Path)
        stage.add_argument("--steps", type=int, default=steps)
        if run is together:
            stage.add_argument("--text-lr", type=float, default=5e-4, help="0: it learns no more")
        stage.set_defaults(run=run)
    stage = stages.add_parser("export", help=put_together.__doc__)
    stage.add_argument("work", type=Path)
    stage.add_argument("pipeline", type=Path)
    stage.add_argument("--sixteen-bit", action="store_true", help="store no weight in 8 bits")
    stage.set_defaults(run=put_together)
    stage = stages.add_parser("measure", help=measured.__doc__)
    stage.add_argument("pipeline", type=Path)
    stage.add_argument("judge", type=Path)
    stage.add_argument("--names", type=int, default=500)
    stage.add_argument("--scenes", type=int, default=300)
    stage.add_argument("--report", type=Path)
    stage.set_defaults(run=measured)
    stage = stages.add_parser("card", help=card.__doc__)
    stage.add_argument("pipeline", type=Path)
    stage.add_argument("report", type=Path)
    stage.add_argument("ceiling", type=Path)
    stage.set_defaults(run=card)
    stage = stages.add_parser("sheet", help=sheet.__doc__)
    stage.add_argument("pipeline", type=Path)
    stage.add_argument("out", type=Path)
    stage.add_argument("--prompts", type=Path, help="one prompt a line, in place of the built-in")
    stage.set_defaults(run=sheet)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    arguments.run(arguments)


def words(arguments: argparse.Namespace) -> None:
    """Fit latent space and tokenizer; teach the text encoder what captions name."""
    from llmbind_cli.data.scenes.sprites import Sprites
    from llmbind_cli.data.scenes.world import load_world
    from painter.latents import PICTURE_PX, PatchSpace
    from painter.networks import build_text_encoder, train_tokenizer
    from painter.scenes import SceneBatches
    from painter.training import teach_words

    world, sprites = load_world(), Sprites.load(arguments.sprites).scaled(PICTURE_PX)
    batches = SceneBatches(world, sprites, size_px=PICTURE_PX, seed=SEED)
    arguments.work.mkdir(parents=True, exist_ok=True)
    space = PatchSpace.fit(batches.pictures(0, 2000))
    space.save(arguments.work / "patch_space.safetensors")
    images = batches.pictures(1, 200)
    wrong = (space.decode(space.encode(images)).astype(np.float64) - images) ** 2
    print(f"latent space: {10 * np.log10(255**2 / wrong.mean()):.1f} dB")
    names = [form for thing in world for noun in thing.names for form in (noun.one, noun.many)]
    captions = [line for number in range(200) for line in batches.captions(number, 200)]
    tokenizer = train_tokenizer([*captions, *(name for name in names if name)])
    tokenizer.save_pretrained(arguments.work / "tokenizer")
    lengths = np.array([len(tokenizer(line).input_ids) for line in captions[:4000]])
    print(f"captions: mean {lengths.mean():.1f} ids, 99 % within {np.percentile(lengths, 99):.0f}")
    text_encoder = build_text_encoder(len(tokenizer))
    teach_words(text_encoder, tokenizer, space, batches, steps=arguments.steps)
    text_encoder.save_pretrained(arguments.work / "text_encoder_words")


def names(arguments: argparse.Namespace) -> None:
    """Teach the text encoder what each thing looks like."""
    from transformers import AutoTokenizer, CLIPTextModel

    from llmbind_cli.data.scenes.sprites import Sprites
    from llmbind_cli.data.scenes.world import load_world
    from painter.latents import PICTURE_PX, PatchSpace
    from painter.names import teach_names

    work = arguments.work
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder_words")
    teach_names(
        text_encoder,
        AutoTokenizer.from_pretrained(work / "tokenizer"),
        PatchSpace.load(work / "patch_space.safetensors"),
        load_world(),
        Sprites.load(arguments.sprites).scaled(PICTURE_PX),
        steps=arguments.steps,
        seed=SEED,
    )
    text_encoder.save_pretrained(work / "text_encoder_names")


def plan(arguments: argparse.Namespace) -> None:
    """Teach the text encoder to plan a picture."""
    from transformers import CLIPTextModel

    from painter.networks import with_planning_layers
    from painter.plan import teach_plans

    work = arguments.work
    text_encoder = with_planning_layers(CLIPTextModel.from_pretrained(work / "text_encoder_names"))
    tokenizer, space, batches = _material(arguments)
    teach_plans(text_encoder, tokenizer, space, batches, steps=arguments.steps, folder=work)
    text_encoder.save_pretrained(work / "text_encoder_plan")


def denoiser(arguments: argparse.Namespace) -> None:
    """Teach the denoiser to draw what a plan tells."""
    from painter.networks import build_unet

    unet = build_unet()
    _train_denoiser(arguments, unet, None)
    unet.save_pretrained(arguments.work / "unet_of_plans")


def together(arguments: argparse.Namespace) -> None:
    """Train denoiser and text encoder together."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    work = arguments.work
    unet = UNet2DConditionModel.from_pretrained(work / "unet_of_plans")
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder_plan")
    _train_denoiser(arguments, unet, text_encoder)
    unet.save_pretrained(work / "unet")
    text_encoder.save_pretrained(work / "text_encoder")


def enliven(arguments: argparse.Namespace) -> None:
    """Have the denoiser vary what no caption tells; what is kept lies between then and now."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    work = arguments.work
    unet = UNet2DConditionModel.from_pretrained(work / "unet")
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder")
    arguments.text_lr = 0.0  # what it plans is what it planned
    _train_denoiser(arguments, unet, text_encoder)
    lively = unet.state_dict()
    unet.load_state_dict({n: torch.lerp(lively[n], before[n], STEADINESS) for n in lively})
    unet.save_pretrained(work / "unet_lively")


def _train_denoiser(arguments: argparse.Namespace, unet: Any, text_encoder: Any | None) -> None:
    from painter.networks import build_scheduler
    from painter.training import DenoiserTraining, train_denoiser

    settings = DenoiserTraining(steps=arguments.steps)
    if text_encoder is not None:  # it has seen variety before
        settings = replace(settings, varied_from=0.0, text_lr=arguments.text_lr)
    tokenizer, space, batches = _material(arguments)
    train_denoiser(
        unet=unet,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        space=space,
        batches=batches,
        settings=settings,
        state=arguments.work / f"{arguments.stage}.pt",
    )


def _material(arguments: argparse.Namespace) -> tuple[Any, PatchSpace, SceneBatches]:
    """Return tokenizer, latent space and scenes; each stage draws its own scenes."""
    from transformers import AutoTokenizer

    from llmbind_cli.data.scenes.sprites import Sprites
    from llmbind_cli.data.scenes.world import load_world
    from painter.latents import PICTURE_PX, PatchSpace
    from painter.scenes import SceneBatches

    sprites = Sprites.load(arguments.sprites).scaled(PICTURE_PX)
    batches = SceneBatches(
        load_world(),
        sprites,
        size_px=PICTURE_PX,
        seed=SEED + _SCENES[arguments.stage],
        lively=arguments.stage == "enliven",
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.work / "tokenizer")
    return tokenizer, PatchSpace.load(arguments.work / "patch_space.safetensors"), batches


_SCENES = {"plan": 1, "denoiser": 2, "together": 3, "enliven": 5}
"""What is added to the seed of each stage's scenes."""


def autoencoder(arguments: argparse.Namespace) -> None:
    """Train the autoencoder."""
    from llmbind_cli.data.scenes.sprites import Sprites
    from llmbind_cli.data.scenes.world import load_world
    from painter.autoencoder_training import AutoencoderTraining, train_autoencoder
    from painter.latents import PatchSpace
    from painter.networks import build_vae
    from painter.scenes import SceneBatches

    vae = build_vae()
    sprites = Sprites.load(arguments.sprites)
    batches = SceneBatches(load_world(), sprites, size_px=vae.config.sample_size, seed=SEED + 4)
    train_autoencoder(
        vae,
        PatchSpace.load(arguments.work / "patch_space.safetensors"),
        batches,
        settings=AutoencoderTraining(steps=arguments.steps),
        folder=arguments.work,
    )
    vae.save_pretrained(arguments.work / "vae")


def put_together(arguments: argparse.Namespace) -> None:
    """Write the pipeline in the form in which it is shipped."""
    from painter.export import export

    export(arguments.work, arguments.pipeline, eight_bit=not arguments.sixteen_bit)
    size = sum(path.stat().st_size for path in arguments.pipeline.rglob("*") if path.is_file())
    print(f"{arguments.pipeline}: {size / 1e6:.1f} MB")


def measured(arguments: argparse.Namespace) -> None:
    """Have the judge look at what a pipeline draws."""
    from judge.recognise import Judge

    from llmbind_cli.data.scenes.world import load_world
    from painter.measure import Drawer, measure

    judge = Judge.load(arguments.judge / "judge.safetensors", load_world())
    drawer = Drawer(arguments.pipeline, seed=SEED)
    report = measure(drawer, judge, names=arguments.names, scenes=arguments.scenes, seed=SEED)
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if arguments.report:
        arguments.report.write_text(text, encoding="utf-8")


def card(arguments: argparse.Namespace) -> None:
    """Write the model card into a pipeline's folder."""
    import math

    from safetensors import safe_open

    from painter.card import model_card

    parameters = 0
    for path in arguments.pipeline.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            parameters += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    report, ceiling = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (arguments.report, arguments.ceiling)
    )
    text = model_card(report, ceiling, parameters=parameters)
    (arguments.pipeline / "README.md").write_text(text, encoding="utf-8")


def sheet(arguments: argparse.Namespace) -> None:
    """Draw a sheet of samples to look at."""
    from PIL import Image

    from painter.measure import Drawer

    prompts = SHEET
    if arguments.prompts:
        prompts = tuple(arguments.prompts.read_text(encoding="utf-8").splitlines())
    images = Drawer(arguments.pipeline, seed=SEED).draw(prompts)
    columns = 8
    cells = [*images, *[np.full_like(images[0], 255)] * (-len(images) % columns)]
    rows = [np.concatenate(cells[n : n + columns], 1) for n in range(0, len(cells), columns)]
    Image.fromarray(np.concatenate(rows)).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
