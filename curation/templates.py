"""Sets of prompts around a concept's name, over which its embeddings are ensembled."""

from collections.abc import Sequence

SINGLE = "a photo of a {}."
# Of OpenAI's 80 prompts CLIPN leaves out these (its prompt.txt holds 64 of them, each also with "with" for "of").
_LEFT_OUT = (
    "a photo of the hard to see {}.", "a photo of a hard to see {}.", "the embroidered {}.", "a embroidered {}.",
    "the plastic {}.", "a plastic {}.", "the origami {}.", "a origami {}.", "the toy {}.", "a toy {}.",
    "a cartoon {}.", "the cartoon {}.", "a plushie {}.", "the plushie {}.", "art of the {}.", "itap of my {}.",
)  # fmt: skip
_QUOTED_WITH_COMMA = (34, 98)  # places whose line in prompt.txt ends in a comma
NAMES = ("clipn", "clipn_clean", "openai", "single")


def read_templates(templates: str | Sequence[str], key: str) -> list[str]:
    """The prompts, each with one `{}`, of a set's name, of one prompt, or of a list of them.

    clipn: the 128 lines of CLIPN's prompt.txt with the quotes around them, which its code leaves in the texts, so that
    official scores come out; clipn_clean: without the quotes; openai: CLIP's 80 ImageNet prompts; single: one prompt.
    Raises ValueError naming the yaml key.
    """
    if isinstance(templates, str):
        sets = {"clipn": clipn_templates, "clipn_clean": _clean, "openai": openai_templates, "single": lambda: [SINGLE]}
        if templates in sets:
            return sets[templates]()
        if "{" not in templates:
            raise ValueError(
                f"{key}: {templates!r} is no set of prompts; use one of {', '.join(NAMES)}, or prompts with one {{}}"
            )
        templates = [templates]
    if not templates:
        raise ValueError(f"{key} is empty; use one of {', '.join(NAMES)}, or prompts with one {{}}")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"{key}: {template!r} must hold exactly one {{}}")
    return list(templates)


def openai_templates() -> list[str]:
    """CLIP's 80 prompts for ImageNet, in their usual order."""
    import open_clip

    return [make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES]


def clipn_templates() -> list[str]:
    """The 128 prompts as CLIPN's code feeds them: in single quotes, two of them with a comma behind."""
    return [f"'{text}'" + "," * (place in _QUOTED_WITH_COMMA) for place, text in enumerate(_clean())]


def _clean() -> list[str]:
    kept = [text for text in openai_templates() if text not in _LEFT_OUT]
    return kept + [_with(text) for text in kept]


def _with(text: str) -> str:
    if text.endswith("{} in a video game."):
        return text.replace(" in a video game", " appearing in a video game")
    return text.replace(" of ", " with ", 1)
