"""Makes two checkpoints to try InvarLock with: an embedded model, and the same model quantised to 4 bits.

Run it in a checkout, where the embedded models are::

    python examples/two_checkpoints.py DEMO

writes DEMO/base, DEMO/w4a16 (4-bit weights, packed as llm-compressor packs them) and DEMO/heldout.txt, a text that the
model was not trained on. With ``--fault`` the scales in DEMO/w4a16 do not fit the codes, as after a broken export.
Replace ``quantise`` by your own tool: InvarLock needs only its output folder.
"""

import argparse
import lzma
from pathlib import Path

from invarlock.catalog.edit_specs import EditSpec, parse_edit_spec
from invarlock.checkpoints.editing import apply_edits
from invarlock.checkpoints.snapshots import make_snapshot
from invarlock.faults.injection import inject_fault

EMBEDDED = Path(__file__).parents[1] / "suites" / "embedded"


def quantise(base: Path, subject: Path) -> None:
    """Write ``subject``: the matrices of the layers of ``base`` in 4 bits, in groups of 32."""
    spec = parse_edit_spec("packed_rtn:4:32")
    assert isinstance(spec, EditSpec)
    apply_edits(base, {subject: spec})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="new folder for both checkpoints and the text")
    parser.add_argument("--fault", action="store_true", help="make a broken subject")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True)
    make_snapshot(EMBEDDED / "qwen2-tiny", EMBEDDED / "tokenizer", folder / "base", None)
    if options.fault:
        inject_fault("stale_scale", folder / "base", folder / "w4a16", {})
    else:
        quantise(folder / "base", folder / "w4a16")
    text = lzma.decompress((EMBEDDED / "text" / "austen_heldout.txt.xz").read_bytes())
    (folder / "heldout.txt").write_bytes(text)
    print(f"{folder / 'base'} {folder / 'w4a16'} {folder / 'heldout.txt'}")


if __name__ == "__main__":
    main()
