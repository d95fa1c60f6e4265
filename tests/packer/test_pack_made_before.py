"""A pack that was made and signed once must verify with every later version, because it cannot be made again.

If this test fails, the content of a pack, or how it is derived or rendered, has changed. Keep the old code next to the
new, each under its own format (`docs/adr/0013-old-packs.md`). Until the first release, the pack of this version may be
replaced instead, and `CHANGELOG.md` says that packs made before do not verify:

    DRIFT_CALIBRATION_RUNS=2 INVARLOCK_PREVIEW_WINDOWS=8 INVARLOCK_FINAL_WINDOWS=16 pytest suites \\
        -k "mistral and (noop or prune_50 or nan_injection)" --signing-key maker.pem --output-dir RUN
    python -m invarlock.packer attest RUN/evidence_pack --signing-key maker.pem
    tar -C RUN -cJf tests/data/kept_packs/VERSION.tar.xz evidence_pack

Then correct its signer below. A pack of a released version is never replaced.
"""

import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from invarlock.packer.format.manifest import FORMATS
from invarlock.packer.receivers.bom import make_bom
from invarlock.packer.receivers.card import make_card
from invarlock.packer.receivers.presentation import Presentation
from invarlock.packer.receivers.subjects import SubjectOptions, read_subject
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import messages

from invarlock import __version__

ROOT = Path(__file__).parents[2]
ARCHIVES = ROOT / "tests/data/kept_packs"


@dataclass(frozen=True)
class KeptPack:
    """The expected facts about a kept pack: its signer, and how many pages and presets it has."""

    signer: str
    pages: int
    presets: int


PACKS = {
    "0.1.0": KeptPack("sha256:cde8e9db22906cf8d08a9a31a9961175d6f67474657ad947c73c43c076562627", pages=3, presets=1),
}


@pytest.fixture(params=PACKS)
def version(request: pytest.FixtureRequest) -> str:
    kept: str = request.param
    return kept


@pytest.fixture
def pack(version: str, tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVES / f"{version}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "evidence_pack"


def test_a_pack_made_before_verifies_with_its_pages_its_presets_and_its_attestation(version: str, pack: Path) -> None:
    kept = PACKS[version]
    assert len(list(pack.glob("reports/**/evaluation.html"))) == kept.pages
    assert len(list(pack.glob("metadata/presets/*.json"))) == kept.presets
    assert (pack / "manifest.attestation.json").is_file()
    assert json.loads((pack / "manifest.json").read_bytes())["invarlock_version"] == version

    result = verify_pack(pack, VerifyOptions(strict=True, expected_fingerprint=kept.signer))

    assert (result.code, messages(result)) == (0, "")
    assert (result.verdict, result.evidence_level, result.authenticity) == ("PASS", "high", "pinned")
    assert not result.warnings


def test_a_pack_made_before_gives_a_bom_and_a_card(pack: Path) -> None:
    subject = read_subject(pack, SubjectOptions(case="mistral-tiny-prune_50pct_stress"))

    bom = make_bom(subject, Presentation())

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None
    assert "**FAIL**" in make_card(subject, Presentation(), with_metadata=True)


def test_every_released_version_and_every_format_has_a_kept_pack() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = set(re.findall(r"^## \[?v?([0-9][^\s\]]*)", changelog, re.MULTILINE))
    formats = set()
    for archive in ARCHIVES.iterdir():
        with tarfile.open(archive) as packed:
            manifest = packed.extractfile("evidence_pack/manifest.json")
            assert manifest is not None
            formats.add(json.load(manifest)["format"])

    assert {archive.name.removesuffix(".tar.xz") for archive in ARCHIVES.iterdir()} == PACKS.keys()
    assert released | {__version__} <= PACKS.keys()
    assert formats == set(FORMATS)
    known = json.loads((ROOT / "contracts/evidence_pack_manifest.schema.json").read_bytes())["properties"]["format"]
    assert set(known.get("enum", [known.get("const")])) == set(FORMATS)
