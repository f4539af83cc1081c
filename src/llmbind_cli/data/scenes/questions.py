"""Dialogues about scenes: expressions with masks, questions with answers, and captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from llmbind_cli.data.dialogues.grammar import finish
from llmbind_cli.data.sample import Sample, SegmentTarget, Turn
from llmbind_cli.data.scenes.arrangements import (
    Arrangement,
    ArrangementSampler,
    is_held_out_thing,
    photo_of,
)
from llmbind_cli.data.scenes.colours import NAMES
from llmbind_cli.data.scenes.graph import Side
from llmbind_cli.data.scenes.nouns import Noun
from llmbind_cli.data.scenes.pictures import SceneMask, ScenePicture, SceneRenderer
from llmbind_cli.data.scenes.seen import knowledge, seen_objects
from llmbind_cli.data.scenes.world import Thing
from llmbind_cli.data.segmentation import wordings
from llmbind_cli.data.segmentation.annotations import Naming
from llmbind_cli.data.segmentation.expressions import (
    KINDS,
    Expression,
    ExpressionKind,
    draw_expressions,
)
from llmbind_cli.data.segmentation.objects import Edge, Query, SeenObject, is_beside, meant, resolve

QuestionKind = Literal[
    "refer", "spatial", "reason", "group", "absent",
    "presence", "count", "colour", "name", "relation", "describe",
]  # fmt: skip

QUESTIONS: Mapping[QuestionKind, float] = {
    "refer": 0.22,
    "spatial": 0.22,
    "reason": 0.16,
    "group": 0.06,
    "absent": 0.04,
    "presence": 0.06,
    "count": 0.06,
    "colour": 0.05,
    "name": 0.05,
    "relation": 0.04,
    "describe": 0.04,
}
"""Shares of what is asked; the first four get a mask, the others words alone."""

_WHOLE_PICTURE: frozenset[QuestionKind] = frozenset({"absent", "presence", "count"})
"""Questions about everything that shows, so never asked where a photo lies behind the things."""

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_TRIES = 60
_NAMED_REASON = 0.5
_OPPOSITE: Mapping[Side, Side] = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above"
}  # fmt: skip
_SIDE_WORDS: Mapping[Side, str] = {
    "left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"
}  # fmt: skip
_EDGE_WORDS: Mapping[Edge, str] = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with its answer.

    Attributes:
        said: The question.
        replied: The answer.
        expression: What is marked; ``None`` for an answer in words.
    """

    said: str
    replied: str
    expression: Expression | None = None


@dataclass(frozen=True, slots=True)
class _Scene:
    arrangement: Arrangement
    objects: tuple[SeenObject, ...]
    rng: Random
    near: float


