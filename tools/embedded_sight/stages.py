"""What each command of ``python tools/embedded_sight`` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedded_sight.scenes import SEED, Scenes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from resumable.state import Terms

    from embedded_sight.drawings import Samples
    from embedded_sight.names import Names
    from embedded_sight.reading import ReadMasks
    from llmbind_cli.model.bound_model import BoundModel
    from llmbind_cli.training.start import Start

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "embedded-sight.toml"
SCORED, DRAWN_HELD_OUT = 160, 400
"""Pictures of each kind that a projector is scored on while it learns; drawings held out."""

MASK_PX, APART = 4, 21
"""Pixels of the encoder's square that make one of a mask to fit to; the fit is scored on every so
many-th picture, an odd number, since every fourth is a drawing.
"""


def ground(arguments: argparse.Namespace) -> None:
    """Teach the mask decoder phrases."""
    from resumable.state import take_what_fits

    from embedded_sight.grounding import Asking, Grounding, teach_grounding

    (model, _), scenes = _model(), _scenes(arguments)
    embedding = model.language_model.get_input_embeddings()
    names = _names(model, scenes)

    def looking(split: str, **how: float) -> Asking:
        questions = scenes.pointing(split, name="ground")
        return Asking(names=names, questions=questions, sight=model.sight, **how)

    networks = Grounding(model.sight, embedding, model.tokenizer)
    if arguments.like is not None:
        take_what_fits(networks, torch.load(arguments.like, weights_only=True)["networks"])
    arguments.work.mkdir(parents=True, exist_ok=True)
    teach_grounding(
        networks,
        names,
        looking("train"),
        {
            "sharp": looking("held_out_scenes", soft=0.0).look(range(120)),
            "soft": looking("held_out_scenes", soft=1.0).look(range(120)),
        },
        steps=arguments.steps,
        state=arguments.work / "grounding.pt",
        workers=arguments.workers,
    )


def draw(arguments: argparse.Namespace) -> None:
    """Have the embedded generator draw scenes, to learn from and to score on."""
    from importlib import resources

    from embedded_sight.drawings import draw_all
    from llmbind_cli.data.scenes.world import load_world
    from llmbind_cli.generators.image import ImageGenerator

    bundle = Path(str(resources.files("llmbind_cli") / "bundles" / "embedded"))
    generator = ImageGenerator.load(bundle / "generators" / "image", name="embedded/image")
    counts = {"train": arguments.count, "held_out": DRAWN_HELD_OUT}
    draw_all(generator, load_world(), arguments.out, seed=SEED, counts=counts)


def name(arguments: argparse.Namespace) -> None:
    """Teach the projector to name what the vision tower sees."""
    from resumable.state import take_what_fits

    from embedded_sight.drawings import Alternating
    from embedded_sight.joint import take_first_stages
    from embedded_sight.naming import Describing, begin_neck, teach_projector
    from embedded_sight.speaking import give_projector

    (model, start), scenes = _model(arguments.overrides), _scenes(arguments)
    if model.sight is None:
        raise SystemExit("the recipe's model must see")
    take_first_stages(model, arguments.work, start)
    begin_neck(model.sight)
    begun = 0
    if arguments.like is not None:
        earlier = torch.load(arguments.like, weights_only=True)
        begun = earlier["step"]
        take_what_fits(model.sight.projector, earlier["projector"])
    arguments.work.mkdir(parents=True, exist_ok=True)
    names, sight = _names(model, scenes), model.sight

    def looking(questions: Samples) -> Describing:
        return Describing(names=names, questions=questions, sight=sight, kept=20_000)

    teaching: Samples = scenes.pointing("train", name="name")
    scored: dict[str, Samples] = {"scenes": scenes.pointing("held_out_scenes", name="name")}
    if arguments.drawings is not None:
        teaching = Alternating(teaching, scenes.drawn(arguments.drawings, "train"))
        scored["drawings"] = scenes.drawn(arguments.drawings, "held_out")
    teach_projector(
        sight.projector,
        names,
        looking(teaching),
        {kind: looking(samples).look(range(SCORED)) for kind, samples in scored.items()},
        steps=arguments.steps,
        state=arguments.work / "projector.pt",
        begun=begun,
        lr=arguments.lr,
        workers=arguments.workers,
    )
    if arguments.into is not None:
        steps = torch.load(arguments.work / "projector.pt", weights_only=True)["step"]
        told = {"tool": "tools/embedded_sight, name", "steps": steps, "seed": SEED}
        give_projector(arguments.into, model, told)


def speak(arguments: argparse.Namespace) -> None:
    """Fit the prompt projection to the states of the language model as it stands."""
    from embedded_sight.joint import take_first_stages
    from embedded_sight.speaking import ReadPhrases, collect, give_decoder, teach_speaking

    overrides = [*arguments.overrides]
    if arguments.into is not None:
        overrides.append(f"model.start={json.dumps(str(arguments.into.resolve()))}")
    model, _ = _model(overrides)
    teacher = take_first_stages(model, arguments.work)
    if teacher is None:
        raise SystemExit("speak needs the reader that ground teaches; without one, see follow")
    questions = _scenes(arguments).speaking()
    if arguments.states:
        read = ReadPhrases.of([ReadPhrases.load(path) for path in arguments.states])
    else:
        read = collect(model, questions, range(arguments.count))
        read.save(arguments.work / "states.pt")
    teach_speaking(model, teacher, read, path=arguments.work / "projection.pt")
    if arguments.into is not None:
        steps = torch.load(arguments.work / "grounding.pt", weights_only=True)["step"]
        told = {
            "tool": "tools/embedded_sight, ground and speak",
            "steps": steps,
            "states": len(read.states),
            "seed": SEED,
        }
        give_decoder(arguments.into, model, told)


def follow(arguments: argparse.Namespace) -> None:
    """Fit a bundle's prompt projection to the prompts of another with the same mask decoder."""
    from embedded_sight.speaking import follow as fit
    from embedded_sight.speaking import give_prompts
    from llmbind_cli.console import console
    from llmbind_cli.model.loader import load_model

    model, other = (load_model(str(b), device="cpu") for b in (arguments.bundle, arguments.like))
    if model.sight is None:
        raise SystemExit(f"{arguments.bundle} does not see")
    best = fit(model, other, _scenes(arguments).speaking(), arguments.count)
    told = {
        "tool": "tools/embedded_sight, follow",
        "like": other.name,
        "dialogues": arguments.count,
        "seed": SEED,
    }
    give_prompts(arguments.bundle, model, told)
    console.log(f"{best:.3f} of the variance of the other bundle's prompts explained")


