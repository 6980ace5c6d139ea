"""What is asked, of whom, and what comes back. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from curation.language import weights
from curation.language.connection import Connection
from curation.stage import runtime

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class LanguageModel:
    """A language model: weights that run in this process, or what an OpenAI-compatible endpoint serves.

    Args:
        model: Hugging Face repository or local folder; with `endpoint`, the name it is served under.
        endpoint: Base url of an OpenAI-compatible server, such as http://localhost:8000/v1; null for local weights.
        revision: Branch, tag or commit of a Hugging Face repository.
        api_key_variable: Name of the environment variable that holds the endpoint's key.
        temperature: Of the sampling; 0 takes the likeliest token.
        top_p: Samples from the likeliest tokens that reach this share of the probability.
        max_tokens: Longest answer, in tokens.
        system: System message before every conversation.
        batch_size: Prompts per batch of a local model.
        concurrency: Requests in flight at an endpoint.
        timeout_s: Longest wait for one answer of an endpoint, in seconds.
        retries: How often a request is sent again after 429, 5xx, a time-out or a lost connection.
        dtype: Precision of a local model's weights: bfloat16, float16 or float32.
        device_map: Accelerate's device map (auto) for a model larger than one GPU; one process only.
    """

    model: str
    endpoint: str | None = runtime(None)  # where it is served, on this node or that, decides no answer
    revision: str | None = None
    api_key_variable: str = runtime("OPENAI_API_KEY")
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 1024
    system: str | None = None
    batch_size: int = runtime(16)
    concurrency: int = runtime(32)
    timeout_s: float = runtime(120.0)
    retries: int = runtime(6)
    dtype: str = runtime("bfloat16")
    device_map: str | None = runtime(None)

    def parameters(self) -> dict[str, Any]:
        """What decides an answer besides the model and the request."""
        return {
            "temperature": float(self.temperature),  # 0 and 0.0 name the same answers
            "top_p": float(self.top_p),
            "max_tokens": self.max_tokens,
            "system": self.system,
        }

    def identity(self) -> dict[str, Any]:
        """Name, revision or checksums, and parameters: what decides the answers.

        Of an endpoint only that it is one: the same model on another node or port gives what was asked before.
        """
        served = self.endpoint is not None
        files = {} if served else weights.identify(self.model, self.revision)
        return {"name": self.model, "endpoint": served, **files, "parameters": self.parameters()}

    def check(self, key: str, ranks: int = 1) -> None:
        """Raises what would end the run later. key: this model's place in the yaml, named in the error."""
        self._check_settings(key)
        self.check_ranks(key, ranks)
        if self.endpoint is not None:
            Connection(self, key).check()
        else:
            weights.check_weights(self.model, self.revision, key)

    def check_ranks(self, key: str, ranks: int) -> None:
        """Raises ValueError where so many processes would each spread a local model over all GPUs."""
        if self.endpoint is None and self.device_map is not None and ranks > 1:
            raise ValueError(
                f"{key}.device_map is {self.device_map!r}, which spreads one model over all GPUs, but this run has "
                f"{ranks} processes; first run `curate --stop_after captions --trainer.devices 1` with this config, or "
                f"serve the model and name the server in {key}.endpoint"
            )

    def _check_settings(self, key: str) -> None:
        allowed = {
            "temperature": (self.temperature >= 0, "a number from 0 (the likeliest token) up"),
            "top_p": (0 < self.top_p <= 1, "a number above 0 and up to 1"),
            "max_tokens": (self.max_tokens >= 1, "a number of tokens from 1 up"),
            "batch_size": (self.batch_size >= 1, "a number from 1 up"),
            "concurrency": (self.concurrency >= 1, "a number from 1 up"),
            "timeout_s": (self.timeout_s > 0, "a number of seconds above 0"),
            "retries": (self.retries >= 0, "a number from 0 up"),
            "dtype": (self.dtype in DTYPES, f"one of {', '.join(DTYPES)}"),
        }
        for name, (holds, choices) in allowed.items():
            if not holds:
                raise ValueError(f"{key}.{name} is {getattr(self, name)!r}; use {choices}")
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"{key}.endpoint is {self.endpoint!r}; use a url such as http://localhost:8000/v1")
        if self.endpoint is not None and "@" in self.endpoint:
            raise ValueError(
                f"{key}.endpoint holds a name or password before an @; put the key into the environment variable "
                f"{self.api_key_variable} instead"
            )


@dataclass(frozen=True)
class Request:
    """One question.

    prompt: the user's message. seed: of the sampling. history: (role, content) of the conversation before the prompt,
    role "user" or "assistant". choices: two first words (yes, no) whose probabilities are compared.
    """

    prompt: str
    seed: int = 0
    history: tuple[tuple[str, str], ...] = ()
    choices: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back.

    finish: "stop", "length" (cut at max_tokens or at 200 kB) or "failed". probability: of choices[0] against
    choices[1], in [0, 1]; None where none was asked for or the endpoint gives no log-probabilities. error: why it
    failed.
    """

    text: str
    finish: str
    probability: float | None = None
    error: str | None = None
