"""``invarlock evaluate --subject-url`` of a model that a server computes with, and of servers that fail."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from completions_server import Dialect, serve, serve_model
from shipped_checkpoints import EMBEDDED, write_baseline

from invarlock.cli import main
from invarlock.evaluation.served import client as client_module
from invarlock.evaluation.tokenization import load_tokenizer
from invarlock.jsonio import dump_json
from invarlock.reports.rendering import render_report
from invarlock.reports.verification import verify_report

pytestmark = pytest.mark.slow

TEXT = EMBEDDED / "text" / "austen_heldout.txt.xz"
SMALL = ("--seq-len", "32", "--preview-windows", "8", "--final-windows", "16")
VOCABULARY = 1024
KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a baseline, and a subject whose matrices were rounded to four bits."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("served")
    for side in ("baseline", "subject"):
        write_baseline("mistral-tiny", folder / side)
    for path in (folder / "subject").glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if "mlp" in name:
                scale = tensor.float().abs().amax(dim=1, keepdim=True) / 7
                tensors[name] = ((tensor.float() / scale).round() * scale).to(torch.bfloat16)
        save_file(tensors, path, metadata={"format": "pt"})
    local = ["--subject", str(folder / "subject"), "--output-dir", str(folder / "local"), "--top-k", str(VOCABULARY)]
    main(["evaluate", "--baseline", str(folder / "baseline"), "--text", str(TEXT), *SMALL, *local])
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def evaluate(folders: Path, url: str, output: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the report and what was printed."""
    printed = io.StringIO()
    arguments = ["--baseline", str(folders / "baseline"), "--subject-url", url, "--text", str(TEXT)]
    with redirect_stdout(printed), redirect_stderr(printed):
        code = main(["evaluate", *arguments, *SMALL, "--output-dir", str(output), *more])
    report = output / "evaluation.report.json"
    return code, json.loads(report.read_bytes()) if report.is_file() else {}, printed.getvalue()


def local_report(folders: Path) -> dict[str, Any]:
    return dict(json.loads((folders / "local/evaluation.report.json").read_bytes()))


@pytest.mark.parametrize(
    ("dialect", "prompt"),
    [
        (Dialect("prompt_logprobs", most=VOCABULARY), "token_ids"),
        (Dialect("echo", most=64), "token_ids"),
        (Dialect("echo", most=64, takes_ids=False), "text"),
    ],
)
def test_a_served_model_measures_what_the_same_model_does_here(
    dialect: Dialect, prompt: str, folders: Path, output: Path
) -> None:
    with serve_model(folders / "subject", dialect) as server:
        code, report, printed = evaluate(folders, server.url, output, "--top-k", str(VOCABULARY))

    assert code == 0, printed
    local = local_report(folders)
    assert report["subject"]["served"] == {
        "model": "m", "stated": {}, "dialect": dialect.name, "prompt": prompt,
        "top_k": report["subject"]["served"]["top_k"], "asked_again": {"windows": 3, "largest_difference": 0.0},
    }  # fmt: skip
    if prompt == "token_ids":
        for part in ("preview", "final"):
            own, here = (document["evaluation_windows"][part] for document in (report, local))
            assert own["window_ids"] == here["window_ids"]
            np.testing.assert_allclose(own["logloss"], here["logloss"], atol=1e-5)
        assert report["fidelity"]["same_top_share"] == local["fidelity"]["same_top_share"]
    if dialect.name == "prompt_logprobs":
        own, here = (document["fidelity"]["raw"]["subject"] for document in (report, local))
        for name in ("kl_sum", "same_top", "confident_same", "delta_p_squared", "kl_max"):
            np.testing.assert_allclose(own[name], here[name], atol=1e-5)
        assert report["fidelity"]["top_k"] == VOCABULARY
        assert report["fidelity"]["rest_mass"] < 1e-6
    else:
        # texts that stand for several tokens are not compared
        assert 0 < report["fidelity"]["kl_mean"] < local["fidelity"]["kl_mean"] + 0.01
        assert 0 < report["fidelity"]["rest_mass"] < 0.3
    assert report["primary_metric"]["ratio_vs_baseline"] == pytest.approx(
        local["primary_metric"]["ratio_vs_baseline"], abs=1e-5 if prompt == "token_ids" else 0.01
    )


