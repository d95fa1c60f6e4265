"""Runs on texts that do not ship with the suite: data sets from a hub, and a user's own file."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import client_environment
from hub_server import Hub, Repository, serve_hub
from invarlock.packer.format.layout import MODEL_REVISIONS
from processes import packer

from invarlock.errors import HubError
from invarlock.harness.sources.texts import WIKITEXT2, DataSet, files_of

SUITES = Path(__file__).parents[3] / "suites"
ONE_CASE = ("-k", "mistral and noop")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve_hub() as served:
        yield served


@pytest.fixture(scope="module")
def paragraphs() -> list[str]:
    text = lzma.decompress((SUITES / "embedded/text/austen_heldout.txt.xz").read_bytes()).decode("utf-8")
    return text.split("\n\n")[:400]


def load(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def verify(pack: Path) -> int:
    return packer("verify", pack, "--strict").returncode


def test_wikitext2_is_pinned_fetched_and_sealed(
    run_pytest: Callable[..., Any], hub: Hub, paragraphs: list[str], tmp_path: Path
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": paragraphs}), tmp_path / "rows")
    name = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    data = {name: (tmp_path / "rows").read_bytes(), "wikitext-2-raw-v1/train-00000-of-00001.parquet": b"not wanted"}
    made = hub.add(Repository(WIKITEXT2.id, data, kind="dataset", licence="cc-by-sa-3.0"))
    pins: dict[str, Any] = {"schema": "model_revisions_v1", "models": []}
    pins["datasets"] = [{"dataset_id": WIKITEXT2.id, "revision": made.commit}]
    (tmp_path / "pins.json").write_text(json.dumps(pins))

    ran = run_pytest(
        *ONE_CASE,
        *("--net", "1"),
        INVARLOCK_DATASET="wikitext2",
        PACK_MODEL_REVISIONS_FILE=str(tmp_path / "pins.json"),
        **client_environment(hub, tmp_path / "cache"),
    )

    assert ran.status == 0, ran.output
    [pin] = load(ran.pack / MODEL_REVISIONS)["datasets"]
    assert (pin["dataset_id"], pin["revision"], pin["licence"]) == (WIKITEXT2.id, made.commit, "cc-by-sa-3.0")
    assert [file["name"] for file in pin["files"]] == [name]
    report = load(ran.pack / "baselines/embedded__mistral-tiny/evaluation.report.json")
    assert report["dataset"]["provider"] == "wikitext2"
    assert verify(ran.pack) == 0


def test_a_file_of_rows_is_scored_on(run_pytest: Callable[..., Any], paragraphs: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps({"body": part}) for part in paragraphs))

    ran = run_pytest(
        *ONE_CASE,
        INVARLOCK_DATASET="local_jsonl",
        INVARLOCK_LOCAL_JSONL_FILE=str(tmp_path / "mine.jsonl"),
        INVARLOCK_LOCAL_JSONL_FIELD="body",
    )

    assert ran.status == 0, ran.output
    report = load(ran.pack / "baselines/embedded__mistral-tiny/evaluation.report.json")
    assert report["dataset"]["provider"] == "local_jsonl"


def test_a_text_that_is_too_short_stops_the_run_before_it_starts(
    run_pytest: Callable[..., Any], hub: Hub, tmp_path: Path
) -> None:
    rows = b"".join(json.dumps({"text": f"A short line, number {number}."}).encode() + b"\n" for number in range(60))
    hub.add(Repository("org/short", {"data/validation.jsonl": rows}, kind="dataset"))

    ran = run_pytest(
        *ONE_CASE,
        *("--net", "1"),
        INVARLOCK_DATASET="hf_text",
        INVARLOCK_HF_DATASET="org/short",
        **client_environment(hub, tmp_path / "cache"),
    )

    assert ran.status == 4, ran.output
    assert "embedded/mistral-tiny: the text has " in ran.output
    assert "distinct windows of 128 tokens, 8 + 16 are needed; use a longer text" in ran.output
    assert not ran.directory.exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"INVARLOCK_DATASET": "hf_text"}, "hf_text: no data set is given; set INVARLOCK_HF_DATASET"),
        ({"INVARLOCK_DATASET": "local_jsonl"}, "no file is given; set INVARLOCK_LOCAL_JSONL_FILE"),
        (
            {"INVARLOCK_DATASET": "local_jsonl", "INVARLOCK_LOCAL_JSONL_FILE": "absent.jsonl"},
            "absent.jsonl: no such file; name a text to score on",
        ),
        ({"INVARLOCK_DATASET": "wikitext2"}, f"Salesforce/wikitext at {WIKITEXT2.revision}: not in the cache"),
    ],
)
def test_an_unavailable_text_is_reported(
    run_pytest: Callable[..., Any], tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    ran = run_pytest(*ONE_CASE, HF_HUB_CACHE=str(tmp_path / "cache"), **variables)

    assert ran.status == 4, ran.output
    assert message in ran.output


NAMES = (
    "README.md", "en/test-00000-of-00002.parquet", "en/test-00001-of-00002.parquet", "en/test.txt", "en/testing.txt",
    "test.jsonl", "data/validation.txt", "data/test-1.jsonl",
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "split", "found"),
    [
        ("en", "test", ("en/test-00000-of-00002.parquet", "en/test-00001-of-00002.parquet")),
        (None, "test", ("data/test-1.jsonl", "test.jsonl")),
        (None, "validation", ("data/validation.txt",)),
    ],
)
def test_the_files_of_a_split_are_found_by_their_names(config: str | None, split: str, found: tuple[str, ...]) -> None:
    assert files_of(DataSet("org/text", config, split, "text", None), NAMES) == found


def test_a_split_without_files_is_refused_with_those_there_are() -> None:
    with pytest.raises(HubError, match=r"org/text, configuration de: no file of the split 'test'; it has data/test-1"):
        files_of(DataSet("org/text", "de", "test", "text", None), NAMES)
