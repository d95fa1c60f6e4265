"""A JSON object without a fixed shape."""

from __future__ import annotations

from typing import Any, TypeAlias

# used for parameters of edits, limits of guards, configurations of models, and files of other programs
JsonObject: TypeAlias = dict[str, Any]
