"""Pictures in the terminal: what is written is decoded again, and shown only where it should."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from llmbind_cli.inference.terminal import terminal_pictures
from llmbind_cli.inference.terminal.preview import Preview, Way, encode, terminal_way


@pytest.fixture
def picture():
    """Four quarters in plain colours, and one stripe; 13 × 15 px."""
    picture = Image.new("RGB", (13, 15), "red")
    picture.paste("blue", (6, 0, 13, 8))
    picture.paste("yellow", (0, 8, 6, 15))
    picture.paste("black", (6, 8, 13, 15))
    picture.paste("white", (0, 11, 13, 12))
    return picture


@pytest.fixture
def path(picture, tmp_path):
    path = tmp_path / "picture.png"
    picture.save(path)
    return path


def decode_sixel(text: str) -> Image.Image:
    """Draw sixels the way a terminal does."""
    head = re.match(r'\x1bP0;1;0q"1;1;(\d+);(\d+)', text)
    assert head is not None
    assert text.endswith("\x1b\\")
    picture = Image.new("RGB", (int(head[1]), int(head[2])), "magenta")
    palette: dict[str, tuple[int, ...]] = {}
    x = top = 0
    colour = ""
    tokens = re.finditer(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)",
        text[head.end() : -2],
    )
    read = 0
    for token in tokens:
        read += len(token[0])
        if token[1]:
            palette[token[1]] = tuple(round(int(v) * 255 / 100) for v in token.groups()[1:4])
        elif token[5]:
            colour = token[5]
        elif token[9]:
            x = 0
        elif token[10]:
            x, top = 0, top + 6
        else:
            count, sign = (int(token[6]), token[7]) if token[6] else (1, token[8])
            for bit in range(6):
                if (ord(sign) - 63) >> bit & 1:
                    picture.paste(palette[colour], (x, top + bit, x + count, top + bit + 1))
            x += count
    assert read == len(text) - head.end() - 2
    return picture


def decode_half_blocks(text: str) -> Image.Image:
    """Read the colours of the upper and lower halves."""
    cell = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+)m(?:\x1b\[48;2;(\d+);(\d+);(\d+)m)?▀")
    lines = text.split("\n")
    assert all(line.endswith("\x1b[0m") for line in lines)
    rows: list[list[tuple[int, ...]]] = []
    for line in lines:
        cells = cell.findall(line)
        assert cell.sub("", line) == "\x1b[0m"
        rows.append([tuple(map(int, found[:3])) for found in cells])
        if cells[0][3]:
            rows.append([tuple(map(int, found[3:])) for found in cells])
    picture = Image.new("RGB", (len(rows[0]), len(rows)))
    picture.putdata([colour for row in rows for colour in row])
    return picture


def difference(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return max(abs(a - b) for a, b in pairs)


def test_half_blocks_hold_every_pixel(picture):
    shown = decode_half_blocks(terminal_pictures.half_blocks(picture))
    assert shown.tobytes() == picture.tobytes()


def test_sixels_hold_every_pixel(picture):
    # Sixel colours are percentages: half a percent of 255 is off by 1 at most.
    assert difference(decode_sixel(terminal_pictures.sixel(picture)), picture) <= 1


def test_sixels_of_a_picture_of_many_colours_come_close():
    gradient = Image.merge(
        "RGB",
        [Image.linear_gradient("L").resize((64, 64)), Image.radial_gradient("L").resize((64, 64)),
         Image.new("L", (64, 64), 90)],
    )  # fmt: skip
    shown = decode_sixel(terminal_pictures.sixel(gradient))
    pairs = zip(shown.tobytes(), gradient.tobytes(), strict=True)
    errors = [abs(a - b) for a, b in pairs]
    # 255 colours, dithered, leave a few steps of 255 on the average.
    assert sum(errors) / len(errors) < 6


def test_kitty_sends_the_file_as_it_is_in_chunks(tmp_path):
    noise = Image.effect_noise((90, 70), 80).convert("RGB")
    noise.save(tmp_path / "noise.png")
    written = encode(tmp_path / "noise.png", Way.kitty, columns=80)
    escapes = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", written)
    assert "".join(f"\x1b_G{keys};{load}\x1b\\" for keys, load in escapes) == written
    assert len(escapes) > 1
    assert escapes[0][0].startswith("a=T,f=100,q=2,r=16,m=1")
    assert [keys for keys, _ in escapes[1:]] == ["m=1"] * (len(escapes) - 2) + ["m=0"]
    assert all(len(load) <= 4096 and len(load) % 4 == 0 for _, load in escapes)
    sent = base64.standard_b64decode("".join(load for _, load in escapes))
    assert sent == (tmp_path / "noise.png").read_bytes()


def test_iterm2_sends_the_file_as_it_is(path):
    written = encode(path, Way.iterm2, columns=80)
    found = re.fullmatch(
        r"\x1b\]1337;File=inline=1;size=(\d+);height=16;preserveAspectRatio=1:([^\x07]*)\x07",
        written,
    )
    assert found is not None
    assert base64.standard_b64decode(found[2]) == path.read_bytes()
    assert int(found[1]) == path.stat().st_size


@pytest.mark.parametrize("way", [Way.kitty, Way.iterm2])
def test_a_photo_is_sent_as_png_and_no_larger_than_it_need_be(way, tmp_path):
    Image.new("RGB", (3000, 1000), "teal").save(tmp_path / "photo.jpg")
    written = encode(tmp_path / "photo.jpg", way, columns=80)
    load = "".join(re.findall(r"[;:]([A-Za-z0-9+/=]+)(?:\x1b\\|\x07)", written))
    with Image.open(io.BytesIO(base64.standard_b64decode(load))) as sent:
        assert (sent.format, sent.size) == ("PNG", (1024, 341))


@pytest.mark.parametrize(
    ("size", "columns", "expected"),
    [((64, 64), 80, (32, 32)), ((200, 100), 80, (48, 24)), ((200, 100), 20, (20, 10)),
     ((10, 4000), 80, (1, 32)), ((4000, 10), 80, (48, 1))],
)  # fmt: skip
def test_half_blocks_fit_the_terminal(size, columns, expected, tmp_path):
    Image.new("RGB", size, "teal").save(tmp_path / "picture.png")
    text = encode(tmp_path / "picture.png", Way.blocks, columns=columns)
    assert decode_half_blocks(text).size == expected


def test_small_pictures_are_enlarged_for_sixel(path):
    shown = decode_sixel(encode(path, Way.sixel, columns=80))
    assert max(shown.size) == 320


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty"}, Way.kitty),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, Way.kitty),
        ({"TERM": "xterm-ghostty"}, Way.kitty),
        ({"TERM_PROGRAM": "ghostty"}, Way.kitty),
        ({"TERM_PROGRAM": "iTerm.app"}, Way.iterm2),
        ({"LC_TERMINAL": "iTerm2"}, Way.iterm2),
        ({"TERM_PROGRAM": "WezTerm"}, Way.iterm2),
        ({"TERM": "foot-extra"}, Way.sixel),
        ({"TERM": "xterm-sixel"}, Way.sixel),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2"}, None),
        ({"TMUX": "1", "TERM": "xterm-kitty"}, None),
        ({}, None),
    ],
)
def test_the_environment_tells_what_the_terminal_speaks(environment, way):
    assert terminal_way(environment) is way


@pytest.mark.parametrize(
    ("wanted", "terminal", "term", "made", "opened"),
    [
        (None, True, "xterm-kitty", "kitty", "kitty"),
        (None, True, "xterm", "", "blocks"),
        (None, True, "dumb", "", ""),
        (None, False, "xterm-kitty", "", ""),
        (True, True, "xterm-kitty", "kitty", "kitty"),
        (True, True, "xterm", "blocks", "blocks"),
        (True, False, "xterm-kitty", "blocks", "blocks"),
        (False, True, "xterm-kitty", "", ""),
    ],
)
def test_where_pictures_are_shown(wanted, terminal, term, made, opened, path):
    def shown(*, asked: bool) -> str:
        written: list[str] = []
        preview = Preview(
            wanted=wanted,
            environment={"TERM": term},
            is_terminal=terminal,
            write=written.append,
        )
        preview.show(path, asked=asked)
        text = "".join(written)
        return "kitty" if "\x1b_G" in text else "blocks" if "▀" in text else text

    assert (shown(asked=False), shown(asked=True)) == (made, opened)
