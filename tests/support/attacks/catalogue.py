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
# What the attacker reseals after the act: "no" is nothing, because the attacker lacks the maker's key; "manifest" is
# the manifest and its signature; "all" adds the checksums and the digests in references.
Sealed = Literal["no", "manifest", "all"]


@dataclass(frozen=True)
class Attack:
    """An attack: the change, what is resealed after it, and the problem that a receiver sees.

    Attributes:
        act: the function that changes the pack.
        code: the code of the expected problem.
        where: the expected file of the problem; None to skip the comparison.
        field: the expected field in the file; None to skip the comparison.
        sealed: what the attacker reseals.
    """

    act: Act
    code: Code
    where: str | None = None
    field: str | None = None
    sealed: Sealed = "no"

    def is_seen_in(self, problems: Sequence[Problem]) -> bool:
        """Return whether the expected problem is among the problems that were found."""
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
