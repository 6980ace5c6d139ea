"""Language models behind one seam: `ask` sends requests to a local model or an endpoint and keeps every answer."""

from curation.language.asking import ask, failures, release
from curation.language.models import Answer, LanguageModel, Request

__all__ = ["Answer", "LanguageModel", "Request", "ask", "failures", "release"]
