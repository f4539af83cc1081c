"""Teach the mask decoder to find what a phrase means, and the projector to name what it sees.

Masks alone teach a decoder slowly what a thing looks like: a mask a phrase, of hundreds of names.
So each cell that the decoder attends to is named too, through a layer that is left out afterwards.

Notation: ``G`` pictures, ``T`` targets, ``M`` masks, ``S`` side of a picture, ``K`` cells of a
picture, ``W`` width of the vision tower, ``D`` width of the language model, ``P`` width of the
prompt.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from resumable.optimizers import Optimizers
from resumable.state import load_state, save_state
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from embedded_sight.reader import LONGEST, PhraseReader
from llmbind_cli.console import console
from llmbind_cli.data.sample import Sample
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.questions import SceneQuestions
from llmbind_cli.data.scenes.seen import sure_colours
from llmbind_cli.data.scenes.world import Thing
from llmbind_cli.model.vision.sight import Sight
from llmbind_cli.nn.losses import mask_dice_loss

LOG_EVERY, SAVE_EVERY, LOOK_EVERY = 20, 100, 500
_COVERED = 0.25
"""Share of a cell that a thing must cover for the cell to be named after it."""

_WARM_UP, _DECAY = 100, 0.7
"""Steps until the learning rate is reached; share of the steps over which it falls to 0."""

_SOFT, _SMALLEST, _BLUR_PX = 0.35, 0.375, 1.2
"""Share of the pictures to learn from that are made small and blurred, as those of generators are;
the least share of their side that is left, and the greatest blur of what is left."""

_SHARPNESS = 16.0
_BCE, _DICE, _NAMING = 2.0, 0.5, 0.1


@dataclass(frozen=True)
class Cells:
    """What the cells of a grid over a picture show.

    Attributes:
        things: Number of the thing, -1 for none, [K].
        colours: Its colour, -1 where it is not known, [K].
    """

    things: Tensor
    colours: Tensor

    @classmethod
    def of(cls, many: Iterable[Cells]) -> Cells:
        """Put the cells of several pictures one after another."""
        all_of_them = list(many)
        return cls(
            torch.cat([one.things for one in all_of_them]),
            torch.cat([one.colours for one in all_of_them]),
        )


@dataclass(frozen=True)
class Looked:
    """A picture as the frozen networks see it, with what may be asked of it.

    Attributes:
        maps: Of the grounding encoder, finest first, each bfloat16 [C, h, w].
        masks: How much of each cell of the finest map a target covers, uint8 [T, h, w] of 255.
        truth: What shows of each target, bits packed along the last axis, [T, S, S / 8].
        phrases: The target's words, one a target.
        cells: What the cells show that the decoder attends to.
        tokens: Of the vision tower, bfloat16 [K, W]; ``None`` where the projector is not taught.
        token_cells: What these show.
    """

    maps: tuple[Tensor, ...]
    masks: Tensor
    truth: np.ndarray
    phrases: list[str]
    cells: Cells
    tokens: Tensor | None = None
    token_cells: Cells | None = None


class Names:
    """Where the language model's input space holds the names of things and colours.

    Args:
        embedding: The model's input embeddings.
        tokenizer: Its tokenizer.
        things: The things.
    """

    def __init__(self, embedding: nn.Module, tokenizer: Any, things: Iterable[Thing]) -> None:
        known = list(things)
        self.number = {thing.name: number for number, thing in enumerate(known)}

        def mean(words: str) -> Tensor:
            ids = tokenizer(f" {words}", add_special_tokens=False).input_ids
            return embedding(torch.tensor(ids)).detach().float().mean(0)

        self.things = torch.stack([mean(thing.noun.one) for thing in known])
        self.colours = torch.stack([mean(colour) for colour in NAMES])
        self.centre = self.things.mean(0)

    def loss(self, projected: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """Compare projected cells with the names of what they show.

        Args:
            projected: [K, D].
            cells: What they show.

        Returns:
            The loss, and the share of the cells whose nearest name is right.
        """
        away = projected - self.centre
        total = projected.new_zeros(())
        right = projected.new_zeros(())
        for table, wanted in (
            (self.things, cells.things),
            (self.colours, cells.colours),
        ):
            chosen = wanted >= 0
            if not chosen.any():
                continue
            targets = functional.normalize(table - self.centre, dim=1)
            scores = _SHARPNESS * functional.normalize(away[chosen], dim=1) @ targets.T
            total = total + functional.cross_entropy(scores, wanted[chosen])
            if table is self.things:
                right = (scores.argmax(1) == wanted[chosen]).float().mean()
        return total, right.detach()

    def length_loss(self, projected: Tensor, cells: Cells) -> Tensor:
        """Tell how far from the usual length the named ones of projected cells [K, D] are."""
        chosen = cells.things >= 0
        if not chosen.any():
            return projected.new_zeros(())
        usual = (self.things - self.centre).square().mean().sqrt()
        lengths = (projected[chosen] - self.centre).square().mean(1).sqrt()
        return ((lengths / usual - 1) ** 2).mean()


class Looking:
    """Asks about scenes, and keeps what it has seen to ask again.

    Args:
        questions: The scenes.
        sight: The frozen networks.
        names: Of things.
        kept: Pictures kept.
        teach_projector: Look with the vision tower too.
        soft: Share of the pictures that are made small and blurred before the networks see them.
    """

    def __init__(
        self,
        questions: SceneQuestions,
        sight: Sight,
        names: Names,
        *,
        kept: int = 4000,
        teach_projector: bool = True,
        soft: float = _SOFT,
    ) -> None:
        self._questions, self._sight, self._names, self._most = questions, sight, names, kept
        self._teach_projector, self._soft = teach_projector, soft
        self._kept: list[Looked] = []

    def batches(
        self, steps: range, fresh: int, again: int, *, workers: int = 0
    ) -> Iterator[list[Looked]]:
        """Yield for each step new pictures, and some of those kept.

        Args:
            steps: Numbers of the steps.
            fresh: New pictures a step.
            again: Pictures seen before, a step.
            workers: Processes that look ahead; 0 to look in this one.
        """
        loader: Iterable[list[Looked]] = DataLoader(
            _Fresh(self, steps, fresh), batch_size=None, num_workers=workers
        )
        for step, looked in zip(steps, loader, strict=True):
            chance = random.Random(f"again/{step}")
            known = [chance.choice(self._kept) for _ in range(again)] if self._kept else []
            new = [_own(one) for one in looked] if workers else looked
            for one in new:
                if len(self._kept) < self._most:
                    self._kept.append(one)
                else:
                    self._kept[chance.randrange(self._most)] = one
            yield [*new, *known]

    @torch.no_grad()
    def look(self, numbers: range) -> list[Looked]:
        """Draw scenes and look at them."""
        samples = [self._questions[number] for number in numbers]
        pictures = [
            self._seen(sample.pictures[0].load(), random.Random(f"soft/{number}"))
            for number, sample in zip(numbers, samples, strict=True)
        ]
        with torch.autocast("cpu", torch.bfloat16):
            maps = self._sight.maps(pictures)
            tokens = self._sight.tower_features(pictures) if self._teach_projector else None
        looked = []
        for row, sample in enumerate(samples):
            one = self._looked(sample, tuple(m[row].bfloat16() for m in maps))
            if tokens is not None:
                side = round(tokens.shape[1] ** 0.5)
                shown = self._cells(sample, (side, side))
                one = replace(one, tokens=tokens[row].bfloat16(), token_cells=shown)
            looked.append(one)
        return looked

    def _seen(self, picture: Image.Image, chance: random.Random) -> Image.Image:
        if chance.random() >= self._soft:
            return picture
        side = round(chance.uniform(_SMALLEST, 1) * picture.width)
        blur = ImageFilter.GaussianBlur(chance.uniform(0, _BLUR_PX))
        return picture.resize((side, side), Image.Resampling.BOX).filter(blur)

    def _looked(self, sample: Sample, maps: tuple[Tensor, ...]) -> Looked:
        truth = np.stack([segment.mask.decode() for segment in sample.segments])
        masks = functional.interpolate(
            torch.from_numpy(truth)[:, None].float(), maps[0].shape[-2:], mode="area"
        )[:, 0]
        attended = maps[-len(self._sight.mask_decoder.coarse)]
        return Looked(
            maps=maps,
            masks=(masks * 255).round().byte(),
            truth=np.packbits(truth, axis=-1),
            phrases=[segment.phrase for segment in sample.segments],
            cells=self._cells(sample, attended.shape[-2:]),
        )

    def _cells(self, sample: Sample, grid: Sequence[int]) -> Cells:
        picture: Any = sample.pictures[0]
        shown = torch.from_numpy(picture.renderer.drawn(picture)[1]).float()  # [things, S, S]
        cover = functional.interpolate(shown[:, None], tuple(grid), mode="area")[:, 0].flatten(1)
        most, which = cover.max(0)
        placed = picture.arrangement.things
        numbers = torch.tensor([self._names.number.get(one.thing.name, -1) for one in placed])
        sure = [sure_colours(one) for one in placed]
        colours = torch.tensor([NAMES.index(next(iter(c))) if len(c) == 1 else -1 for c in sure])
        seen = most >= _COVERED
        return Cells(
            things=torch.where(seen, numbers[which], -1),
            colours=torch.where(seen, colours[which], -1),
        )


class _Fresh(Dataset[list[Looked]]):
    """The new pictures of each step."""

    def __init__(self, looking: Looking, steps: range, fresh: int) -> None:
        self._looking, self._steps, self._fresh = looking, steps, fresh

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, number: int) -> list[Looked]:
        step = self._steps[number]
        return self._looking.look(range(step * self._fresh, (step + 1) * self._fresh))


def _own(looked: Looked) -> Looked:
    """Copy what another process sent: to keep that would keep a file open for each tensor."""

    def copied(cells: Cells) -> Cells:
        return Cells(cells.things.clone(), cells.colours.clone())

    return replace(
        looked,
        maps=tuple(one.clone() for one in looked.maps),
        masks=looked.masks.clone(),
        cells=copied(looked.cells),
        tokens=None if looked.tokens is None else looked.tokens.clone(),
        token_cells=None if looked.token_cells is None else copied(looked.token_cells),
    )


class Grounding(nn.Module):
    """What learns: reader, mask decoder with what names its cells, and projector.

    Args:
        sight: Holds decoder and projector.
        embedding: Input embeddings of the language model, frozen.
        tokenizer: Its tokenizer.
    """

    def __init__(self, sight: Sight, embedding: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        decoder = sight.mask_decoder
        hidden_size = sight.projector.linear_2.out_features
        self.decoder, self.projector = decoder, sight.projector
        self.reader = PhraseReader(hidden_size=hidden_size, prompt_width=decoder.prompt_width)
        self.naming = nn.Linear(decoder.prompt_width, hidden_size)
        self._scale = float(embedding.weight.detach().float().square().mean().sqrt())
        self._frozen = (embedding, tokenizer)  # a tuple: no part of what is saved

    def prompts(self, phrases: list[str]) -> Tensor:
        """Read phrases; [M, P]."""
        embedding, tokenizer = self._frozen
        told = tokenizer([f" {phrase}" for phrase in phrases], add_special_tokens=False).input_ids
        rows = [torch.tensor(ids[:LONGEST]) for ids in told]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([row >= 0 for row in rows], batch_first=True)
        with torch.no_grad():
            embeddings = embedding(ids).float()
        return self.reader(embeddings / self._scale, mask)

    def forward(self, looked: list[Looked], asked: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Decode masks, and name the cells that the decoder attends to.

        Args:
            looked: Pictures.
            asked: Picture and target of each mask.

        Returns:
            Logits [M, h, w], and a place among the language model's embeddings for each cell,
            [G · K, D].
        """
        maps = tuple(
            torch.stack(scale).float() for scale in zip(*(o.maps for o in looked), strict=True)
        )
        embedding = self.decoder.embedding(maps)
        prompts = self.prompts([looked[row].phrases[target] for row, target in asked])
        image_of = torch.tensor([row for row, _ in asked])
        logits = self.decoder.masks(embedding, maps, prompts, image_of)
        return logits, self.naming(embedding.flatten(2).transpose(1, 2).flatten(0, 1))


