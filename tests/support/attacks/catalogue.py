"""The catalogue of attacks on packs, and how one is carried out.

Example::

    ATTACKS: dict[str, Attack] = {}
    attack = catalogue(ATTACKS)

    @attack(6, "its bytes are not those of its checksum")
    def a_report_cut_off(pack: Path) -> None:
        os.truncate(pack / REPORT, 1000)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from invarlock.packer.keys import SigningKey
from packs import seal, sign

Act = Callable[[Path], object]
ZEROS = "0" * 64
# What the attacker makes fit after the act: nothing, for want of the maker's key; the manifest and its signature;
# checksums and references as well.
Sealed = Literal["no", "manifest", "all"]


@dataclass(frozen=True)
class Attack:
    """What is done, what is made to fit after it, and what a receiver is told."""

    act: Act
    code: int
    message: str
    sealed: Sealed = "no"

    def carry_out(self, pack: Path, key: SigningKey) -> None:
        """Attack a pack with the maker's key."""
        self.act(pack)
        if self.sealed == "manifest":
            sign(pack, json.loads((pack / "manifest.json").read_bytes()), key)
        elif self.sealed == "all":
            seal(pack, key)


def catalogue(attacks: dict[str, Attack]) -> Callable[..., Callable[[Act], Act]]:
    """Return a decorator that adds a function to a catalogue under its name."""

    def attack(code: int, message: str, sealed: Sealed = "no") -> Callable[[Act], Act]:
        def add(act: Act) -> Act:
            assert act.__name__ not in attacks
            attacks[act.__name__] = Attack(act, code, message, sealed)
            return act

        return add

    return attack
