"""Whether an endpoint answers, takes the key and serves the model. Imports no torch."""


def check_endpoint(endpoint: str, model: str, api_key_variable: str, key: str) -> None:
    """Raises what is wrong with an endpoint, naming the yaml key, before any work."""
