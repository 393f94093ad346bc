"""How long the sentences of README and docs are."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]*`")
PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")
SENTENCE = re.compile(r"(?<=[.!?])\s+")
README, PAGE = 15, 18  # words that half of the sentences may have at most
PAGES = [
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "SECURITY.md",
    REPOSITORY / "CONTRIBUTING.md",
]


def sentences(text: str) -> list[str]:
    """Return the sentences of a page's paragraphs and lists; tables, headings and code blocks have none."""
    text = LINK.sub(r"\1", CODE.sub("code", FENCE.sub("", text)))
    lines = (line for line in text.splitlines() if not line.lstrip().startswith(("|", "#", "<", "!")))
    paragraphs = PARAGRAPH.split("\n".join(lines))
    return [sentence for part in paragraphs for sentence in SENTENCE.split(part.strip()) if sentence]


def median_words(path: Path) -> float:
    lengths = [len(sentence.split()) for sentence in sentences(path.read_text())]
    return statistics.median(lengths) if lengths else 0  # a page of tables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two. Three four\nfive!\n\n- Six.\n- Seven `a b. c` [eight nine](x.md).", [2, 3, 1, 4]),
        ("# Title here\n\n| a | b c. |\n\n```sh\nrun it. Now.\n```\n\nShort one.", [2]),
    ],
)
def test_sentences_are_those_of_the_prose(text: str, expected: list[int]) -> None:
    """A sentence ends with its paragraph or list item too; a piece of code is one word."""
    assert expected == [len(sentence.lstrip("- ").split()) for sentence in sentences(text)]


def test_the_readme_has_short_sentences() -> None:
    """Half of the README's sentences have at most 15 words."""
    assert median_words(REPOSITORY / "README.md") <= README


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_have_short_sentences(page: Path) -> None:
    """Half of the sentences of a page have at most 18 words."""
    assert median_words(page) <= PAGE
