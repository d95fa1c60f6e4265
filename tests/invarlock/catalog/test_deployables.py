import sys

import pytest

from invarlock.catalog.deployables import DeployableSpec, missing_packages, parse_deployable_spec
from invarlock.catalog.edit_specs import Scope
from invarlock.errors import UsageError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("torchao_int8:8:128:all", DeployableSpec("torchao_int8", 8, 128, Scope("all"))),
        ("torchao_int8:8:row:ffn@layer=1", DeployableSpec("torchao_int8", 8, None, Scope("ffn", 1))),
        ("bitsandbytes_int8:8:row:attn", DeployableSpec("bitsandbytes_int8", 8, None, Scope("attn"))),
    ],
)
def test_a_spec_reads_back_as_written(text: str, spec: DeployableSpec) -> None:
    assert parse_deployable_spec(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchao_int8:8:all", "write <backend>:<bits>:<group size or row>:<scope>"),
        ("gguf:8:128:all", "unknown backend 'gguf'; known: torchao_int8, bitsandbytes_int8"),
        ("torchao_int8:4:128:all", "torchao_int8 packs 8 bits, not '4'"),
        ("torchao_int8:8:0:all", "the group size of torchao_int8 is a whole number or row, not '0'"),
        ("bitsandbytes_int8:8:128:all", "the group size of bitsandbytes_int8 is row, not '128'"),
        ("torchao_int8:8:128:head", "unknown scope 'head'; use ffn, attn, all"),
    ],
)
def test_a_spec_that_no_backend_supports_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_deployable_spec(text)

    assert message in str(refused.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_packages("torchao_int8") == []

    monkeypatch.setitem(sys.modules, "torchao", None)

    assert missing_packages("torchao_int8") == ["torchao"]
