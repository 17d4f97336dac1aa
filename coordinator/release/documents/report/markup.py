"""HTML and SVG as a tree, so that whatever a member wrote is text and never markup.

Knows nothing of releases. Strings become text nodes and attributes, which the serialiser escapes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import TypeAlias
from xml.etree import ElementTree

Element: TypeAlias = ElementTree.Element
Child: TypeAlias = "Element | str | Iterable[Child] | None"
Attribute: TypeAlias = str | int | None

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_BLOCKS = frozenset(
    [
        "head",
        "title",
        "meta",
        "style",
        "body",
        "header",
        "nav",
        "main",
        "section",
        "article",
        "footer",
        "figure",
        "figcaption",
        "details",
        "summary",
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "ol",
        "li",
        "dl",
        "div",
        "table",
        "caption",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "pre",
        "svg",
        "g",
    ]
)
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Element:
    """An element. `class_` is the attribute class, `aria_label` is aria-label; None leaves one out."""
    element = ElementTree.Element(name)
    for key, value in attributes.items():
        if value is not None:
            element.set(key.rstrip("_").replace("_", "-"), clean(str(value)))
    for child in children:
        _append(element, child)
    if name in _BLOCKS:
        element.tail = "\n"
    return element


def page(root: Element) -> bytes:
    """The document: `root` is its html element."""
    text = ElementTree.tostring(root, encoding="unicode", method="html")
    return f"<!doctype html>\n{text.rstrip()}\n".encode()


def clean(text: str) -> str:
    """The text without what no page can hold or what would make it read otherwise than it is written:
    control characters, lone surrogates, marks that turn the direction of writing."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(UNKNOWN if _hidden(char) else char for char in text)


def _hidden(char: str) -> bool:
    if char in "\n\t":
        return False
    point = ord(char)
    no_character = point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    return char in _BIDI or no_character or unicodedata.category(char) in ("Cc", "Cs")


def _append(element: Element, child: Child) -> None:
    if child is None:
        return
    if isinstance(child, str):
        _append_text(element, clean(child))
    elif isinstance(child, ElementTree.Element):
        element.append(child)
    else:
        for one in child:
            _append(element, one)


def _append_text(element: Element, text: str) -> None:
    if len(element):
        element[-1].tail = (element[-1].tail or "").rstrip("\n") + text
    else:
        element.text = (element.text or "") + text