class SceneQuestions:
    """A row of samples about scenes, each of which can be had by its number.

    Args:
        sampler: The scenes.
        renderer: What draws them.
        name: Stands in the samples' ids.
        questions: Shares of what is asked.
        turns: Most questions about one scene, ≥ 1.
        held_out_targets: Only things that training never sees are asked for.
        tied: Replies repeat an expression right before its token.
        near: Share of the questions whether something absent is there that name a thing of a kind
            with one that is. Wishes for a mask do not: a word for a thing that the model does not
            know would be taken for such a name.

    Raises:
        ValueError: No question has a share, one is unknown, ``turns`` is below 1, or ``near`` is
            not in [0, 1].
    """

    def __init__(
        self,
        sampler: ArrangementSampler,
        renderer: SceneRenderer,
        *,
        name: str,
        questions: Mapping[QuestionKind, float] = QUESTIONS,
        turns: int = 3,
        held_out_targets: bool = False,
        tied: bool = False,
        near: float = 0.0,
    ) -> None:
        unknown = set(questions) - set(get_args(QuestionKind))
        if unknown or not questions or min(questions.values()) < 0 or not sum(questions.values()):
            raise ValueError(f"questions must have known kinds with shares ≥ 0, got {questions}")
        if turns < 1:
            raise ValueError(f"turns must be ≥ 1, got {turns}")
        if not 0 <= near <= 1:
            raise ValueError(f"near must be in [0, 1], got {near}")
        self._sampler, self._renderer, self._name = sampler, renderer, name
        self._kinds, self._weights = list(questions), list(questions.values())
        self._turns = turns
        self._held_out_targets = held_out_targets
        self._tied = tied
        self._near = near

    def __getitem__(self, number: int) -> Sample:
        """The sample of a number, ≥ 0."""
        rng = Random(f"questions/{self._name}/{number}")
        wanted = rng.choices(self._kinds, self._weights, k=rng.randint(1, self._turns))
        for attempt in range(_TRIES):
            arrangement = self._sampler.draw(number, attempt)
            key = f"scenes/{self._name}/{number}"
            picture = ScenePicture(key, arrangement, self._renderer)
            scene = _Scene(arrangement, seen_objects(arrangement, picture), rng, self._near)
            exchanges = self._ask(scene, wanted)
            if exchanges:
                return self._sample(number, picture, exchanges)
        raise ValueError(f"no scene of {self._name} suits {wanted[0]}; ask for other questions")

    def _ask(self, scene: _Scene, wanted: Sequence[QuestionKind]) -> list[Exchange]:
        """Ask what is wanted; nothing where the scene does not suit the first question."""
        exchanges: list[Exchange] = []
        said: set[str] = set()
        for kind in wanted:
            found = next(
                (one for one in self._exchanges(scene, kind) if one.said not in said), None
            )
            if found is None:
                if not exchanges:
                    return []
                continue
            said.add(found.said)
            exchanges.append(found)
        return exchanges

    def _exchanges(self, scene: _Scene, kind: QuestionKind) -> Iterator[Exchange]:
        if kind in _WHOLE_PICTURE and photo_of(scene.arrangement) is not None:
            return
        if kind in KINDS:
            yield from self._masks(scene, kind)
        elif kind == "absent":
            for noun in _absent(scene, self._sampler):
                said = wordings.question(scene.rng, "phrase", f"the {noun.one}")
                yield Exchange(said, wordings.reply_nothing(scene.rng, noun.one))
        else:
            for section, words, answer in _FACTS[kind](scene, self._sampler):
                yield Exchange(
                    wordings.plain_question(scene.rng, section, **words),
                    wordings.plain_reply(answer),
                )

    def _masks(self, scene: _Scene, kind: ExpressionKind) -> Iterator[Exchange]:
        rng = scene.rng
        for expression in draw_expressions(rng, scene.objects, kind, knowledge=knowledge()):
            things = [scene.arrangement.things[target].thing for target in expression.targets]
            if self._held_out_targets and not all(map(is_held_out_thing, things)):
                continue
            naming: Naming = "plural" if kind == "group" else "phrase"
            said = wordings.question(rng, naming, expression.text)
            name = expression.text
            if kind == "reason" and not self._tied and rng.random() < _NAMED_REASON:
                name = f"the {things[0].noun.one}"
            yield Exchange(said, wordings.reply(rng, naming, name, tied=self._tied), expression)

    def _sample(self, number: int, picture: ScenePicture, exchanges: Sequence[Exchange]) -> Sample:
        expressions = [one.expression for one in exchanges if one.expression is not None]
        kinds = {expression.kind for expression in expressions}
        task = "vqa"
        if kinds:
            task = "reason" if "reason" in kinds else "refer"
        return Sample(
            id=f"{self._name}/{number}",
            turns=[
                turn
                for one in exchanges
                for turn in (Turn("user", one.said), Turn("assistant", one.replied))
            ],
            image=picture.key,
            pictures=(picture,),
            segments=tuple(
                SegmentTarget(mask=SceneMask(picture, one.targets), phrase=one.text)
                for one in expressions
            ),
            source_task=task,
        )


_Fact = tuple[str, dict[str, str], str]


def _absent(scene: _Scene, sampler: ArrangementSampler, near: float = 0.0) -> Iterator[Noun]:
    """Yield names of things that nothing in the scene could be called.

    Args:
        scene: The scene.
        sampler: Knows the things.
        near: Share of the names that are of things most like one in the scene.
    """
    for _ in range(_TRIES):
        is_near = near and scene.rng.random() < near
        noun = scene.rng.choice(_kin(scene, sampler) if is_near else sampler.known).noun
        if not any(seen.may_be_called(noun.one.lower()) for seen in scene.objects):
            yield noun


def _kin(scene: _Scene, sampler: ArrangementSampler) -> Sequence[Thing]:
    """Return the things most like one of those in the scene: as a dog is like a cat.

    Those that share the most of its category words, the more telling of which few things have.
    """
    words = frozenset(scene.rng.choice(scene.arrangement.things).thing.category_words)
    shared = [len(words.intersection(thing.category_words)) for thing in sampler.known]
    return [
        thing for thing, count in zip(sampler.known, shared, strict=True) if count == max(shared)
    ]


