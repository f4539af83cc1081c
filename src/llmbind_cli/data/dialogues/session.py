"""Conversations of several turns: each turn knows what the earlier ones made."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from random import Random

from llmbind_cli.data.dialogues.casual import Line, some_tags, typed
from llmbind_cli.data.dialogues.edits import edit_of
from llmbind_cli.data.dialogues.grammar import ARTICLE, finish, phrases
from llmbind_cli.data.dialogues.replies import reply
from llmbind_cli.data.dialogues.requests import Phrase, ask, ask_music, dressed, phrase
from llmbind_cli.data.dialogues.scenes import MEDIA, Medium, Wish, being, joined, looks
from llmbind_cli.data.dialogues.wishes import WishSource
from llmbind_cli.data.sample import Turn
from llmbind_cli.data.talk import Talk


class Session:
    """A conversation under construction.

    Args:
        rng: Source of every choice.
        wishes: Where wishes come from.
        talk: Plain messages with their replies.
    """

    def __init__(self, *, rng: Random, wishes: WishSource, talk: Sequence[Talk]) -> None:
        self.turns: list[Turn] = []
        self.image: str | None = None
        self._rng = rng
        self._wishes = wishes
        self._talk = talk
        self._medium: Medium | None = None
        self._scene: Wish | None = None
        self._pictured = False
        self._first = ""

    def _say(self, line: Line, answer: str, *, wish: str | None = None) -> None:
        self.turns.append(Turn("user", typed(self._rng, line, wish=wish)))
        self.turns.append(Turn("assistant", answer))

    def _made(self, medium: Medium, wish: Wish) -> None:
        self._medium, self._scene = medium, wish
        self._pictured = self._pictured or medium == "image"
        self._first = self._first or wish.full

    # -- turns that need nothing before them ---------------------------------------------------

    def request(self, medium: Medium) -> None:
        """Ask for something new of a medium."""
        rng = self._rng
        if medium == "audio" and rng.random() < 0.24:
            wish = self._wishes.music(rng)
            line, prompt = ask_music(rng, wish)
        else:
            wish = self._wishes.draw(rng, medium)
            line, prompt = ask(rng, medium, wish)
        self._say(line, reply(rng, [(medium, prompt)]), wish=wish.text)
        self._made(medium, _as_prompted(wish, prompt))

    def photo_edit(self, name: str | None) -> None:
        """Ask for a change to a picture that is attached, or forgotten to be."""
        edit = edit_of(self._rng, None, attached=True)
        self.image = name
        self._say(edit.line, reply(self._rng, [("edit", edit.prompt)]))
        self._medium, self._scene = "image", None

    def two_wishes(self) -> None:
        """Ask for two things in one message; the reply makes two calls in order."""
        rng = self._rng
        first, second = rng.sample(MEDIA, 2) if rng.random() < 0.8 else [rng.choice(MEDIA)] * 2
        if first != second and rng.random() < 0.25:
            self._both(first, second)
            return
        kind = "np" if rng.random() < 0.5 else "vp"
        a, b = (self._short_phrase(medium, kind) for medium in (first, second))
        said = phrases().pick(rng, f"two_{kind}", a=a.said, b=b.said)
        calls = [(first, a.prompt), (second, b.prompt)]
        self._say(dressed(rng, [said], outer=0.4), reply(rng, calls))
        self._medium, self._scene, self._first = None, None, a.prompt

    def _short_phrase(self, medium: Medium, kind: str) -> Phrase:
        wish = self._wishes.draw(self._rng, medium, short=True)
        return phrase(self._rng, f"{medium}_{kind}", wish)

    def _both(self, first: Medium, second: Medium) -> None:
        rng = self._rng
        wish = self._wishes.draw(rng, rng.choice((first, second)), short=True)
        names = phrases().pick(rng, f"{first}_and_{second}")
        said = phrases().pick(rng, "both", names=names, x=wish.full)
        self._say(Line([finish(said)]), reply(rng, [(first, wish.full), (second, wish.full)]))
        self._medium, self._scene, self._first = None, wish, wish.full

    def talk(self) -> None:
        """Chat: a given pair where there are any, now and then a written one."""
        rng = self._rng
        if self._talk and rng.random() < 0.85:
            pair = self._talk[int(rng.random() * len(self._talk))]
            said = pair.prompt
            if self.turns and rng.random() < 0.6:
                lower = said if said[:2] in {"I ", "I'"} else said[:1].lower() + said[1:]
                said = phrases().pick(rng, "talk_lead", talk=lower)
            self.turns += [
                Turn("user", said),
                Turn("assistant", pair.reply, complete=pair.complete),
            ]
            return
        said, answer = phrases().pick_columns(rng, "trap")
        self._say(dressed(rng, [said], outer=0.05), finish(answer))

    def tag_talk(self) -> None:
        """Talk about task tokens, which a user's line spells as plain text."""
        rng = self._rng
        opening, closing = some_tags(rng)
        wish = self._wishes.draw(rng, rng.choice(MEDIA), short=True).text
        said, answer = phrases().pick_columns(rng, "tag_talk", tag=opening, end=closing, x=wish)
        self._say(Line([said]), finish(answer))

    # -- turns that follow ---------------------------------------------------------------------

    def follow(self) -> None:
        """Add a turn that fits what was made before."""
        rng = self._rng
        draw = rng.random()
        if self._medium is None or (self._scene is None and self._medium != "image"):
            (self.request(rng.choice(MEDIA)) if draw < 0.6 else self.talk())
        elif draw < 0.1:
            self.talk()
        elif draw < 0.22:
            self._chat()
        elif draw < 0.25 and self._medium != "image" and self._pictured:
            self._edit_earlier()
        elif self._medium == "image" and draw < 0.64:
            self._edit()
        elif self._scene is None or (self._medium == "image" and draw < 0.78):
            self._another(self._medium)
        elif draw < 0.78:
            self._refine(self._medium, self._scene)
        elif draw < 0.86:
            self._cross(self._medium, self._scene)
        elif draw < 0.93:
            self._another(self._medium)
        else:
            self.request(rng.choice([medium for medium in MEDIA if medium != self._medium]))

    def _edit(self) -> None:
        edit = edit_of(self._rng, self._scene)
        self._say(edit.line, reply(self._rng, [("edit", edit.prompt)]))
        if self._scene is not None:
            self._scene = dataclasses.replace(
                self._scene, looks=(*self._scene.looks, edit.look), subject=None
            )

    def _edit_earlier(self) -> None:
        """Go back to an earlier picture after a clip or a sound, and change it."""
        edit = edit_of(self._rng, None)
        said = phrases().pick(self._rng, "edit_earlier", say=" ".join(edit.line.sentences))
        self._say(Line([finish(said)]), reply(self._rng, [("edit", edit.prompt)]))
        self._medium, self._scene = "image", None

    def _another(self, medium: Medium) -> None:
        """Ask for a new one of the same medium: refusal, change of subject, another version."""
        rng, scene = self._rng, self._scene
        if scene is None or rng.random() < 0.78:
            wish = self._wishes.draw(rng, medium)
            said = phrases().pick(rng, "another", x=wish.full)
        elif rng.random() < 0.5:
            wish, said = scene, phrases().pick(rng, "redo")
        else:
            look = looks(rng, medium)[:1] or ("with more detail",)
            wish = Wish(joined(scene.full, look), subject=scene.subject, plural=scene.plural)
            said = phrases().pick(rng, "redo_look", look=look[0])
        self._say(dressed(rng, [said], outer=0.1), reply(rng, [(medium, wish.full)]))
        self._made(medium, dataclasses.replace(wish, text=wish.full, looks=()))

    def _refine(self, medium: Medium, scene: Wish) -> None:
        """Change a clip or a sound: no editor exists for them, so the whole prompt is rewritten."""
        rng, bank = self._rng, phrases()
        draw = rng.random()
        if draw < 0.3 and scene.subject is not None and not scene.plural:
            other = being(rng)[0]
            said = bank.pick(
                rng, "refine_swap", other=f"{ARTICLE} {other}", n=f"the {scene.subject}"
            )
            scene = _swapped(scene, other)
        elif draw < 0.42 and medium == "video":
            edit = edit_of(rng, scene)
            while _STILL.search(said := " ".join(edit.line.sentences)):
                edit = edit_of(rng, scene)
            scene = dataclasses.replace(scene, looks=(*scene.looks, edit.look), subject=None)
        elif draw < 0.58:
            section = "ambience" if medium == "audio" else "thing"
            extra = finish(bank.pick(rng, section))
            while extra in scene.full:
                extra = finish(bank.pick(rng, section))
            said = bank.pick(rng, "refine_add", extra=extra)
            scene = dataclasses.replace(scene, looks=(*scene.looks, f"with {extra}"))
        else:
            look = bank.pick(rng, f"{medium}_look")
            said = bank.pick(rng, "refine", look=look)
            scene = dataclasses.replace(scene, looks=(*scene.looks, look))
        self._say(dressed(rng, [said], outer=0.1), reply(rng, [(medium, scene.full)]))
        self._made(medium, scene)

    def _cross(self, medium: Medium, scene: Wish) -> None:
        """Ask for the same scene in another medium."""
        rng = self._rng
        target = rng.choice([other for other in MEDIA if other != medium])
        # Nobody hears a watercolour or sees a fade-out: looks stay behind where sound is involved.
        bare = _without_frame(scene.text)
        if target != "audio" and medium != "audio":
            bare = joined(bare, scene.looks)
        said, *written = phrases().pick_columns(rng, f"cross_{target}", scene=bare)
        prompt = written[0] if written else bare
        if not written and rng.random() < 0.25 and said[-1] not in ".!?":
            look = phrases().pick(rng, f"{target}_look")
            said, prompt = f"{said}, {look}", joined(prompt, (look,))
        self._say(dressed(rng, [said], outer=0.1), reply(rng, [(target, prompt)]))
        self._made(target, dataclasses.replace(scene, text=prompt, looks=()))

    def _chat(self) -> None:
        """Thanks, doubts, and questions about what was made."""
        rng, bank = self._rng, phrases()
        draw = rng.random()
        if draw < 0.36:
            said, answer = bank.pick(rng, "chat_thanks"), bank.pick(rng, "reply_thanks")
        elif draw < 0.48:
            said, answer = bank.pick(rng, "chat_hmm"), bank.pick(rng, "reply_hmm")
        elif draw < 0.7 or self._scene is None:
            said, answer = bank.pick_columns(rng, "ask_general")
        else:
            words = re.findall(r"[a-z]+", self._scene.text.lower())
            words = [w for w in words if len(w) > 3] or words or ["untitled"]
            said, answer = bank.pick_columns(
                rng,
                "ask_about",
                scene=self._scene.full,
                first=self._first,
                title=" ".join(words[:3]).title(),
                file="-".join(words[:3]),
            )
        self._say(Line([finish(said)]), finish(answer))


