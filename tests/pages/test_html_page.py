"""The frame of pages: escaped titles, a policy, and colours that can be read in light and dark."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from llmbind_cli import pages
from llmbind_cli.pages import html_page

READABLE = 4.5
"""Least contrast of small text, WCAG 2.2, success criterion 1.4.3."""


def page(**fields):
    plain = {"title": "t", "policy": "default-src 'none'", "style": "", "body": "b"}
    return html_page(**plain | fields)


def palettes():
    css = (resources.files(pages) / "base.css").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", root)) for root in roots]


def luminance(colour):
    # Relative luminance of sRGB, WCAG 2.2.
    levels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_contrast_equals_the_one_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    # The grey that is often named as the lightest one that can be read on white.
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


def test_light_and_dark_have_the_same_colours():
    light, dark = palettes()
    assert light.keys() == dark.keys()


@pytest.mark.parametrize("ground", ["ground", "card"])
@pytest.mark.parametrize("words", ["ink", "faint", "accent", "alarm", "good"])
def test_words_can_be_read(words, ground):
    for palette in palettes():
        assert contrast(palette[words], palette[ground]) >= READABLE


def test_a_page_s_own_rules_come_last():
    text = page(style="p { color: red; }")
    assert text.index(":root {") < text.index("p { color: red; }") < text.index("</style>")


def test_the_title_stays_text():
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in page(title="</title><script>")


def test_a_policy_cannot_end_its_attribute():
    assert """content="default-src 'none'">""" in page()
    with pytest.raises(ValueError, match="policy must have no double quotes"):
        page(policy='x" onload="y')
