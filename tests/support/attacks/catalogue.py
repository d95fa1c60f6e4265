"""The catalogue of attacks on packs, and how one is carried out.

Example::

    ATTACKS: dict[str, Attack] = {}
    attack = catalogue(ATTACKS)

    @attack(Code.CHECKSUM_DIFFERS, REPORT)
    def a_report_cut_off(pack: Path) -> None:
        os.truncate(pack / REPORT, 1000)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from invarlock.packer.trust.keys import SigningKey
from packs import seal, sign

from invarlock.problems import Code, Problem

Act = Callable[[Path], object]
ZEROS = "0" * 64
# What the attacker makes fit after the act: nothing, for want of the maker's key; the manifest and its signature;
# checksums and references as well.
Sealed = Literal["no", "manifest", "all"]


@dataclass(frozen=True)
class Attack:
    """What is done, what is made to fit after it, and the problem that a receiver sees.

    Attributes:
        act: changes the pack.
        code: of the problem.
        where: the file of the problem.
        field: its place in the file; of both, None where it is not compared.
        sealed: what the attacker makes fit.
    """

    act: Act
    code: Code
    where: str | None = None
    field: str | None = None
    sealed: Sealed = "no"

    def is_seen_in(self, problems: Sequence[Problem]) -> bool:
        """Tell whether the problem is among those that were found."""
        return any(
            problem.code is self.code and self.where in (None, problem.where) and self.field in (None, problem.field)
            for problem in problems
        )

    def carry_out(self, pack: Path, key: SigningKey) -> None:
        """Attack a pack with the maker's key."""
        self.act(pack)
        if self.sealed == "manifest":
            sign(pack, json.loads((pack / "manifest.json").read_bytes()), key)
        elif self.sealed == "all":
            seal(pack, key)


def catalogue(attacks: dict[str, Attack]) -> Callable[..., Callable[[Act], Act]]:
    """Return a decorator that adds a function to a catalogue under its name."""

    def attack(
        code: Code, where: str | None = None, field: str | None = None, sealed: Sealed = "no"
    ) -> Callable[[Act], Act]:
        def add(act: Act) -> Act:
            assert act.__name__ not in attacks
            attacks[act.__name__] = Attack(act, code, where, field, sealed)
            return act

        return add

    return attack
