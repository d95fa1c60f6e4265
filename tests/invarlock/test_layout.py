import json
from importlib import resources
from pathlib import Path

from processes import python

ROOT = Path(__file__).parents[2]


def test_a_checkout_is_whole_for_a_python_that_has_no_editable_install() -> None:
    # -S: without site-packages, so that what is found is what stands in the folder
    command = "import invarlock.packer, invarlock.contracts; print(invarlock.packer.__file__)"

    done = python("-S", "-c", command, cwd=ROOT)

    assert (done.returncode, done.stdout.strip()) == (0, str(ROOT / "packer" / "__init__.py")), done.stderr


def test_the_contract_of_the_manifest_is_published_under_its_own_name() -> None:
    name = "evidence_pack_manifest.schema.json"

    schema = json.loads(resources.files("invarlock.contracts").joinpath(name).read_bytes())

    assert schema["$id"] == f"contracts/{name}"
    assert schema["required"] == ["checksums_sha256", "checksums_sha256_digest", "format"]