def fit(arguments: argparse.Namespace) -> None:
    """Fit a bundle's mask decoder and prompt projection to masks, its language model as it is."""
    from embedded_sight.coining import Coinage, CoinedWords
    from embedded_sight.fitting import (
        as_learned,
        begin_as,
        calibrate,
        fit_masks,
        say_what_is_listed,
        score,
    )
    from embedded_sight.joint import decodes_alike
    from embedded_sight.lists import StrangeLists
    from embedded_sight.reading import ReadMasks, read_masks
    from embedded_sight.speaking import give_decoder
    from llmbind_cli.console import console

    model, start = _model([f"model.start={json.dumps(str(arguments.into.resolve()))}"])
    if start is None or model.sight is None:
        raise SystemExit(f"{arguments.into} must be a bundle that sees")
    arguments.work.mkdir(parents=True, exist_ok=True)
    state, masks = arguments.work / "fit.pt", arguments.work / "masks.pt"
    if arguments.read:
        read = ReadMasks.of([ReadMasks.load(path) for path in arguments.read])
    elif state.exists() and masks.exists():
        read = ReadMasks.load(masks)
    else:
        scenes = _scenes(arguments)
        spoken = scenes.spoken(arguments.drawings)
        collated = coin = None
        if arguments.strange:
            names, coinage = _names(model, scenes), Coinage(model.tokenizer, scenes.world)
            collated = StrangeLists(model.sight, names, arguments.strange)
            coin = CoinedWords(
                names, scenes.world, coinage, strange=arguments.strange, share=arguments.coined
            )
        said = (spoken[n] for n in range(arguments.count))
        samples = said if coin is None else map(coin, said)
        read = read_masks(model, samples, finer=MASK_PX, collated=collated)
        read.save(masks)
    if not decodes_alike(start, model.sight.config):
        begin_as(model.sight, start.bundle)
    learned, apart = read.split(APART)
    decoder = model.sight.mask_decoder
    with as_learned(decoder):
        fit_masks(
            model.sight,
            learned,
            steps=arguments.steps,
            lr=arguments.lr,
            apart=apart,
            state=state,
            terms=_terms_of_fit(arguments, learned),
            kept_prompts=arguments.keep_prompts,
        )
        calibrate(model.sight, apart)
        say_what_is_listed(model.sight, learned)
    console.log(f"set apart, the pointer trusted: cIoU {score(model.sight, apart):.4f}")
    earlier = start.training.get("fitted", {}).get("mask_decoder", {})
    told = {
        "tool": "tools/embedded_sight, fit",
        "steps": arguments.steps,
        "masks": len(learned.states),
        "seed": SEED + 1,
        "steps before": earlier.get("steps before", 0) + earlier.get("steps", 0),
    }
    give_decoder(arguments.into, model, told, prompts=not arguments.keep_prompts)


