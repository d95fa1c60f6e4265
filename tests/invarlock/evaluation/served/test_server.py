"""What a server answers before a subject is measured: its dialect, its tokens, and every way in which it can fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from completions_server import Dialect, Server, serve_model
from shipped_checkpoints import write_baseline

from invarlock.errors import EvaluationError, InvarLockError, UsageError
from invarlock.evaluation.served import client as client_module
from invarlock.evaluation.served.client import Client, server_url
from invarlock.evaluation.served.server import Served, find_server
from invarlock.evaluation.served.stated import public_text
from invarlock.evaluation.tokenization import load_tokenizer
from invarlock.problems import Code

KEY = "sk-very-secret"
VLLM = Dialect("prompt_logprobs")
WINDOW = list(range(300, 332))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_baseline("mistral-tiny", tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[Server]:
    with serve_model(model, VLLM) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.dialect, running.misbehave, running.names = VLLM, None, ("m",)
    running.facts, running.version, running.fingerprint, running.cut = {}, None, None, 0
    running.statuses.clear()
    running.requests.clear()
    return running


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return load_tokenizer(model)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that a client would have slept."""
    seconds: list[float] = []
    monkeypatch.setattr("invarlock.evaluation.served.client.time.sleep", seconds.append)
    return seconds


def find(server: Server, tokenizer: Any, **more: Any) -> Served:
    client = Client(server_url(server.url), **more)
    return find_server(client, None, tokenizer, [WINDOW], 0, 512)


def failure(server: Server, tokenizer: Any, **more: Any) -> InvarLockError:
    with pytest.raises(InvarLockError) as caught:
        find(server, tokenizer, **more)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("dialect", "most", "wanted"),
    [
        ("prompt_logprobs", 1024, 512), ("prompt_logprobs", 20, 20), ("prompt_logprobs", 1, 1),
        ("echo", 5, 5), ("echo", 512, 512),
    ],
)  # fmt: skip
def test_the_dialect_of_a_server_is_found_with_the_most_tokens_that_it_gives(
    dialect: str, most: int, wanted: int, server: Server, tokenizer: Any
) -> None:
    server.dialect = Dialect(dialect, most=most)

    served = find(server, tokenizer)

    assert (served.model, served.dialect.name, served.dialect.prompt, served.top_k) == (
        "m", dialect, "token_ids", wanted,
    )  # fmt: skip
    assert server.requests[-1]["prompt"] == WINDOW


def test_a_server_that_takes_no_ids_gets_text_that_is_read_back_as_the_same_tokens(
    server: Server, tokenizer: Any
) -> None:
    server.dialect = Dialect("echo", takes_ids=False)
    ids = tokenizer("She was nothing more than a friend.", add_special_tokens=False)["input_ids"]
    # a word in pieces that the tokenizer reads as fewer
    split = tokenizer(list("nothing"), add_special_tokens=False)["input_ids"]
    split = [token for piece in split for token in piece]

    served = find_server(Client(server_url(server.url)), None, tokenizer, [split, ids], 0, 512)

    assert served.dialect.prompt == "text"
    assert server.requests[-1]["prompt"] == tokenizer.decode(ids)
    assert (served.takes(ids), served.takes(split)) == (True, False)


def test_a_server_that_fails_at_token_ids_gets_text(server: Server, tokenizer: Any, slept: list[float]) -> None:
    server.dialect = Dialect("echo", takes_ids=False, refuses_with=500)
    ids = tokenizer("She was nothing more than a friend.", add_special_tokens=False)["input_ids"]

    served = find_server(Client(server_url(server.url)), None, tokenizer, [ids], 0, 5)

    assert (served.dialect.name, served.dialect.prompt) == ("echo", "text")
    # two forms, each of which was tried five times
    assert slept == [1, 2, 4, 8] * 2


def test_a_server_that_fails_at_every_form_ends_in_one_line(server: Server, tokenizer: Any, slept: list[float]) -> None:
    server.statuses += [(500, {})] * 15

    error = find_failure(server, tokenizer)

    assert error.code == Code.SERVER_UNREACHABLE
    assert "the server answers 500" in str(error)


def find_failure(server: Server, tokenizer: Any) -> InvarLockError:
    ids = tokenizer("She was nothing more than a friend.", add_special_tokens=False)["input_ids"]
    with pytest.raises(InvarLockError) as caught:
        find_server(Client(server_url(server.url)), None, tokenizer, [ids], 0, 5)
    return caught.value


def test_a_server_without_log_probabilities_of_a_prompt_is_refused(server: Server, tokenizer: Any) -> None:
    server.dialect = Dialect("none")

    error = failure(server, tokenizer)

    assert error.code == Code.SERVER_ANSWER_UNUSABLE
    assert "it gives no log-probabilities of a prompt" in str(error)


