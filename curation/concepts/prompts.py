"""What language models are asked. The paper shows its templates in a figure only: these are ours.

A template is a text with placeholders in braces; a brace that is none is written twice.
"""

import dataclasses
import hashlib
import string
from dataclasses import dataclass
from typing import Any

HEAD = "Domain: {domain}. Kind of concepts: {description}.\n"
CAPTION = HEAD + (
    'Describe a realistic photo that shows "{concept}", in one sentence of at most 40 words that calls it by this name '
    "and says where it is, what is around it, and how the light falls. Answer with that sentence alone."
)
# Placeholders that a template may hold; those in the second tuple it must hold.
PLACEHOLDERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "generate": (("domain", "description", "count"), ("domain",)),
    "expand": (("domain", "description", "count", "concept", "known"), ("concept",)),
    "check": (("domain", "description", "concept"), ("concept", "domain")),
    "wider": (("domain", "description", "count"), ("domain",)),
    "gap": (("domain", "description", "count", "concept"), ("concept",)),
    "caption": (("domain", "description", "concept"), ("concept",)),
}


@dataclass(frozen=True)
class Prompts:
    """The templates of the search for concepts.

    Args:
        generate: Asks for concepts of the domain. May hold {domain}, {description} and {count}.
        expand: Asks for concepts like {concept}. May also hold {known}: what was found so far, the latest first.
        check: Asks whether {concept} belongs to {domain}; the answer is to begin with yes or no.
        wider: Asks for the wider categories of the general bank.
        gap: Asks about a {concept} of which few images were found.
    """

    generate: str = HEAD + (
        "List {count} different concepts of this kind, as varied as possible: common and rare ones, general and very "
        "particular ones. Write one name a line, numbered, without explanations."
    )
    expand: str = HEAD + (
        'List {count} more concepts of this kind that are similar to "{concept}": its relatives, its variants, and '
        "more particular kinds of it. Write one name a line, numbered, without explanations."
    )
    check: str = HEAD + (
        'Is "{concept}" a real concept of exactly this kind, one that a photo can show? '
        "Answer with one word, Yes or No."
    )
    wider: str = HEAD + (
        "List {count} wider categories, each of one or two words, that together cover all concepts of this kind and "
        "nothing outside the domain. Write one name a line, numbered, without explanations."
    )
    gap: str = HEAD + (
        'Few photos were found of "{concept}". List {count} other names that it goes by, or more particular kinds of '
        "it. Write one name a line, numbered, without explanations."
    )

    def check_placeholders(self, key: str = "curation.concepts.prompts") -> None:
        """Raises ValueError, naming the yaml key, for a template that cannot be filled."""
        for field in dataclasses.fields(self):
            check_template(field.name, getattr(self, field.name), f"{key}.{field.name}")


def check_template(kind: str, template: str, key: str) -> None:
    """Raises ValueError where a template holds an unknown placeholder, or lacks one that it needs."""
    allowed, needed = PLACEHOLDERS[kind]
    choices = ", ".join(f"{{{name}}}" for name in allowed)
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        template.format(**dict.fromkeys(allowed, ""))
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{key} holds braces that are no placeholder of this template ({error}); "
            f"it may hold {choices}, and any other brace is written twice: {{{{ }}}}"
        ) from None
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise ValueError(f"{key} must hold {' and '.join(f'{{{name}}}' for name in lacking)}; it may hold {choices}")


def fill(template: str, **values: Any) -> str:
    """The template with its placeholders filled; braces in the values stay as they are."""
    return template.format(**values)


def draw_seed(seed: int, *parts: Any) -> int:
    """A seed of its own for one request, in [0, 2^31): the same for the same parts, whatever else is asked."""
    return int.from_bytes(hashlib.sha256(repr((seed, *parts)).encode()).digest()[:4], "big") >> 1
