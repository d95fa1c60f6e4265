import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_checkout_is_whole_for_a_python_that_has_no_editable_install() -> None:
    # -S: without site-packages, so that what is found is what stands in the folder
    command = "import invarlock.packer, invarlock.contracts; print(invarlock.packer.__file__)"

    done = subprocess.run([sys.executable, "-S", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip()) == (0, str(ROOT / "packer" / "__init__.py")), done.stderr