def _terms_of_fit(arguments: argparse.Namespace, learned: ReadMasks) -> Terms:
    """Return what a fit learns from: a language model, and what was asked of it."""
    import hashlib

    from resumable.state import Terms

    from llmbind_cli.model.config import ADAPTER_DIR

    adapter = arguments.into / ADAPTER_DIR / "adapter_model.safetensors"
    return Terms(
        language_model=hashlib.sha256(adapter.read_bytes()).hexdigest(),
        masks=len(learned.states),
        strange=arguments.strange,
        coined=arguments.coined,
        keep_prompts=arguments.keep_prompts,
        lr=arguments.lr,
    )


def held_out(arguments: argparse.Namespace) -> None:
    """Write what training never sees, for recipes/eval/embedded-sight.toml and -drawings.toml."""
    from embedded_sight.held_out import write_drawings, write_held_out

    scenes = _scenes(arguments)
    write_held_out(
        arguments.out, scenes.world, scenes.renderer, scenes.photos, count=arguments.count
    )
    if arguments.drawings is not None:
        write_drawings(arguments.out, arguments.drawings, scenes, count=arguments.count)


def suite(arguments: argparse.Namespace) -> None:
    """Write the scenes of recipes/eval/embedded.toml."""
    from embedded_sight.held_out import write_suite

    scenes = _scenes(arguments)
    write_suite(arguments.out, scenes.world, scenes.renderer, count=arguments.count)


def _scenes(arguments: argparse.Namespace) -> Scenes:
    """Return where the scenes of a stage come from."""
    return Scenes.load(arguments.sprites, arguments.photos)


def _names(model: BoundModel, scenes: Scenes) -> Names:
    """Return the names of the things that training knows."""
    from embedded_sight.names import Names
    from llmbind_cli.data.scenes.arrangements import ArrangementSampler

    known = ArrangementSampler(scenes.world, SEED).known
    return Names(model.language_model.get_input_embeddings(), model.tokenizer, known)


def _model(overrides: Sequence[str] = ()) -> tuple[BoundModel, Start | None]:
    """Return the recipe's model with the weights that it starts from, and whose they are."""
    from llmbind_cli.recipes.load import load_recipe
    from llmbind_cli.training.recipe_model import build_from_recipe, take_start

    recipe = load_recipe(RECIPE, overrides=["train.compile=false", *overrides])
    model = build_from_recipe(recipe, device="cpu", offline=False)
    return model, take_start(recipe, model, offline=False)


def photos(arguments: argparse.Namespace) -> None:
    """Write the photos of COCO128 and baselines, for recipes/eval/embedded-photos.toml."""
    from embedded_sight.photos import write_photos

    write_photos(arguments.out, arguments.root, arguments.deeplab)


def fit_photos(arguments: argparse.Namespace) -> None:
    """Fit the embedded bundle's decoder and projection to the photos of COCO128 to train on."""
    import shutil

    from embedded_sight.fitting import fit_masks
    from embedded_sight.photos import dialogues
    from embedded_sight.reading import read_masks
    from embedded_sight.speaking import replace_heads

    model, start = _model()
    if start is None or model.sight is None:
        raise SystemExit("the recipe must start from a bundle that sees")
    said = model.sight.config.segment_prompt
    read = read_masks(model, dialogues(arguments.root, said, wordings_of_each=arguments.wordings))
    fit_masks(model.sight, read, steps=arguments.steps)
    shutil.copytree(start.bundle, arguments.out)
    fitted = ("mask_decoder.", "prompt_projection.")
    heads = model.sight.heads().items()
    replace_heads(arguments.out, {n: tensor for n, tensor in heads if n.startswith(fitted)})


def join(arguments: argparse.Namespace) -> None:
    """Train all together, as recipes/embedded-sight.toml says, with the reader as teacher."""
    from embedded_sight.joint import train_jointly

    code = train_jointly(
        RECIPE,
        work=arguments.work,
        overrides=arguments.overrides,
        output=arguments.output,
        resume=arguments.resume,
        truly_listed=arguments.true_lists,
        strange=arguments.strange,
        coined=arguments.coined,
        kept=arguments.kept,
    )
    raise SystemExit(code)