def _every(value: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what sets the log-probabilities of one position."""

    def change(answer: dict[str, Any]) -> Any:
        row = answer["choices"][0]["prompt_logprobs"][5]
        for name in row:
            row[name] = {"logprob": value}
        return answer

    return change


def _rows(change: Callable[[list[Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def changed(answer: dict[str, Any]) -> Any:
        change(answer["choices"][0]["prompt_logprobs"])
        return answer

    return changed


@pytest.mark.parametrize(
    ("misbehave", "words"),
    [
        (lambda answer: b"<html>", "not JSON"),
        (lambda answer: b"[" * 100_000, "not JSON"),
        (lambda answer: [1], "no choices"),
        (lambda answer: {"choices": [None]}, "no choices"),
        (lambda answer: {"choices": [{"prompt_logprobs": {"1": 2}}]}, "no log-probabilities of a prompt"),
        (_every(None), "position 5 is not a number"),
        (_every(True), "position 5 is not a number"),
        (_every("-1"), "position 5 is not a number"),
        (_every(float("nan")), "position 5 is nan; is the served model broken?"),
        (_every(0.7), "position 5 is 0.7; is the served model broken?"),
        (_every(-0.5), "the probabilities at position 5 add up to"),
        (_rows(lambda rows: rows.__setitem__(6, None)), "position 6 has no log-probabilities"),
        (_rows(lambda rows: rows[6].update({"a": {"logprob": -9}})), "position 6 names a token 'a'"),
        (_rows(lambda rows: rows.pop()), "its tokens are not the baseline's: the server reads 31 tokens"),
        (_rows(lambda rows: rows[7].pop(str(WINDOW[7]))), "its tokens are not the baseline's: position 7"),
    ],
)  # fmt: skip
def test_an_unusable_response_ends_in_one_line(
    misbehave: Callable[[dict[str, Any]], Any], words: str, server: Server, tokenizer: Any
) -> None:
    server.misbehave = misbehave

    error = failure(server, tokenizer)

    assert error.code == Code.SERVER_ANSWER_UNUSABLE
    assert error.exit_code == 2
    assert words in str(error)


def test_a_token_that_is_ruled_out_has_the_least_log_probability(server: Server, tokenizer: Any) -> None:
    ruled_out = str(WINDOW[9])
    server.misbehave = _rows(lambda rows: rows[9].update({ruled_out: {"logprob": float("-inf")}}))

    answer = find(server, tokenizer).attempt(WINDOW)

    assert answer.target[8] == -1e5


def test_a_server_that_puts_a_token_before_the_text_is_refused(server: Server, tokenizer: Any) -> None:
    server.dialect = Dialect("echo", takes_ids=False, bos=1)
    ids = tokenizer("She was nothing more than a friend.", add_special_tokens=False)["input_ids"]

    with pytest.raises(EvaluationError, match=f"the server reads {len(ids) + 1} tokens, and the window has {len(ids)}"):
        find_server(Client(server_url(server.url)), None, tokenizer, [ids], 0, 512)


def test_a_server_of_another_tokenizer_is_refused(server: Server, tokenizer: Any) -> None:
    def other(answer: dict[str, Any]) -> Any:
        block = answer["choices"][0]["logprobs"]
        if block is not None:
            block["tokens"][4] = "nothing of ours"
        return answer

    server.dialect, server.misbehave = Dialect("echo"), other

    assert "its tokens are not the baseline's: position 4 is 'nothing of ours' there" in str(failure(server, tokenizer))


def test_a_busy_server_is_retried(server: Server, tokenizer: Any, slept: list[float]) -> None:
    server.statuses += [(429, {"Retry-After": "7"}), (503, {}), (503, {"Retry-After": "100000"})]

    assert find(server, tokenizer).top_k == 20
    assert slept == [7, 2, 30]


@pytest.mark.parametrize(
    ("statuses", "words"),
    [
        ([503] * 5, "the server answers 503"),
        ([401], "set the environment variable INVARLOCK_SUBJECT_API_KEY"),
        ([404], "check the path of --subject-url, and --subject-model"),
        ([302], "it redirects"),
    ],
)
def test_a_server_that_refuses_ends_in_one_line_without_the_key(
    statuses: list[int], words: str, server: Server, tokenizer: Any, slept: list[float]
) -> None:
    server.statuses += [(status, {"Location": "http://127.0.0.1:9/"}) for status in statuses]

    error = failure(server, tokenizer, key=KEY)

    assert server.keys[-1] == f"Bearer {KEY}"
    assert error.code == Code.SERVER_UNREACHABLE
    assert words in str(error)
    assert KEY not in str(error)
    assert KEY not in repr(Client(server.url, KEY))
    assert len(slept) == len(statuses) - 1


def test_a_server_that_is_unreachable_or_hangs_ends_in_one_line(server: Server, tokenizer: Any) -> None:
    # not time.sleep, which later tests replace while this still waits
    server.misbehave = lambda answer: threading.Event().wait(1) or {}

    hangs = failure(server, tokenizer, timeout_seconds=0.1)
    server.url, url = "http://127.0.0.1:9", server.url
    absent = failure(server, tokenizer)
    server.url = url

    assert {hangs.code, absent.code} == {Code.SERVER_UNREACHABLE}
    assert "no answer (none within 0.1 seconds)" in str(hangs)
    assert "Connection refused" in str(absent)


def test_an_answer_that_breaks_off_is_asked_for_again(model: Path, tokenizer: Any, slept: list[float]) -> None:
    # a server of its own: an answer of another test, given up earlier, would break off instead
    with serve_model(model, Dialect("prompt_logprobs", most=512)) as server:
        server.cut = 3
        found = find(server, tokenizer)

    assert found.top_k == 512
    assert slept == [1, 2, 4]


def test_answers_that_always_break_off_end_in_one_line(model: Path, tokenizer: Any, slept: list[float]) -> None:
    with serve_model(model, Dialect("prompt_logprobs", most=512)) as server:
        server.cut = 5
        error = failure(server, tokenizer)

    assert error.code == Code.SERVER_UNREACHABLE
    assert "bytes are missing" in str(error) or "IncompleteRead" in str(error)
    assert len(slept) == 4


def test_an_endless_response_is_cut_off(server: Server, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BYTES", 1 << 20)
    server.misbehave = lambda answer: b" " * (2 << 20)

    assert "longer than 1 MiB" in str(failure(server, tokenizer))


def test_a_server_with_several_models_needs_a_name(server: Server, tokenizer: Any) -> None:
    server.names = ("a", "b")

    with pytest.raises(UsageError, match=r"it has 2 models \(a, b\); name one with --subject-model"):
        find(server, tokenizer)

    served = find_server(Client(server_url(server.url)), "b", tokenizer, [WINDOW], 0, 20)

    assert served.model == "b"
    assert server.requests[-1]["model"] == "b"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://gpu-1:8000", "http://gpu-1:8000/v1"),
        ("http://gpu-1:8000/", "http://gpu-1:8000/v1"),
        ("https://GPU-1/proxy/v1/", "https://gpu-1/proxy/v1"),
    ],
)
def test_a_url_without_a_path_gets_that_of_the_api(given: str, url: str) -> None:
    assert server_url(given) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://user:pw@host", "http://host/v1?key=pw", "http://host/v1#pw", "ftp://host", "http://host:port", "host",
        "http://h\u00f6st", "http://ho st",
    ],
)  # fmt: skip
def test_a_url_with_credentials_or_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        server_url(url)

    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("mistral-7b", "mistral-7b"),
        ("org/mistral-7b", "org/mistral-7b"),
        ("/home/jane/models/mistral", "mistral"),
        ("~/models/mistral", "mistral"),
        ("C:\\Users\\jane\\mistral", "mistral"),
        ("https://gpu-1.example/mistral", "***"),
        ("mistral at GPU-1.example:8000", "mistral at ***"),
        ("on gpu-1.example", "on ***"),
        (f"x{KEY}x", "x***x"),
        ("a\u202eb\x1b[31mc\n", "ab[31mc"),
        ("z" * 5000, "z" * 200),
        (4096, "4096"),
        (10**300, "1" + "0" * 199),
        (True, ""),
        (1.5, ""),
        (["mistral"], ""),
        (None, ""),
    ],
)
def test_a_statement_of_a_server_has_neither_its_address_nor_the_key_nor_folders(said: object, shown: str) -> None:
    assert public_text(said, Client("http://gpu-1.example:8000/v1", KEY)) == shown


def test_what_a_server_states_of_its_model_is_kept_and_nothing_else(server: Server, tokenizer: Any) -> None:
    server.version, server.fingerprint = "0.11.0", "b5310"
    server.facts = {
        "owned_by": "vllm", "max_model_len": 4096, "root": "/home/jane/m", "quantization": "awq",
        "meta": {"n_params": 134515008, "size": 100, "name": "secret"}, "permission": [{"id": "x"}],
    }  # fmt: skip

    assert find(server, tokenizer).stated == {
        "version": "0.11.0", "owned_by": "vllm", "context_tokens": "4096", "quantisation": "awq",
        "parameters": "134515008", "bytes": "100", "fingerprint": "b5310",
    }  # fmt: skip


@pytest.mark.parametrize("facts", [{}, {"owned_by": ["x"], "max_model_len": {"a": 1}, "meta": 3}])
def test_a_server_that_states_nothing_usable_is_measured(facts: dict[str, Any], server: Server, tokenizer: Any) -> None:
    server.facts = facts

    assert find(server, tokenizer).stated == {}