def test_a_report_of_a_served_model_names_what_was_not_measured_and_verifies(
    folders: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(client_module.KEY_VARIABLE, KEY)
    with serve_model(folders / "subject", Dialect("prompt_logprobs")) as server:
        code, report, printed = evaluate(folders, server.url, output, "--edit-label", "rtn-4")

    assert code == 0, printed
    guards = {name: report[name] for name in ("invariants", "spectral", "rmt", "variance")}
    assert {block["status"] for block in guards.values()} == {"not_evaluated"}
    assert "not evaluated: invariants, spectral, rmt, variance (the subject is served" in printed
    assert not {"spectral_stable", "rmt_stable"} & set(report["validation"])
    assert report["subject"]["digest"] is None
    assert report["scoring"]["scored_as"] == {"baseline": "native", "subject": "served"}
    assert report["fidelity"]["top_k"] == 20
    assert 0.01 < report["fidelity"]["rest_mass"] < 0.5
    assert 0 < report["fidelity"]["kl_mean"] < local_report(folders)["fidelity"]["kl_mean"]
    page = (output / "evaluation.html").read_text()
    assert "Guards that were not evaluated" in page
    assert "its files were not seen" in page
    assert "the divergence is a lower bound" in page
    assert not (output / "edit_metadata.json").exists()
    # the server gets the key, and no file has it
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in printed
    assert not any(KEY.encode() in path.read_bytes() for path in output.rglob("*") if path.is_file())
    assert main(["verify", str(output / "evaluation.report.json")]) == 0
    assert main(["verify", str(output / "evaluation.report.json"), "--baseline-report",
                 str(output / "baseline/evaluation.report.json")]) == 0  # fmt: skip


def test_a_broken_served_model_fails(folders: Path, output: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = write_baseline("mistral-tiny", tmp_path / "broken")
    for path in broken.glob("*.safetensors"):
        tensors = {
            name: tensor * (-1 if "layers.1.mlp.down" in name else 1) for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
    with serve_model(broken, Dialect("prompt_logprobs")) as server:
        code, report, _ = evaluate(folders, server.url, output)

    assert code == 1
    assert report["validation"]["fidelity_kl_acceptable"] is False
    assert report["validation"]["fidelity_same_top_acceptable"] is False


def _guards(*names: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Return what makes a report claim that guards judged the subject."""

    def forge(report: dict[str, Any], local: dict[str, Any]) -> None:
        report.update({name: local[name] for name in names}, guards=list(names))

    return forge


def _change(*path: str, **values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Return what changes values of a block; None removes one."""

    def forge(report: dict[str, Any], local: dict[str, Any]) -> None:
        for name in path:
            report = report[name]
        report.update({name: value for name, value in values.items() if value is not None})
        for name in [name for name, value in values.items() if value is None]:
            del report[name]

    return forge


NOOP = {"name": "noop", "label": "noop", "spec": "noop", "parameters": {}}
COMPARED = ("fidelity", "raw", "subject")
FORGED: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "guards": _guards("invariants", "spectral", "rmt", "variance"),
    "one guard": _guards("spectral"),
    "a block of a guard": lambda report, local: report.update(spectral=local["spectral"]),
    "a digest": _change("subject", digest=f"sha256:{'0' * 64}"),
    "no server": _change("subject", served=None),
    "scored here": _change("scoring", "scored_as", subject="native"),
    "every token compared": _change(*COMPARED, compared=None),
    "more tokens": _change("subject", "served", top_k=512),
    "another model": _change("subject", "served", model="other"),
    "another statement": _change("subject", "served", stated={"version": "2"}),
    "other second answers": _change("subject", "served", asked_again={"windows": 3, "largest_difference": 0.01}),
    "less rest": _change(*COMPARED, "compared", rest_mass=0.0),
    "an edit": _change(edit=NOOP),
    "an equivalence": _change(equivalence=[{"kind": "rotation", "modules": ["a"], "largest": 1.0}]),
}


@pytest.fixture(scope="module")
def served_report(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with serve_model(folders / "subject", Dialect("prompt_logprobs")) as server:
        return evaluate(folders, server.url, tmp_path_factory.mktemp("report") / "out")[1]


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_report_of_a_served_model_is_refused(what: str, served_report: dict[str, Any], folders: Path) -> None:
    report = json.loads(json.dumps(served_report))
    assert verify_report(report) == []

    FORGED[what](report, local_report(folders))

    assert verify_report(report)


def test_a_report_of_a_checkpoint_that_claims_to_be_served_is_refused(
    served_report: dict[str, Any], folders: Path
) -> None:
    report = local_report(folders)
    assert verify_report(report) == []

    report["subject"]["served"] = served_report["subject"]["served"]

    assert {problem.field for problem in verify_report(report)} >= {"subject.digest", "guards"}


def test_the_page_of_any_report_that_verifies_can_be_rendered_again(served_report: dict[str, Any]) -> None:
    page = render_report(served_report, "0" * 64)

    assert page == render_report(json.loads(dump_json(served_report)), "0" * 64)
    assert f"m compared with {served_report['meta']['model_id']}" in page.decode()


def test_a_server_that_is_one_position_late_is_refused_with_its_cause(folders: Path, output: Path) -> None:
    with serve_model(folders / "subject", Dialect("echo", late=True)) as server:
        code, _, printed = evaluate(folders, server.url, output)

    assert code == 2
    assert "one position late" in printed


class Lies:
    """A server that answers the first windows rightly, and then lies, for ever or some times."""

    def __init__(self, lie: Callable[[dict[str, Any]], Any], after: int = 3, times: int = 1000) -> None:
        self.lie, self.lying, self.answers = lie, range(after + 1, after + 1 + times), 0

    def __call__(self, answer: dict[str, Any]) -> Any:
        self.answers += 1
        return self.lie(answer) if self.answers in self.lying else answer


def _each(change: Callable[[float], Any]) -> Callable[[dict[str, Any]], Any]:
    """Return what changes every log-probability of an answer."""

    def changed(answer: dict[str, Any]) -> Any:
        for row in filter(None, answer["choices"][0]["prompt_logprobs"]):
            for one in row.values():
                one["logprob"] = change(one["logprob"])
        return answer

    return changed


def _without_the_least(answer: dict[str, Any]) -> Any:
    for row in filter(None, answer["choices"][0]["prompt_logprobs"]):
        del row[min(row, key=lambda name: row[name]["logprob"])]
    return answer


def _another_each_time() -> Callable[[dict[str, Any]], Any]:
    """Return what gives the probability of one token to another, by chance: each answer is part of a distribution."""
    generator = np.random.default_rng(0)

    def changed(answer: dict[str, Any]) -> Any:
        for row in filter(None, answer["choices"][0]["prompt_logprobs"]):
            probable = sorted(row, key=lambda name: -row[name]["logprob"])[:5]
            first, second = generator.choice(probable, 2)
            row[first], row[second] = row[second], row[first]
        return answer

    return changed


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (_another_each_time(), "answers differently when a window is sent again"),
        (_each(lambda value: value - 3), "those of a distribution"),
        (_each(lambda value: 2 * value), "those of a distribution"),
        (_each(lambda value: value / 4), "add up to"),
        (_each(lambda value: float("nan")), "is nan; is the served model broken?"),
        (_each(lambda value: 10**400), "hundreds of digits"),
        (_each(str), "is not a number"),
        (_without_the_least, "no log-probability of token"),
        (lambda answer: json.dumps(answer).encode()[:-40], "not JSON"),
        (lambda answer: {"error": "overloaded"}, "no choices"),
    ],
    ids=[
        "random", "too small", "another temperature", "too large", "NaN", "huge", "texts", "tokens missing", "cut",
        "no answer",
    ],
)  # fmt: skip
def test_a_server_that_lies_during_a_measurement_is_refused_in_one_line_without_a_report(
    lie: Callable[[dict[str, Any]], Any], words: str, folders: Path, output: Path
) -> None:
    with serve_model(folders / "subject", Dialect("prompt_logprobs")) as server:
        server.misbehave = Lies(lie)
        code, report, printed = evaluate(folders, server.url, output)

    assert (code, report) == (2, {}), printed
    assert words in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert not output.exists()


def test_a_server_that_exchanges_its_model_during_a_measurement_is_refused(folders: Path, output: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    models = [load(folders / side, dtype=torch.float32).eval() for side in ("subject", "baseline")]
    calls: list[int] = []

    def logits(ids: Any) -> Any:
        calls.append(len(ids))
        # 1 window finds the dialect, 8 are the preview, 16 the final windows
        with torch.inference_mode():
            scores = models[len(calls) > 15](input_ids=torch.tensor([list(ids)])).logits[0].numpy()
        return np.roll(scores, 1, axis=1) if len(calls) > 15 else scores

    with serve(logits, load_tokenizer(folders / "baseline"), Dialect("prompt_logprobs")) as server:
        code, _, printed = evaluate(folders, server.url, output)

    assert code == 2
    assert "answers differently when a window is sent again" in printed


def test_a_server_that_is_busy_during_a_measurement_gives_the_same_report(
    folders: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("invarlock.evaluation.served.client.time.sleep", slept.append)
    with serve_model(folders / "subject", Dialect("prompt_logprobs")) as server:

        def busy(answer: dict[str, Any]) -> Any:
            server.statuses += [(429, {"Retry-After": "3"}), (500, {}), (503, {})]
            return answer

        _, quiet, _ = evaluate(folders, server.url, tmp_path / "quiet")
        server.misbehave = Lies(busy, after=5, times=1)
        code, report, _ = evaluate(folders, server.url, output)

    assert code == 0
    assert len(slept) == 3
    assert report["evaluation_windows"] == quiet["evaluation_windows"]
    assert report["fidelity"] == quiet["fidelity"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--subject-url", "http://user:pw@host"), "credentials"),
        (("--subject-url", "http://host/v1?key=1"), "credentials"),
        (("--subject-url", "ftp://host"), "not the URL of a server"),
        (("--subject-url", "http://host:port"), "not the URL of a server"),
        (("--expect", "layers=1"), "--expect"),
        (("--edit-label", "noop"), "noop"),
        (("--scoring", "native"), "--scoring"),
    ],
)
def test_options_that_do_not_apply_to_a_served_subject_are_refused(
    more: tuple[str, ...], words: str, folders: Path, output: Path
) -> None:
    code, _, printed = evaluate(folders, "http://127.0.0.1:9", output, *more)

    assert code == 2
    assert words in printed
    assert "pw" not in printed
