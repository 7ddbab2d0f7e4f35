"""Parts of a bench by words on the command line."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence


def selected(
    parser: ArgumentParser, asked: Sequence[str], names: Iterable[str], fits: Callable[[str, str], bool]
) -> list[str]:
    """The names that fit something asked for, all where nothing is; an error that lists them for what fits none."""
    names = list(names)
    for words in asked:
        if not any(fits(words, name) for name in names):
            parser.error(f"nothing is called {words!r}; there are:\n  " + "\n  ".join(names))
    return [name for name in names if not asked or any(fits(words, name) for words in asked)]


def by_part(words: str, name: str) -> bool:
    """Whether the request is a part of the name, in any case."""
    return words.lower() in name.lower()


def by_words(words: str, name: str) -> bool:
    """Whether each word is one of the name's, in any case and without commas."""
    return set(words.lower().replace(",", "").split()) <= set(name.lower().replace(",", "").split())
