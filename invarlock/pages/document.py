"""A complete HTML document: its head, its body, and the only style and script that a browser may apply to it.

No page loads anything: its content security policy allows its own style and script by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import quote

from invarlock.pages.markup import Markup, element, text
from invarlock.pages.stylesheet import STYLE

# The first segment of a path that a browser could read as a scheme.
_SCHEME = re.compile(r"[^/]*:")


def html_document(title: str, body: Markup, script: str = "", *, is_wide: bool = False) -> bytes:
    """Return an HTML document as UTF-8.

    Args:
        title: the title of the page.
        body: the content of the page.
        script: JavaScript at the end of the page, a constant of this package; the page must be complete without it.
        is_wide: whether the page has a wide table.
    """
    policy = ["default-src 'none'", f"style-src {_source(STYLE)}"]
    policy += [f"script-src {_source(script)}"] if script else []
    policy += ["base-uri 'none'", "form-action 'none'"]
    wide = ' class="wide"' if is_wide else ""
    end = f"<script>{script}</script>" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text("; ".join(policy))}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"{element('title', title)}<style>{STYLE}</style></head>\n<body{wide}>{body}{end}</body></html>\n"
    ).encode()


def link(path: str, *inner: object, **attributes: object) -> Markup:
    """Return a link to a file by its path relative to the page; it cannot lead to another site or scheme."""
    target = quote(path.lstrip("/"), safe="/-_.~")
    if _SCHEME.match(target):
        target = f"./{target}"
    shown = element("a", *inner, **attributes)
    # quote leaves only characters that are safe in an attribute, and a path may be longer than a shown text
    return Markup(f'<a href="{target}"{shown[2:]}')


def _source(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
