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
# The reports of a pack name the same tensors and limits again and again; this many short texts take 2 MB at most.
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
    return escape(shown if shown.isprintable() else printable(shown))


def element(name: str, *inner: object, **attributes: object) -> Markup:
    """Return an element; attributes are named with ``_`` for ``-``, and with one at the end where Python asks for it.

    Args:
        name: of the element.
        inner: what it holds, in order; texts are escaped.
        attributes: their values are escaped.
    """
    held = "".join([part if isinstance(part, Markup) else text(part) for part in inner])
    if not attributes:
        return Markup(f"<{name}>{held}</{name}>")
    shown = "".join([f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items()])
    return Markup(f"<{name}{shown}>{held}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Return parts one after the other, texts escaped."""
    return Markup("".join([part if isinstance(part, Markup) else text(part) for part in parts]))
