"""What an OpenAI-compatible endpoint says, put into words for a person. Imports no torch.

The key is read from the environment where it is sent, and stands in no message, file or setting.
"""

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation.language.models import LanguageModel


@dataclass(frozen=True)
class Connection:
    """An endpoint, and the model's place in the yaml for its errors."""

    model: "LanguageModel"
    key: str

    @property
    def base(self) -> str:
        """The endpoint without a slash at its end."""
        return (self.model.endpoint or "").rstrip("/")

    def _secret(self) -> str:
        return os.environ.get(self.model.api_key_variable, "").strip()

    def headers(self) -> dict[str, str]:
        """The authorization, or nothing where no key is set: a server of one's own often wants none."""
        secret = self._secret()
        if not (secret.isascii() and secret.isprintable()):
            raise ValueError(
                f"the environment variable {self.model.api_key_variable} ({self.key}.api_key_variable) holds "
                "characters that no key has; set it anew"
            )
        return {"Authorization": f"Bearer {secret}"} if secret else {}

    def message(self, body: bytes) -> str:
        """The server's own words from the body of an error, in one short line, without the key."""
        text = body[:10_000].decode(errors="replace")
        try:
            value: Any = json.loads(text)
        except ValueError:
            value = text
        while isinstance(value, dict):
            value = next((value[name] for name in ("error", "message", "detail") if value.get(name)), str(value))
        line = " ".join(str(value).encode("utf-8", errors="replace").decode().split())
        secret = self._secret()
        line = line.replace(secret, "<key>") if secret else line
        return line if len(line) <= 300 else line[:300] + "..."

    def refusal(self, status: int, body: bytes) -> OSError | ValueError:
        """The error of an answer that no other prompt and no waiting would change."""
        variable, said = self.model.api_key_variable, f"HTTP {status}: {self.message(body)}"
        if status in (401, 403):
            state = "holds no key that it takes" if self._secret() else "is not set"
            return PermissionError(
                f"{self.key}.endpoint {self.base} refuses ({said}); the environment variable {variable} {state}: put "
                f"the key there, or name another variable in {self.key}.api_key_variable"
            )
        if status == 404:
            return ValueError(
                f"{self.key}.model is {self.model.model!r}, but {self.key}.endpoint {self.base} does not serve it "
                f"({said}); name a model that it serves, and end the endpoint as the server says, most with /v1"
            )
        return ConnectionError(f"{self.key}.endpoint {self.base} takes no requests ({said}); correct the endpoint")

    def unreachable(self, reason: str) -> ConnectionError:
        """The error of an endpoint that gives no answer."""
        return ConnectionError(
            f"{self.key}.endpoint {self.base} does not answer ({reason}); start the server or correct the endpoint"
        )

    def check(self) -> None:
        """Raises unless the endpoint answers, takes the key and serves the model; seconds."""
        import httpx

        try:
            response = httpx.get(f"{self.base}/models", headers=self.headers(), timeout=10)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.unreachable(describe(error)) from None
        if response.status_code in (404, 405, 429, 501):  # it is there; some servers have no list of models
            return
        if response.status_code >= 500:
            raise self.unreachable(f"HTTP {response.status_code}: {self.message(response.content)}")
        if response.status_code != 200:
            raise self.refusal(response.status_code, response.content)
        served = _served(response.content)
        if served and self.model.model not in (*served, *(name.removeprefix("models/") for name in served)):
            raise ValueError(
                f"{self.key}.model is {self.model.model!r}, but {self.key}.endpoint {self.base} serves "
                f"{', '.join(served[:10])}{' ...' if len(served) > 10 else ''}; name one of these"
            )


def _served(body: bytes) -> list[str]:
    try:
        return [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return []


def describe(error: Exception) -> str:
    """An error of the network in a few words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
