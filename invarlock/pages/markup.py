"""HTML that is safe by construction: whatever goes into an element is escaped, unless it is an element itself.

Example::

    element("td", "<script>", class_="name")    # <td class="name">&lt;script&gt;</td>

Texts come from reports, and so from whoever made them: names of tensors, models, texts. They are shown on one line,
cut to a bounded length, with every character that could do something (controls, marks that turn the direction of
writing) spelled out.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from html import escape

from invarlock.errors import printable

# A name of a tensor has some 60 characters, a reason some 150.
MAX_CHARACTERS = 300
# The reports of a pack name the same tensors and limits again and again; this many texts take 20 MB at the very most.
KEPT_TEXTS = 4096


class Markup(str):
    """HTML of ours, which is not escaped again."""

    __slots__ = ()


def text(value: object) -> str:
    """Return a value as HTML text, which is safe in an attribute too."""
    shown = value if isinstance(value, str) else str(value)
    return _escaped(shown if len(shown) <= MAX_CHARACTERS else f"{shown[: MAX_CHARACTERS - 1]}…")


@lru_cache(KEPT_TEXTS)
def _escaped(shown: str) -> str:
    return escape(printable(shown))


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
