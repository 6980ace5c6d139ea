import pytest

from curation.concepts.captioning import clean_caption, clip_tokens, names_concept, shorten, why_not

GOOSE = "A Canada goose takes off over a frozen lake at dawn."


@pytest.mark.parametrize(
    "answer",
    [
        GOOSE,
        f'"{GOOSE}"',
        f"Sure! Here is a caption:\n\n{GOOSE}",
        f"Sure, here's a caption: {GOOSE}",
        f"**Caption:** {GOOSE}",
        f"Here you go!\n\n> *{GOOSE}*\n\nI hope this helps!",
        f"1. {GOOSE}\n2. Another goose.",
        f"# Caption\n\nCaption 1: “{GOOSE}”",
        f'```json\n{{"caption": "{GOOSE}"}}\n```',
        f"<think>A goose, say: ...</think>\n{GOOSE}",
        f"{GOOSE}\n\nNote: geese are birds.",
        "  A Canada goose\u200b takes off\u00a0over a frozen lake at dawn.",
    ],
)  # fmt: skip
def test_clean_caption__ways_of_answering(answer: str) -> None:
    assert clean_caption(answer) == GOOSE


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A goose lands. It then wal", "A goose lands."),
        ("A goose lands on a very", ""),
        ("A goose lands.\nAnd another cap", "A goose lands."),
        ("Here is a caption:", ""),
        ("", ""),
    ],
)
def test_clean_caption__cut_off(answer: str, caption: str) -> None:
    assert clean_caption(answer, "length") == caption


def test_clean_caption__a_bird_is_no_greeting() -> None:
    assert clean_caption("Great! Here it is:\n\nGreat egrets wade in a pond.") == "Great egrets wade in a pond."


def test_clean_caption__ten_thousand_characters() -> None:
    assert len(clean_caption("goose " * 2000)) == 11_999


@pytest.mark.parametrize(
    ("caption", "concept"),
    [
        ("Two Canada geese on a lake.", "Canada goose"),
        ("A plate of creme brulee with berries", "Crème Brûlée"),
        ("Chicken, grilled over charcoal", "grilled chicken"),
        ("Fish with chips on a pier", "fish and chips"),
        ("An icecream cone", "ice cream"),
        ("木のテーブルの上の寿司の写真", "寿司"),
        ("A photo of AC/DC 'burgers' at night", 'AC/DC "burger"'),
        ("The band The The on stage", "The The"),
    ],
)
def test_names_concept__in_any_form(caption: str, concept: str) -> None:
    assert names_concept(caption, concept)


@pytest.mark.parametrize(
    ("caption", "concept"),
    [
        ("寿司の写真", "sushi"),  # in another script
        ("A large bird on a lake", "Canada goose"),
        ("A hamburger with fries", "ham"),
        ("A goose in Alaska", "Canada goose"),
    ],
)
def test_names_concept__not_named(caption: str, concept: str) -> None:
    assert not names_concept(caption, concept)


def test_why_not__reasons() -> None:
    def fits(text: str) -> bool:
        return len(text) < 60

    assert why_not(GOOSE, "Canada goose", set(), fits) is None
    assert why_not(GOOSE, "Canada goose", {"a canada goose take off over a frozen lake at dawn"}, fits) == "repeated"
    assert why_not(GOOSE * 2, "Canada goose", set(), fits) == "too long"
    assert why_not(GOOSE, "heron", set(), fits) == "does not name the concept"
    assert why_not("I'm sorry, I cannot describe a heron.", "heron", set(), fits) == "a refusal"
    assert why_not("", "heron", set(), fits) == "no caption"


def test_shorten__drops_whole_sentences_from_the_end() -> None:
    text = "A goose lands. It eats. 鳥がいる。 Then it sleeps."
    assert shorten(text, lambda short: len(short) < 25) == "A goose lands. It eats."
    assert shorten(text, lambda short: len(short) < 5) == text
    assert shorten(GOOSE, lambda short: True) == GOOSE


def test_clip_tokens__as_the_encoder_counts() -> None:
    assert clip_tokens("a photo of a goose") == 7
    assert clip_tokens("寿司") > 4
