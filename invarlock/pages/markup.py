"""HTML that is safe by construction: the content of an element is escaped unless it is itself an element.

Example::

    >>> print(element("td", "<script>", class_="name"))
    <td class="name">&lt;script&gt;</td>

Texts such as names of tensors, models and data sets come from reports, and therefore from untrusted makers. They are
shown on one line, truncated, and with every active character (control characters, marks that change the direction of
writing) escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from html import escape

from invarlock.errors import printable

# A tensor name has about 60 characters, a reason about 150.
MAX_CHARACTERS = 300
# The reports of a pack repeat the same tensor and limit names; this many cached texts use at most 20 MB.
KEPT_TEXTS = 4096


class Markup(str):
    """Trusted HTML, which is not escaped again."""

    __slots__ = ()


def text(value: object) -> str:
    """Return a value as HTML text, which is also safe in an attribute."""
    shown = value if isinstance(value, str) else str(value)
    return _escaped(shown if len(shown) <= MAX_CHARACTERS else f"{shown[: MAX_CHARACTERS - 1]}…")


@lru_cache(KEPT_TEXTS)
def _escaped(shown: str) -> str:
    return escape(printable(shown))


def element(name: str, *inner: object, **attributes: object) -> Markup:
    """Return an element; in attribute names ``_`` means ``-``, and a trailing ``_`` avoids Python keywords.

    Args:
        name: the name of the element.
        inner: its content, in order; texts are escaped.
        attributes: their values are escaped.
    """
    if len(inner) == 1:  # the usual case
        part = inner[0]
        content = part if isinstance(part, Markup) else text(part)
    else:
        content = join(inner)
    if not attributes:
        return Markup(f"<{name}>{content}</{name}>")
    shown = "".join([f' {_attribute(key)}="{text(value)}"' for key, value in attributes.items()])
    return Markup(f"<{name}{shown}>{content}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Return the concatenated parts, with texts escaped."""
    return Markup("".join([part if isinstance(part, Markup) else text(part) for part in parts]))


def breakable(name: str) -> Markup:
    """Return a name as HTML text that may be broken after ``_`` and ``-``."""
    return Markup(text(name).replace("_", "_<wbr>").replace("-", "-<wbr>"))


@lru_cache(64)
def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")