def _as_prompted(wish: Wish, prompt: str) -> Wish:
    """Return a wish as its prompt words it: what frames it in the text, modifiers apart."""
    if wish.text not in prompt:
        return Wish(prompt)
    end = prompt.index(wish.text) + len(wish.text)
    rest = prompt[end:].lstrip(", ")
    return dataclasses.replace(wish, text=prompt[:end], looks=(rest,) if rest else ())


_FRAME = re.compile(
    r"(?:an? |one )?(?:[\w-]+ ){0,2}(?:photo|photograph|snapshot|drawing|sketch|painting|poster|"
    r"illustration|postcard|card|sticker|wallpaper|cover|comic strip|video|clip|animation|film|GIF|"
    r"loop|time-?lapse|footage|sequence|trailer|short|effect|soundscape|ambience|ringtone|tone|"
    r"track|recording|sound)(?: of| showing| with|:| where| in which) "
)


_STILL = re.compile(r"\b(picture|image|photo|drawing)\b", re.IGNORECASE)
"""Words that would send a change to a still picture, where the last result is a clip."""


def _without_frame(text: str) -> str:
    """Take "an animation of" and the like off a prompt that is to go into another medium."""
    return _FRAME.sub("", text, count=1) if _FRAME.match(text) else text


def _swapped(scene: Wish, other: str) -> Wish:
    """Put another noun in the place of a scene's subject, with the article that it needs."""
    noun = re.escape(scene.subject or "")
    text = re.sub(
        rf"\b(?:an? (?=(?:[\w-]+ ){{0,3}}{noun}\b))?((?:[\w-]+ ){{0,3}}?){noun}\b",
        lambda match: f"{ARTICLE if match[0][:2] in {'a ', 'an'} else ''} {match[1]}{other}",
        scene.full,
        count=1,
    )
    return Wish(finish(text), subject=other, alive=True)
