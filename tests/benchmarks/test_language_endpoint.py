"""Speed of asking an endpoint: what is in flight stays in flight. Run with -m benchmark -s."""

import time
from pathlib import Path

import pytest

from curation.language import LanguageModel, Request, ask
from curation.session import Session
from tests.curation.language.server import LanguageServer


@pytest.mark.benchmark
def test_ask__2000_answers_of_200_ms_at_32_in_flight(tmp_path: Path) -> None:
    ideal = 2000 * 0.2 / 32
    requests = [Request(f"concept {number}", seed=number) for number in range(2000)]
    with LanguageServer(lambda messages: "1. pizza\n2. sushi", latency_s=0.2) as server:
        model = LanguageModel("tiny", endpoint=server.url, concurrency=32)
        session = Session(accelerator="cpu", devices=1)
        began = time.monotonic()
        answers = ask(model, requests, folder=tmp_path, session=session, key="key", title="benchmark")
        seconds = time.monotonic() - began
        began = time.monotonic()
        assert ask(model, requests, folder=tmp_path, session=session, key="key", title="benchmark") == answers
        again = time.monotonic() - began
    print(f"\n{seconds:.2f} s, {seconds / ideal:.3f} times the ideal {ideal:.1f} s; from the store {again:.3f} s")
    assert len(server.requests) == 2000 and server.most_in_flight == 32
    assert seconds < 1.3 * ideal