def take_what_fits(networks: Grounding, earlier: Mapping[str, Tensor]) -> None:
    """Take the weights of earlier networks that have the same name and shape here."""
    own = networks.state_dict()
    fitting = {n: t for n, t in earlier.items() if n in own and t.shape == own[n].shape}
    networks.load_state_dict(own | fitting)
    console.log(f"{len(fitting)} of {len(own)} tensors begin as they were")


def teach_grounding(
    networks: Grounding, names: Names, looking: Looking, held_out: Mapping[str, list[Looked]], *,
    steps: int, state: Path, fresh: int = 6, again: int = 6, masks: int = 3, lr: float = 1e-3,
    workers: int = 0,
) -> None:  # fmt: skip
    """Train. Stopped, it goes on where it saved last.

    Args:
        networks: Trained in place.
        names: Of things.
        looking: Gives pictures.
        held_out: Pictures to score on, by name.
        steps: Steps in all.
        state: File of the training's state.
        fresh: New pictures a step.
        again: Pictures seen before, a step.
        masks: Most masks a picture, a step.
        lr: Highest learning rate.
        workers: Processes that look at pictures ahead.
    """
    parts: dict[str, Any] = {
        "networks": networks,
        "optimizers": Optimizers(networks.parameters()),
    }
    first = load_state(state, **parts)
    losses: list[Tensor] = []
    clock = time.monotonic()
    batches = looking.batches(range(first, steps), fresh, again, workers=workers)
    for step, looked in enumerate(batches, first):
        chance = random.Random(f"asked/{step}")
        asked = [
            (row, target)
            for row, one in enumerate(looked)
            for target in chance.sample(range(len(one.phrases)), min(masks, len(one.phrases)))
        ]
        target = torch.stack([looked[row].masks[n] for row, n in asked]).float() / 255
        with torch.autocast("cpu", torch.bfloat16):
            logits, named = networks(looked, asked)
        logits = logits.float()
        bce = functional.binary_cross_entropy_with_logits(logits, target)
        dice = mask_dice_loss(logits, target)
        naming, right = names.loss(named.float(), Cells.of(one.cells for one in looked))
        if looked[0].tokens is not None:
            naming, right = _name_tokens(networks, names, looked, naming)
        (_BCE * bce + _DICE * dice + _NAMING * naming).backward()
        nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        rise, fall = (step + 1) / _WARM_UP, (steps - step) / (_DECAY * steps)
        parts["optimizers"].step(lr * min(1.0, rise, fall))
        losses.append(torch.stack([bce, dice, naming, right]).detach())
        if (step + 1) % LOG_EVERY == 0:
            b, d, n, r = torch.stack(losses).mean(0).tolist()
            seconds = (time.monotonic() - clock) / len(losses)
            console.log(
                f"step {step + 1}/{steps}: bce {b:.4f}, dice {d:.3f}, naming {n:.3f}, "
                f"cells named {r:.1%}, {seconds:.2f} s a step"
            )
            losses, clock = [], time.monotonic()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(state, step + 1, **parts)
        if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
            for which, pictures in held_out.items():
                console.log(f"held out, {which}: cIoU {score(networks, pictures):.3f}")
            clock = time.monotonic()


