import pytest

from curation.concepts.names import distinct, merge_key, readable, words_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pizza", "pizzas"),
        ("a Jalapeño", "jalapeno"),
        ("Crème brûlée", "creme brulee"),
        ("stir-fry", "Stir fries"),
        ("ice cream", "icecreams"),
        ("the Shepherd’s pie", "shepherd's pies"),
        ("Mac & Cheese", "mac and cheese"),
        ("fish ’n’ chips", "Fish and Chip"),
        ("savoury yoghurt", "savory yogurts"),
        ("peach", "peaches"),
        ("quiche", "quiches"),
        ("tomato", "tomatoes"),
        ("cookie", "cookies"),
        ("berry", "berries"),
        ("eggs Benedict", "Egg benedict"),
        ("loaves of bread", "loaf of bread"),
        ("Smørrebrød", "smorrebrod"),
        ("Ｓｕｓｈｉ", "sushi"),
        ("寿司", " 寿司 "),
        ("cafe\u0301", "caf\u00e9"),
        ("and/or salad", "and or salads"),
    ],
)
def test_merge_key__spellings_of_one_name(one: str, other: str) -> None:
    assert merge_key(one) == merge_key(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pine", "pin"),
        ("plane", "plan"),
        ("Caesar salad", "Caesar dressing"),
        ("かき", "がき"),  # the marks of other scripts make other letters
        ("बिरयानी", "बरयन"),
        ("bass", "bas"),
        ("glass", "gla"),
        ("A", "the"),
        ("7 Up", "Up"),
    ],
)
def test_merge_key__different_names(one: str, other: str) -> None:
    assert merge_key(one) != merge_key(other)


@pytest.mark.parametrize("text", ["", "  ", "-- !", "...", "“”", "🍕"])
def test_merge_key__nothing_to_name(text: str) -> None:
    assert merge_key(text) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("  Eggs \u00a0 Benedict\n", "Eggs Benedict"),
        ('"Pad Thai".', "Pad Thai"),
        ("=1+1 cake", "1+1 cake"),  # no formula in a spreadsheet
        ("\u202epizza\u200b", "pizza"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("cafe\u0301", "café"),
        ("AC/DC 'special' burger", "AC/DC 'special' burger"),
        ("The Hague", "The Hague"),
    ],
)
def test_readable__keeps_the_name(text: str, shown: str) -> None:
    assert readable(text) == shown


def test_distinct__the_first_spelling_stays_and_known_ones_do_not_come_back() -> None:
    names = ["Doughnuts", "donut", "", "Stir-Fry", "stir fry", "Kiwis"]
    assert list(distinct(names, known=[merge_key("kiwi")]).values()) == ["Doughnuts", "Stir-Fry"]


def test_words_of__a_sentence() -> None:
    assert words_of("Two Canada geese, on Anna's lake.") == ["two", "canada", "goose", "on", "anna", "lake"]


def test_distinct__a_shouted_name_in_small_letters() -> None:
    names = distinct(["BREADED PLUM", "BLT", "Crème Brûlée", "ÉCLAIR"])
    assert list(names.values()) == ["breaded plum", "BLT", "Crème Brûlée", "éclair"]
