"""Make the embedded image generator, one command a stage; a stopped stage goes on.

    python tools/embedded_generator/painter words SPRITES.npz WORK       # about 5 minutes
    python tools/embedded_generator/painter denoiser SPRITES.npz WORK    # about 2 hours of a core
    python tools/embedded_generator/painter autoencoder SPRITES.npz WORK # about 35 minutes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

# Run as a folder, Python puts the folder itself on the path and not the one above it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SEED = 0


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, steps in (("words", 700), ("denoiser", 6000), ("autoencoder", 2400)):
        stage = stages.add_parser(name)
        stage.add_argument("sprites", type=Path, help="a sheet that render.py drew")
        stage.add_argument("work", type=Path, help="folder of all that is made")
        stage.add_argument("--steps", type=int, default=steps)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    {"words": words, "denoiser": denoiser, "autoencoder": autoencoder}[arguments.stage](arguments)


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
    space = PatchSpace.fit(batches.batch(0, 2000)[0])
    space.save(arguments.work / "patch_space.safetensors")
    images = batches.batch(1, 200)[0]
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


def denoiser(arguments: argparse.Namespace) -> None:
    """Train denoiser and text encoder together."""
    from transformers import AutoTokenizer, CLIPTextModel

    from llmbind_cli.data.scenes.sprites import Sprites
    from llmbind_cli.data.scenes.world import load_world
    from painter.latents import PICTURE_PX, PatchSpace
    from painter.networks import build_scheduler, build_unet
    from painter.scenes import EARLY_MIX, LATE_MIX, SceneBatches
    from painter.training import DenoiserTraining, train_denoiser

    world, sprites = load_world(), Sprites.load(arguments.sprites).scaled(PICTURE_PX)
    work = arguments.work
    early, late = (
        SceneBatches(world, sprites, size_px=PICTURE_PX, seed=SEED + 1, mix=mix)
        for mix in (EARLY_MIX, LATE_MIX)
    )
    unet, text_encoder = build_unet(), CLIPTextModel.from_pretrained(work / "text_encoder_words")

    def save() -> None:
        unet.save_pretrained(work / "unet")
        text_encoder.save_pretrained(work / "text_encoder")

    train_denoiser(
        unet,
        text_encoder,
        AutoTokenizer.from_pretrained(work / "tokenizer"),
        build_scheduler(),
        PatchSpace.load(work / "patch_space.safetensors"),
        early,
        late,
        settings=DenoiserTraining(steps=arguments.steps),
        folder=work,
        save=save,
    )


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
    batches = SceneBatches(load_world(), sprites, size_px=vae.config.sample_size, seed=SEED + 2)
    train_autoencoder(
        vae,
        PatchSpace.load(arguments.work / "patch_space.safetensors"),
        batches,
        settings=AutoencoderTraining(steps=arguments.steps),
        folder=arguments.work,
    )
    vae.save_pretrained(arguments.work / "vae")


if __name__ == "__main__":
    main()
