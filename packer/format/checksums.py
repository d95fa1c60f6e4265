"""``checksums.sha256``: one line per file, in the format that ``sha256sum -c`` reads.

Example::

    text = write_checksums({"README.md": "5f70…"})   # b"5f70…  README.md\\n"
    read_checksums(text)                              # {"README.md": "5f70…"}
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping

from invarlock.packer.format.limits import MAX_FILES, MAX_PATH_BYTES, MAX_PATH_SEGMENTS

from invarlock.errors import IntegrityError
from invarlock.problems import Code

CHECKSUMS_NAME = "checksums.sha256"
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.signature.json"
ATTESTATION_NAME = "manifest.attestation.json"
# Keeps git from changing line endings. It is not sealed, since tools that copy packs may omit hidden files; if it
# exists, this must be its whole content.
ATTRIBUTES_NAME = ".gitattributes"
ATTRIBUTES = b"* -text\n"
# An authority's RFC 3161 token for the signature file.
TIMESTAMP_NAME = "manifest.signature.tsr"
# The attestation file of a pack for each predicate, and the Sigstore bundle of each attestation.
ATTESTATIONS = {"invarlock": ATTESTATION_NAME, "svr": "manifest.svr.json", "test-result": "manifest.test-result.json"}
BUNDLES = {predicate: name.replace(".json", ".sigstore.json") for predicate, name in ATTESTATIONS.items()}
CONTROL_FILES = frozenset(
    {CHECKSUMS_NAME, MANIFEST_NAME, SIGNATURE_NAME, TIMESTAMP_NAME, ATTRIBUTES_NAME}
    | {*ATTESTATIONS.values(), *BUNDLES.values()}
)
LINE_ENDS = (
    "its line endings were changed, perhaps by git (core.autocrlf); get the pack again as an archive, or clone it with "
    "git -c core.autocrlf=false"
)

_LINE = re.compile(r"([0-9A-Fa-f]{64}) [ *](.+)")
# Paths that match need no further check; all paths that we write match.
_PLAIN = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)*", re.ASCII)


def write_checksums(digests: Mapping[str, str]) -> bytes:
    """Return the content of the checksum file for paths and their hex digests, sorted bytewise.

    Raises:
        IntegrityError: when a path is unsafe, or two differ only by case or normalisation.
    """
    _refuse_twins(digests)
    for path in digests:
        check_path(path)
    lines = sorted(f"{path}\0{digest}".encode() for path, digest in digests.items())
    return b"".join(digest + b"  " + path + b"\n" for path, _, digest in (line.partition(b"\0") for line in lines))


def read_checksums(data: bytes) -> dict[str, str]:
    """Return the lower-case hex digest of each file, by path.

    Raises:
        IntegrityError: with every line that is malformed or names an unsafe path.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _malformed("not UTF-8") from None
    if not text.endswith("\n"):
        raise _malformed("its last line has no newline, so the file is truncated; get the pack again")
    if text.count("\n") > MAX_FILES:
        raise _malformed(f"more than {MAX_FILES} lines")
    digests: dict[str, str] = {}
    for number, line in enumerate(text[:-1].split("\n"), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise _malformed("expected a digest, two spaces and a path", f"line {number}")
        path = match[2]
        check_path(path)
        if path in CONTROL_FILES:
            raise _malformed(f"lists the control file {path}", f"line {number}")
        if path in digests:
            raise _malformed(f"{path} appears twice", f"line {number}")
        digests[path] = match[1].lower()
    _refuse_twins(digests)
    return digests


def with_line_ends_restored(data: bytes) -> bytes | None:
    """Return a file with CRLF line endings converted back to LF, or None if it has no CRLF."""
    return data.replace(b"\r\n", b"\n") if b"\r\n" in data else None


def check_path(path: str) -> None:
    """Refuse a path that could escape the pack or is ambiguous.

    Raises:
        IntegrityError: with the path and the reason.
    """
    if len(path) < MAX_PATH_BYTES and path.count("/") < MAX_PATH_SEGMENTS and _PLAIN.fullmatch(path):
        return
    problem = next(_path_problems(path), None)
    if problem is not None:
        raise IntegrityError(f"unsafe path: {problem}", where=path[:120], code=Code.PATH_UNSAFE)


def _path_problems(path: str) -> Iterator[str]:
    segments = path.split("/")
    if not path:
        yield "it is empty"
    if path.startswith("/"):
        yield "it is absolute"
    if "\\" in path:
        yield "it has a backslash"
    if any(unicodedata.category(character).startswith("C") for character in path):
        yield "it has a control character"
    if any(segment in ("", ".", "..") for segment in segments):
        yield "it has an empty, '.' or '..' segment"
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES or len(segments) > MAX_PATH_SEGMENTS:
        yield f"it is longer than {MAX_PATH_BYTES} bytes or {MAX_PATH_SEGMENTS} segments"


def _refuse_twins(paths: Mapping[str, str]) -> None:
    """Refuse paths that are the same on a case-insensitive or Unicode-normalising file system.

    Source: the Unicode Standard, section 3.13, definition D145 (canonical caseless matching).
    """
    if all(map(str.isascii, paths)) and len(set(map(str.lower, paths))) == len(paths):
        return
    seen: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFD", path).casefold()
        other = seen.setdefault(unicodedata.normalize("NFD", folded), path)
        if other != path:
            words = f"{other!r} and {path!r} differ only by case or normalisation"
            raise IntegrityError(words, where=CHECKSUMS_NAME, code=Code.PATHS_COLLIDE)


def _malformed(message: str, field: str = "") -> IntegrityError:
    return IntegrityError(message, where=CHECKSUMS_NAME, field=field, code=Code.CHECKSUMS_MALFORMED)
