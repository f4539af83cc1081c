"""Photos that stand for pictures which dialogues speak of and which are not there."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from llmbind_cli.data.pictured import PicturedDialogues, StandIns
from llmbind_cli.data.pictures import PictureFile, missing_pictures
from llmbind_cli.data.sample import Dialogue, Sample, Turn
from llmbind_cli.errors import InputDataError
from llmbind_cli.recipes.dialogue_schema import ConversationFiles
from llmbind_cli.training.sources import read_source

TURNS = [Turn("user", "make it darker"), Turn("assistant", "<edit>make it darker</edit>")]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (80, 70), (number, 0, 0)).save(folder / f"{number}.jpg")
    return folder


def test_a_dialogue_about_a_picture_gets_one_that_follows_from_its_id(photos):
    stand_ins = StandIns("d", photos)
    dialogues = [Dialogue(id=str(n), turns=TURNS, image="mine.jpg") for n in range(40)]
    shown = [stand_ins(dialogue) for dialogue in dialogues]
    assert all(isinstance(one, Sample) and one.turns == TURNS for one in shown)
    assert len({one.pictures[0].key for one in shown}) > 4
    assert [one.pictures for one in shown] == [StandIns("d", photos)(d).pictures for d in dialogues]
    assert shown[0].segments == ()


def test_a_quarter_of_the_dialogues_that_speak_of_no_picture_see_one_too(photos):
    said = [Turn("user", "hi"), Turn("assistant", "Hello.")]
    talks = [Dialogue(id=str(number), turns=said) for number in range(400)]
    stand_ins = StandIns("d", photos)
    shown = [stand_ins(talk) for talk in talks]
    seeing = [one for one in shown if isinstance(one, Sample)]
    assert 70 <= len(seeing) <= 130
    assert len({one.pictures[0].key for one in seeing}) > 4
    assert all(one is talk for one, talk in zip(shown, talks, strict=True) if one not in seeing)
    assert [stand_ins(talk) for talk in talks] == shown


def test_a_picture_whose_name_is_too_long_for_a_file_is_missing(tmp_path):
    dialogue = Dialogue(id="a", turns=TURNS, image="iVBORw0KGgo" * 40)
    with pytest.raises(InputDataError, match="1 of 1 pictures are missing"):
        next(PicturedDialogues("d", iter([dialogue]), [tmp_path]))
    assert missing_pictures([PictureFile(tmp_path / ("a" * 300), "d/a")])


def test_a_source_shows_them(photos, tmp_path):
    path = tmp_path / "d.jsonl"
    said = [{"from": "human", "value": "make it darker"}, {"from": "gpt", "value": "Done."}]
    lines = [
        {"id": "a", "image": "x.jpg", "conversations": said},
        *({"id": str(number), "conversations": said} for number in range(9)),
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = ConversationFiles(name="d", kind="conversations", paths=[path], stand_ins=photos)
    shown = list(read_source(source))
    assert isinstance(shown[0], Sample)
    assert not all(isinstance(one, Sample) for one in shown)


def test_a_folder_without_photos_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputDataError, match="holds no photo"):
        StandIns("d", tmp_path / "empty")
