"""HTML that is safe by construction: whatever goes into an element is escaped, unless it is an element itself.

Example::

    element("td", "<script>", class_="name")    # <td class="name">&lt;script&gt;</td>

Texts come from reports, and so from whoever made them: names of tensors, models, texts. They are shown on one line,
cut to a bounded length, with every character that could do something (controls, marks that turn the direction of
writing) spelled out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from html import escape

# A name of a tensor has some 60 characters, a reason some 150.
MAX_CHARACTERS = 300
# The reports of a pack name the same tensors and limits again and again; this many texts take 20 MB at the very most.
KEPT_TEXTS = 4096
# Controls, spaces that do not look like one, marks that turn the direction of writing or show nothing, halves of
# surrogate pairs. They stand here one by one: what Python calls printable differs from version to version, and a page
# must not.
_NOT_SHOWN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U000e0000-\U000e0fff]"
)


class Markup(str):
    """HTML of ours, which is not escaped again."""

    __slots__ = ()


def text(value: object) -> str:
    """Return a value as HTML text, which is safe in an attribute too."""
    shown = value if isinstance(value, str) else str(value)
    return _escaped(shown if len(shown) <= MAX_CHARACTERS else f"{shown[: MAX_CHARACTERS - 1]}…")


@lru_cache(KEPT_TEXTS)
def _escaped(shown: str) -> str:
    return escape(_NOT_SHOWN.sub(lambda found: ascii(found[0])[1:-1], shown))


def element(name: str, *inner: object, **attributes: object) -> Markup:
    """Return an element; attributes are named with ``_`` for ``-``, and with one at the end where Python asks for it.

    Args:
        name: of the element.
        inner: what it holds, in order; texts are escaped.
        attributes: their values are escaped.
    """
    if len(inner) == 1:  # as most have
        part = inner[0]
        held = part if isinstance(part, Markup) else text(part)
    else:
        held = join(inner)
    if not attributes:
        return Markup(f"<{name}>{held}</{name}>")
    shown = "".join([f' {_attribute(key)}="{text(value)}"' for key, value in attributes.items()])
    return Markup(f"<{name}{shown}>{held}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Return parts one after the other, texts escaped."""
    return Markup("".join([part if isinstance(part, Markup) else text(part) for part in parts]))


@lru_cache(64)
def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