def _shuffled(scene: _Scene) -> list[SeenObject]:
    return scene.rng.sample(scene.objects, len(scene.objects))


def _called(seen: SeenObject, scene: _Scene) -> Noun | None:
    """Return the thing's own name where nothing else could be meant by it."""
    noun = seen.names[0]
    return noun if len(meant(Query(noun=noun.one.lower()), scene.objects)) == 1 else None


def _presence(scene: _Scene, sampler: ArrangementSampler) -> Iterator[_Fact]:
    if scene.rng.random() < 0.5:
        for noun in _absent(scene, sampler, scene.near):
            yield (*_is_there(noun), "no")
    for seen in _shuffled(scene):
        yield (*_is_there(scene.rng.choice(seen.names)), "yes")


def _is_there(noun: Noun) -> tuple[str, dict[str, str]]:
    if noun.article == "a":
        return "is_there_one", {"x": noun.one}
    return "is_there", {"x": f"{noun.article} {noun.one}"}


def _count(scene: _Scene, _: ArrangementSampler) -> Iterator[_Fact]:
    for seen in _shuffled(scene):
        noun = scene.rng.choice(seen.names)
        sure, might = resolve(Query(noun=noun.one.lower()), scene.objects)
        if noun.many is not None and sure == might:
            yield "how_many", {"x": noun.many}, NUMBERS[len(sure)]


def _colour(scene: _Scene, _: ArrangementSampler) -> Iterator[_Fact]:
    for seen in _shuffled(scene):
        noun = _called(seen, scene)
        colours = [name for name in NAMES if name in seen.colours]
        if noun is not None and len(colours) == 1 and colours[0] not in noun.one:
            yield "what_colour", {"x": f"the {noun.one}"}, colours[0]


def _name(scene: _Scene, _: ArrangementSampler) -> Iterator[_Fact]:
    """Ask what stands somewhere, or what one can do something with.

    Answers begin with an article, so that the name in them has the tokens that it has within a
    sentence. At the start of one, as "Accordion", it would have others.
    """
    asked: list[tuple[str, str, Query]] = [
        ("what_is_there", words, Query(edge=edge)) for edge, words in _EDGE_WORDS.items()
    ]
    for seen in scene.objects:
        noun = _called(seen, scene)
        if noun is not None:
            anchor = Query(noun=noun.one.lower())
            asked += [
                ("what_is_there", f"{words} the {noun.one}", Query(side=side, anchor=anchor))
                for side, words in _SIDE_WORDS.items()
            ]
    asked += [
        ("what_thing", f"the thing {scene.rng.choice(says)}", Query(quality=quality))
        for quality, says in knowledge().says.items()
    ]
    scene.rng.shuffle(asked)
    for kind, words, query in asked:
        targets = meant(query, scene.objects)
        if len(targets) == 1:
            (target,) = targets
            yield kind, {"x": words}, f"the {scene.objects[target].names[0].one}"


def _relation(scene: _Scene, _: ArrangementSampler) -> Iterator[_Fact]:
    for seen in _shuffled(scene):
        for other in _shuffled(scene):
            first, second = _called(seen, scene), _called(other, scene)
            if seen is other or first is None or second is None:
                continue
            side = next((s for s in _SIDE_WORDS if is_beside(seen.box, other.box, s)), None)
            if side is not None:
                is_true = scene.rng.random() < 0.5
                told = _SIDE_WORDS[side if is_true else _OPPOSITE[side]]
                words = {"x": f"the {first.one}", "y": f"{told} the {second.one}"}
                yield "is_it", words, "yes" if is_true else "no"


def _describe(scene: _Scene, _: ArrangementSampler) -> Iterator[_Fact]:
    yield "describe", {}, describe(scene.arrangement)


def describe(arrangement: Arrangement) -> str:
    """Name every thing of a scene from left to right, with its colour where it was painted."""
    counted: dict[tuple[Noun, str], int] = {}
    for placed in sorted(arrangement.things, key=lambda one: one.box.centre[0]):
        key = placed.thing.noun, placed.colour or ""
        counted[key] = counted.get(key, 0) + 1
    mentions = [
        noun.phrase(colour)
        if count == 1 or noun.many is None
        else f"{NUMBERS[count]} {noun.several(colour)}"
        for (noun, colour), count in counted.items()
    ]
    *before, last = mentions
    return finish(f"{', '.join(before)} and {last}" if before else last)


_FACTS = {
    "presence": _presence,
    "count": _count,
    "colour": _colour,
    "name": _name,
    "relation": _relation,
    "describe": _describe,
}
