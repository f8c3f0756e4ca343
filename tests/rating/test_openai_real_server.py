"""The openai rater against a server that people run: ``transformers serve``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rating_fakes import HashEmbedder

from rmexp.backbone.sources import resolve_model
from rmexp.preferences import read_starter
from rmexp.rating import RatingStore, rate_pairs
from rmexp.rating.openai_api import OpenAIRater
from rmexp.rules import load_rule_set

pytest.importorskip("openai", reason="the openai client is not installed")
pytest.importorskip("fastapi", reason="transformers serve needs fastapi")
pytest.importorskip("uvicorn", reason="transformers serve needs uvicorn")


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    model = resolve_model("smollm2_135m", tmp_path_factory.mktemp("models"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            direct.open(address, timeout=1)
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"the server did not start: {log.read_text()[-2000:]}")


@pytest.mark.slow
def test_a_real_server_rates_once_and_accounts_for_everything(
    endpoint: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, model = endpoint
    # On texts without sense this small model says other words than the three.
    pairs = read_starter(limit=3).pairs
    rules = load_rule_set("core20", ids=["answers_alarming_wording", "offers_safe_alternative"])
    rater = OpenAIRater(model, base_url=url, concurrency=2, probabilities=False)
    with RatingStore(tmp_path) as store:
        first = rate_pairs(pairs, rules, rater, store, embedder=HashEmbedder())
        assert first.rated + first.failed == 12
        assert rater.report.ratings == rater.report.words == first.rated > 0
        assert rater.report.unrated.total() == first.failed
        # The server counts the tokens of its own template.
        assert rater.report.input_tokens > 12 * 50
        given = first.psi_a[~np.isnan(first.psi_a)]
        assert set(given.tolist()) <= {-1.0, 0.0, 1.0}
        again = OpenAIRater(model, base_url=url, concurrency=2, probabilities=False)
        second = rate_pairs(pairs, rules, again, store, embedder=HashEmbedder())
    assert second.reused == first.rated
    assert again.report.ratings == second.rated
    both = ~np.isnan(first.psi_a)
    np.testing.assert_array_equal(second.psi_a[both], first.psi_a[both])
