from __future__ import annotations

import re
from importlib import resources
from random import Random

import pytest

from llmbind_cli.data.dialogues.casual import Line, typed
from llmbind_cli.data.dialogues.grammar import PhraseBank, finish, phrases
from llmbind_cli.data.dialogues.scenes import joined, singular_plural


def test_choices_sections_and_values():
    bank = PhraseBank({"greet": ["[hi|hello], {name}{end}"], "end": ["!", "?"]})
    drawn = {bank.pick(Random(seed), "greet", name="Ida") for seed in range(40)}
    assert drawn == {"hi, Ida!", "hi, Ida?", "hello, Ida!", "hello, Ida?"}


def test_columns_share_the_choice_of_a_section():
    bank = PhraseBank({"ask": ["draw {pet} => @ {pet} => ="], "pet": ["cat", "owl"]})
    for seed in range(20):
        said, prompt, same = bank.pick_columns(Random(seed), "ask")
        assert finish(prompt) in {"a cat", "an owl"}
        assert said == same == f"draw {finish(prompt).split()[1]}"


def test_unbalanced_brackets_are_refused():
    with pytest.raises(ValueError, match="without"):
        PhraseBank({"x": ["[a|b"]})


@pytest.mark.parametrize(
    ("noun", "article"),
    [
        ("owl", "an"),
        ("unicorn", "a"),
        ("umbrella", "an"),
        ("ukulele", "a"),
        ("hour", "an"),
        ("8-second clip", "an"),
        ("MP3", "an"),
        ("one-eyed cat", "a"),
        ("European map", "a"),
        ("house", "a"),
        ("X-ray", "an"),
        ("sad song", "a"),
        ("uphill road", "an"),
        ("ewe", "a"),
    ],
)
def test_articles(noun, article):
    assert finish(PhraseBank({"x": ["@ {n}"]}).pick(Random(0), "x", n=noun)) == f"{article} {noun}"


def test_finish_takes_out_spaces_that_do_not_belong():
    assert finish("a  cat , a dog .") == "a cat, a dog."


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        ("fox", "foxes"),
        ("mouse/mice", "mice"),
        ("fisherman", "fishermen"),
        ("pony", "ponies"),
        ("monkey", "monkeys"),
        ("box of chocolates", "boxes of chocolates"),
        ("witch", "witches"),
    ],
)
def test_plurals(noun, many):
    assert singular_plural(noun)[1] == many


def test_modifiers_follow_with_commas_where_needed():
    assert joined("a cat", ("in ink", "with a hat")) == "a cat in ink with a hat"
    assert joined("a cat", ("no hat", "in ink")) == "a cat, no hat, in ink"


def test_every_section_that_a_bank_uses_exists_or_is_given():
    given = {"a", "b", "x", "xx", "of", "v", "m", "np", "vp", "say", "talk", "look", "extra"}
    given |= {"other", "n", "s", "names", "scene", "first", "title", "file", "plural", "one"}
    given |= {"act", "does", "bare", "many", "tag", "end", "plural2"}
    for file in (resources.files("llmbind_cli.data.dialogues") / "phrases").iterdir():
        for name in re.findall(r"\{(\w+)\}", file.read_text(encoding="utf-8")):
            assert name in phrases() or name in given, (file.name, name)


def test_typing_keeps_quotes_and_varies():
    line = Line(['write "OPEN" on it'], greeting="hi")
    drawn = {typed(Random(seed), line) for seed in range(300)}
    assert len(drawn) > 3
    assert all('"OPEN"' in text for text in drawn)


def test_a_wish_can_be_wrapped_in_task_tokens():
    drawn = [typed(Random(s), Line(["draw a cat"]), wish="a cat") for s in range(4000)]
    assert any(re.fullmatch(r"(?i)draw <\w+> a cat </\w+>[.!]*", text) for text in drawn)
    assert sum("<" in text.replace("<3", "") for text in drawn) < 200
