"""InvarLock: validate edited language-model checkpoints and seal the evidence."""

from pathlib import Path

__version__ = "0.1.0"

# A checkout keeps `packer` and `contracts` beside this folder, an installed package inside it. Python looks in the
# folder it was started in first: in a checkout it finds this one, whether or not a wheel is installed.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "packer" / "__main__.py").is_file() and (_checkout / "contracts" / "tiers.json").is_file():
    __path__.append(str(_checkout))
