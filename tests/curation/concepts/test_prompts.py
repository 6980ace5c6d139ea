import pytest

from curation.concepts.prompts import CAPTION, Prompts, check_template, draw_seed, fill


def test_prompts__ours_can_be_filled() -> None:
    Prompts().check_placeholders()
    check_template("caption", CAPTION, "curation.captions.prompt")


def test_fill__a_concept_with_quotes_slashes_and_braces() -> None:
    concept = 'AC/DC "{domain}" burger \\ 100%'
    assert f'photo that shows "{concept}"' in fill(CAPTION, domain="food", description="dishes", concept=concept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generate": "List {number} of {domain}"}, r"curation\.concepts\.prompts\.generate.*'number'.*\{count\}"),
        ({"check": "Is it {domain}?"}, r"curation\.concepts\.prompts\.check must hold \{concept\}"),
        ({"expand": "Like {concept} {"}, r"curation\.concepts\.prompts\.expand holds braces .*written twice"),
        ({"gap": "Like {concept} {0}"}, r"curation\.concepts\.prompts\.gap holds braces"),
        ({"wider": "{domain.x}"}, r"curation\.concepts\.prompts\.wider holds braces"),
    ],
)
def test_prompts__wrong_placeholders_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompts(**changes).check_placeholders()


def test_prompts__a_brace_written_twice_is_a_brace() -> None:
    Prompts(check='{{"answer"}}: {concept} in {domain}').check_placeholders()
    assert fill('{{"a"}}: {concept}', concept="b") == '{"a"}: b'


def test_draw_seed__depends_on_every_part_and_nothing_else() -> None:
    seeds = {draw_seed(0, "expand", 1, "a"), draw_seed(1, "expand", 1, "a"), draw_seed(0, "expand", 2, "a")}
    assert len(seeds) == 3 and draw_seed(0, "expand", 1, "a") in seeds
    assert all(0 <= seed < 2**31 for seed in seeds)
