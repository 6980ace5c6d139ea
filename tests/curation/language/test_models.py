"""Settings of a language model, and what a check of its endpoint finds."""

import dataclasses

import pytest

from curation.language import LanguageModel
from tests.conftest import free_port
from tests.curation.language.server import LanguageServer

KEY = "curation.captions.model"


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}, {"batch_size": 0}, {"concurrency": 0},
        {"timeout_s": 0.0}, {"retries": -1}, {"dtype": "int8"}, {"endpoint": "localhost:8000"},
    ],
)  # fmt: skip
def test_check__names_the_setting_and_its_value(setting: dict) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(ValueError) as caught:
        LanguageModel("tiny", **setting).check(KEY)
    assert str(caught.value).startswith(f"{KEY}.{name} is {value!r}; use ")


def test_check__a_key_in_the_endpoint_is_refused_unseen() -> None:
    with pytest.raises(ValueError, match=rf"{KEY}\.endpoint holds a name or password") as caught:
        LanguageModel("tiny", endpoint="http://me:hunter2@localhost/v1").check(KEY)
    assert "hunter2" not in str(caught.value)


def test_check__a_model_over_all_gpus_is_refused_to_many_processes() -> None:
    told = (
        rf"{KEY}\.device_map is 'auto', .* 2 processes; first run `curate --stop_after captions --trainer\.devices 1`"
    )
    with pytest.raises(ValueError, match=told):
        LanguageModel("tiny", device_map="auto").check(KEY, ranks=2)
    with LanguageServer() as server:
        LanguageModel("tiny", endpoint=server.url, device_map="auto").check(KEY, ranks=2)


def test_check__an_endpoint_that_serves_it() -> None:
    with LanguageServer() as server:
        LanguageModel("tiny", endpoint=server.url + "/").check(KEY)


def test_check__an_endpoint_that_serves_another() -> None:
    with LanguageServer(model="other/model") as server:
        with pytest.raises(ValueError, match=rf"{KEY}\.model is 'tiny', but .* serves other/model; name one of these"):
            LanguageModel("tiny", endpoint=server.url).check(KEY)


def test_check__an_endpoint_without_a_list_of_models_passes() -> None:
    with LanguageServer() as server:
        LanguageModel("tiny", endpoint=server.url.removesuffix("/v1")).check(KEY)


def test_check__a_dead_endpoint() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(ConnectionError, match=rf"{KEY}\.endpoint {url} does not answer \(.*\); start the server"):
        LanguageModel("tiny", endpoint=url).check(KEY)


@pytest.mark.parametrize(("secret", "said"), [("", "is not set"), ("sk-wrong-7Qx", "holds no key"), ("ключ", "set it")])
def test_check__a_wrong_key(monkeypatch: pytest.MonkeyPatch, secret: str, said: str) -> None:
    monkeypatch.setenv("PAS_TEST_KEY", secret)
    with LanguageServer(api_key="sk-right") as server:
        with pytest.raises((PermissionError, ValueError), match=f"PAS_TEST_KEY.* {said}") as caught:
            LanguageModel("tiny", endpoint=server.url, api_key_variable="PAS_TEST_KEY").check(KEY)
        assert KEY in str(caught.value) and "7Qx" not in str(caught.value)
        monkeypatch.setenv("PAS_TEST_KEY", " sk-right\n")
        LanguageModel("tiny", endpoint=server.url, api_key_variable="PAS_TEST_KEY").check(KEY)


def test_identity__tells_what_decides_and_nothing_else() -> None:
    model = LanguageModel("tiny", endpoint="http://x/v1", concurrency=3)
    parameters = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 1024, "system": None}
    assert model.identity() == {"name": "tiny", "endpoint": True, "parameters": parameters}


def test_settings__where_and_how_fast_a_model_runs_is_no_part_of_a_fingerprint() -> None:
    deciding = {f.name for f in dataclasses.fields(LanguageModel) if not f.metadata.get("runtime")}
    assert deciding == {"model", "revision", "temperature", "top_p", "max_tokens", "system"}
