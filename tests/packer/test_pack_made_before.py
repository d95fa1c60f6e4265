"""A pack that was made and signed once verifies with every later version: nobody can make it again.

Whoever sees this test fail has changed what a pack holds or how it is derived or rendered: keep the old way beside the
new one, under a format name of its own. Until the first release the pack may be made anew instead, and `CHANGELOG.md`
says that packs made before do not verify:

    DRIFT_CALIBRATION_RUNS=2 INVARLOCK_PREVIEW_WINDOWS=8 INVARLOCK_FINAL_WINDOWS=16 pytest suites \\
        -k "mistral and (noop or prune_50 or nan_injection)" --signing-key maker.pem --output-dir RUN
    python -m invarlock.packer attest RUN/evidence_pack --signing-key maker.pem
    tar -C RUN -cJf tests/data/pack_made_before.tar.xz evidence_pack
"""

import tarfile
from pathlib import Path

import pytest
from invarlock.packer.verify.verifying import VerifyOptions, verify_pack
from packs import messages

ARCHIVE = Path(__file__).parents[1] / "data/pack_made_before.tar.xz"
SIGNER = "sha256:46c78f34bfa48461148bfe3e0d6115e673d7bacb6f4413c8bf58336ea9b880a7"


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "evidence_pack"


def test_a_pack_made_before_verifies_with_its_pages_its_preset_and_its_attestation(pack: Path) -> None:
    assert len(list(pack.glob("reports/**/evaluation.html"))) == 3
    assert len(list(pack.glob("metadata/presets/*.json"))) == 1
    assert (pack / "manifest.attestation.json").is_file()

    result = verify_pack(pack, VerifyOptions(strict=True, expected_fingerprint=SIGNER))

    assert (result.code, messages(result)) == (0, "")
    assert (result.verdict, result.evidence_level, result.authenticity) == ("PASS", "high", "pinned")
    assert not result.warnings
