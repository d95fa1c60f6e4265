"""Every attack of the catalogue in ``tests/support/attacks``: the exit code and the problem that a receiver gets."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from attacks import on_claims, on_pages, on_presets, on_the_seal, on_the_sweep, without_the_key
from attacks.catalogue import Attack
from invarlock.packer.trust.keys import fingerprint
from packs import VERDICT, forge, messages, pack_files, strict

from invarlock.jsonio import dump_json

CATALOGUES = (without_the_key.ATTACKS, on_the_seal.ATTACKS, on_claims.ATTACKS, on_presets.ATTACKS, on_pages.ATTACKS)
ATTACKS: dict[str, Attack] = {name: attack for attacks in CATALOGUES for name, attack in attacks.items()}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_with_its_code_and_place(name: str, pack: Path, real_run: Any) -> None:
    ATTACKS[name].carry_out(pack, real_run.key)

    found = strict(pack, expected_fingerprint=fingerprint(real_run.key.public))

    assert ATTACKS[name].is_seen_in(found.problems), messages(found)
    assert found.code == ATTACKS[name].code.exit_code
    assert not found.reports_verified


@pytest.mark.parametrize("name", on_the_sweep.ATTACKS)
def test_an_attack_on_a_sweep_is_refused_with_its_code_and_place(name: str, swept_run: Any, tmp_path: Path) -> None:
    attack, pack = on_the_sweep.ATTACKS[name], tmp_path / "pack"
    shutil.copytree(swept_run.pack, pack)
    attack.carry_out(pack, swept_run.key)

    found = strict(pack)

    assert attack.is_seen_in(found.problems), messages(found)
    assert (found.code, found.reports_verified) == (attack.code.exit_code, False)


@pytest.mark.parametrize("change", [lambda v: v, lambda v: {**v, "verdict": "FAIL"}])
def test_a_verdict_with_every_digest_that_follows_made_to_fit(pack: Path, real_run: Any, change: Any) -> None:
    files = pack_files(pack)
    data = dump_json(change(json.loads(files[VERDICT])))
    for path, new in forge(files, VERDICT, data, real_run.key).items():
        (pack / path).write_bytes(new)

    assert strict(pack).code == (0 if data == files[VERDICT] else 7)


def test_no_two_attacks_share_a_name_and_each_names_a_place() -> None:
    catalogues = (*CATALOGUES, on_the_sweep.ATTACKS)

    everything = {name: attack for attacks in catalogues for name, attack in attacks.items()}
    assert len(everything) == sum(map(len, catalogues))
    assert [name for name, attack in everything.items() if attack.where is None] == ["the_pack_made_a_link"]
