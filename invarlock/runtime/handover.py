"""What whoever starts a container tells the inside of it: the image, the code it expects, and the source.

It is a file at one place, mounted read-only. A file that somebody left at that place on a host is not on a read-only
mount, and says nothing: that reports were made in a container is told by no variable or option that could be set by
accident.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invarlock import contracts, packer
from invarlock.digests import digest_bytes, sha256_hex
from invarlock.errors import UsageError
from invarlock.jsonio import check_schema, read_json, write_json
from invarlock.packer.verify.catalogue import catalogue_path
from invarlock.reports.sidecars import RuntimeImage

SUITE = "suite"
PLACE = Path("/run/invarlock/handover.json")
SCHEMA = "invarlock/handover-v1"


@dataclass(frozen=True)
class Handover:
    """What the inside is told.

    Attributes:
        image: that it is in.
        code: digest of the code that started it.
        source: ``metadata/source_repo.json`` of the suites folder, where it has one; the image holds no git.
    """

    image: RuntimeImage
    code: str
    source: Mapping[str, Any] | None

    def write(self, path: Path) -> None:
        """Write the file, which every user may read.

        Raises:
            DocumentError: when it would not hold to its schema.
        """
        document = {
            "schema": SCHEMA,
            "image_ref": self.image.reference,
            "image_digest": self.image.digest,
            "code": self.code,
            "source": None if self.source is None else dict(self.source),
        }
        check_schema(document, "handover", where=str(path))
        write_json(path, document)
        path.chmod(0o644)


def read_handover(place: Path = PLACE) -> Handover | None:
    """Return what this process was told, None outside of a container that we started.

    Raises:
        DocumentError: when the file does not hold to its format.
    """
    try:
        if not os.statvfs(place).f_flag & os.ST_RDONLY:
            return None
    except FileNotFoundError:
        return None
    document = read_json(place)
    check_schema(document, "handover", where=str(place))
    if document["source"] is not None:
        check_schema(document["source"], "source_repo", where=f"{place}: source")
    image = RuntimeImage(document["image_ref"], document["image_digest"])
    return Handover(image, document["code"], document["source"])


def check_code(handover: Handover) -> None:
    """Refuse an image that holds other code than what started it: reports would name a source they were not made by.

    Raises:
        UsageError: saying what to build.
    """
    if handover.code != code_digest():
        name = handover.image.reference
        raise UsageError(f"{name}: holds other code than the invarlock that started it; build it again from that code")


def code_digest() -> str:
    """Return ``sha256:<hex>`` over the code and the contracts of this installation."""
    lines = "".join(f"{sha256_hex(path.read_bytes())}  {name}\n" for name, path in sorted(_code()))
    return digest_bytes(lines.encode())


def _code() -> Iterator[tuple[str, Path]]:
    """Yield each file of the code by its name in an installed package, whether or not this is a checkout."""
    own = Path(__file__).parents[1]
    folders = {"packer": Path(str(packer.__file__)).parent, "contracts": Path(str(contracts.__file__)).parent}
    for name, folder in {"": own, **folders}.items():
        for path in folder.rglob("*"):
            place = path.relative_to(folder)
            nested = not name and place.parts[0] in (*folders, SUITE)
            if path.suffix in (".py", ".json") and not nested:
                yield str(Path(name) / place), path
    # of the suites folder nothing else decides what a report or a pack says of itself
    yield f"{SUITE}/{catalogue_path().name}", catalogue_path()
