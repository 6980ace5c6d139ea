"""The OpenAI chat protocol: what a request says and what an answer means. Imports no torch."""

import contextlib
import json
import math
import time
from email.utils import parsedate_to_datetime
from typing import Any

from curation.language.models import Answer, LanguageModel, Request

# Texts are cut here, in bytes of UTF-8; bodies are read no further than TOO_LARGE.
LONGEST_TEXT = 200_000
TOO_LARGE = 16_000_000
LONGEST_WAIT_S = 600.0


class Dialect:
    """The request's body, in the form that this server takes: some name a parameter otherwise or lack one."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.logprobs = True
        self.limit = "max_tokens"

    def body(self, request: Request) -> dict[str, Any]:
        """The JSON body of one request."""
        system = [{"role": "system", "content": self.model.system}] if self.model.system else []
        history = [{"role": role, "content": content} for role, content in request.history]
        body = {
            "model": self.model.model,
            "messages": [*system, *history, {"role": "user", "content": request.prompt}],
            "temperature": self.model.temperature,
            "top_p": self.model.top_p,
            self.limit: self.model.max_tokens,
            "seed": request.seed,
        }
        if request.choices and self.logprobs:
            body |= {"logprobs": True, "top_logprobs": 20}
        return body

    def adapt(self, refusal: bytes, sent: dict[str, Any]) -> bool:
        """Whether the refused request may be sent again, because its form has changed since it was sent.

        sent: its body; others that were in flight at the same time are refused for the same word.
        """
        said = refusal[:10_000].decode(errors="replace")
        if "max_tokens" in sent and "max_completion_tokens" in said:
            self.limit = "max_completion_tokens"
            return True
        if "logprobs" in sent and "logprobs" in said:
            self.logprobs = False
            return True
        return False


def read_answer(body: bytes, request: Request) -> Answer | str:
    """The answer in a body, or why there is none in it."""
    if len(body) > TOO_LARGE:
        return f"the answer is larger than {TOO_LARGE // 1_000_000} MB"
    try:
        choice = json.loads(body)["choices"][0]
        content = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return f"HTTP 200 with what is no answer: {body[:100].decode(errors='replace')!r}"
    if isinstance(content, list):  # parts, of which some are texts
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    text, cut = cut_text(str(content or ""))
    if choice.get("finish_reason") == "content_filter":
        return Answer(text, "failed", error="withheld by the server's content filter")
    finish = "length" if cut or choice.get("finish_reason") == "length" else "stop"
    return Answer(text, finish, _probability(choice, request.choices) if request.choices else None)


def cut_text(text: str) -> tuple[str, bool]:
    """(text of at most 200 kB that any file can hold, whether it was cut)."""
    data = text.encode("utf-8", errors="replace")  # half of a surrogate pair, which JSON may hold, becomes a ?
    return data[:LONGEST_TEXT].decode("utf-8", errors="ignore").strip(), len(data) > LONGEST_TEXT


def _probability(choice: dict[str, Any], choices: tuple[str, str]) -> float | None:
    """Share of choices[0] in the probability of both, from the first token of the answer that is no space."""
    try:
        tokens = choice["logprobs"]["content"]
        first = next(token for token in tokens if token["token"].strip())
        shares = [(str(top["token"]), math.exp(min(0.0, top["logprob"]))) for top in [*first["top_logprobs"]]]
    except (AttributeError, KeyError, TypeError, StopIteration):
        return None
    yes, no = (sum(share for token, share in shares if begins(word, token)) for word in choices)
    return yes / (yes + no) if yes + no > 0 else None


def begins(word: str, token: str) -> bool:
    """Whether a token is the beginning of a word, in any case, with or without a space or quote before it."""
    bare = token.strip(" \n\t\"'*▁Ġ").casefold()
    return bool(bare) and word.casefold().startswith(bare)


def read_retry_after(value: str | None) -> float:
    """Seconds to wait of a Retry-After header (a number or a date); 0 where there is none; ten minutes at most."""
    seconds = 0.0
    if value is not None:
        try:
            seconds = float(value)
        except ValueError:
            with contextlib.suppress(ValueError, TypeError):
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if math.isfinite(seconds) else 0.0
