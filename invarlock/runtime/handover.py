"""The handover file from the starter of a container to the process inside: image, code digest, and source.

The file has a fixed path and is mounted read-only. A file that was left at that path on a host is not on a read-only
mount, and is ignored: no variable or option that could be set by accident can claim that reports were made in a
container.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from invarlock import contracts, packer
from invarlock.digests import digest_bytes, sha256_hex
from invarlock.documents.provenance import SourceRepository
from invarlock.errors import UsageError
from invarlock.jsonio import check_schema, read_json, write_json
from invarlock.packer.verify.catalogue import catalogue_path
from invarlock.problems import Code
from invarlock.reports.sidecars import RuntimeImage

SUITE = "suite"
PLACE = Path("/run/invarlock/handover.json")
SCHEMA = "invarlock/handover-v1"


@dataclass(frozen=True)
class Handover:
    """The content of the handover file.

    Attributes:
        image: the image of the container.
        code: digest of the code that started the container.
        source: ``metadata/source_repo.json`` of the suites folder, if it has one; the image has no git.
    """

    image: RuntimeImage
    code: str
    source: SourceRepository | None

    def write(self, path: Path) -> None:
        """Write the file, readable by every user.

        Raises:
            DocumentError: when the document would not match its schema.
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
    """Return the handover of this process, or None outside a container started by InvarLock.

    Raises:
        DocumentError: when the file does not match its schema.
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
    """Refuse an image with other code than the code that started it, since reports would record the wrong source.

    Raises:
        UsageError: with the image to build.
    """
    if handover.code != code_digest():
        name = handover.image.reference
        raise UsageError(
            f"{name}: contains other code than the invarlock that started it; rebuild it from that code",
            code=Code.CONTAINER_UNAVAILABLE,
        )


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
    # the only file of the suites folder that affects the content of a report or pack
    yield f"{SUITE}/{catalogue_path().name}", catalogue_path()