def _name_tokens(
    networks: Grounding, names: Names, looked: list[Looked], naming: Tensor
) -> tuple[Tensor, Tensor]:
    """Add the loss of the projector's names; its share of right ones is the one to tell."""
    tokens = torch.stack([one.tokens for one in looked if one.tokens is not None])
    shown = Cells.of(one.token_cells for one in looked if one.token_cells is not None)
    with torch.autocast("cpu", torch.bfloat16):
        projected = networks.projector(tokens.float()).flatten(0, 1)
    loss, right = names.loss(projected.float(), shown)
    return naming + loss + names.length_loss(projected.float(), shown), right


@torch.no_grad()
def score(networks: Grounding, looked: list[Looked], at_once: int = 8) -> float:
    """Return the cIoU of masks against the truth at full size."""
    overlap = union = 0
    for start in range(0, len(looked), at_once):
        part = looked[start : start + at_once]
        asked = [(row, n) for row, one in enumerate(part) for n in range(len(one.phrases))]
        with torch.autocast("cpu", torch.bfloat16):
            logits = networks(part, asked)[0].float()
        truth = torch.from_numpy(
            np.stack([np.unpackbits(part[row].truth[n], axis=-1) for row, n in asked])
        ).bool()
        raised = functional.interpolate(logits[:, None], truth.shape[-2:], mode="bilinear")[:, 0]
        found = raised > 0
        overlap += int((found & truth).sum())
        union += int((found | truth).sum())
    return overlap / max(1, union)
