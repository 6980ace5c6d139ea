"""Sets of prompts."""

import pytest

from curation.templates import clipn_templates, openai_templates, read_templates

pytest.importorskip("open_clip")
KEY = "curation.ood.templates"


def test_clipn_templates__the_published_lines() -> None:
    lines = clipn_templates()
    assert len(lines) == len(set(lines)) == 128
    # Lines of CLIPN's prompt.txt, by their number.
    for number, line in {
        1: "'a bad photo of a {}.'", 31: "'a {} in a video game.'", 35: "'a photo of a {}.',", 47: "'art of a {}.'",
        64: "'a tattoo of the {}.'", 65: "'a bad photo with a {}.'", 95: "'a {} appearing in a video game.'",
        98: "'a close-up photo with the {}.'", 99: "'a photo with a {}.',", 100: "'the {} appearing in a video game.'",
        128: "'a tattoo with the {}.'",
    }.items():  # fmt: skip
        assert lines[number - 1] == line
    assert not any("itap of my" in line or "toy" in line or "plushie" in line for line in lines)


def test_read_templates__by_name() -> None:
    assert read_templates("clipn", KEY) == clipn_templates()
    assert read_templates("clipn_clean", KEY) == [line.strip("',") for line in clipn_templates()]
    assert read_templates("openai", KEY) == openai_templates() and len(openai_templates()) == 80
    assert openai_templates()[0] == "a bad photo of a {}." and openai_templates()[-1] == "a tattoo of the {}."
    assert read_templates("single", KEY) == ["a photo of a {}."]


def test_read_templates__ones_own() -> None:
    assert read_templates("a {} on a plate", KEY) == ["a {} on a plate"]
    assert read_templates(["{}", "my {}"], KEY) == ["{}", "my {}"]


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("clpn", "'clpn' is no set of prompts; use one of clipn, clipn_clean, openai, single, or"),
        ([], "is empty; use one of"),
        (["{}", "a photo"], "'a photo' must hold exactly one {}"),
        ("{} and {}", "'{} and {}' must hold exactly one {}"),
    ],
)
def test_read_templates__wrong_ones_are_named(templates: str | list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^curation\.ood\.templates:? .*{message}"):
        read_templates(templates, KEY)
