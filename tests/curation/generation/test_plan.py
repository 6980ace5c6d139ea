import pyarrow as pa

from curation.generation.plan import (
    choose_picture,
    folder_name,
    image_key,
    image_seed,
    plan_shards,
    shard_rows,
    wanted_images,
)

CAPTIONS = pa.table({"concept": ["cod", "cod", "“crab” / 蟹"], "caption": ["a cod", "two cods", '一只螃蟹 "x" /etc']})
NONE = pa.array([], pa.string())


def keys(captions: pa.Table, recipe: str = "recipe", seed: int = 0) -> list[str]:
    return wanted_images(captions, 3, seed, recipe, None)["key"].to_pylist()


def test_image_seed__depends_on_the_row_alone_and_fits_an_int64() -> None:
    assert image_seed(0, "a cod", 1) == image_seed(0, "a cod", 1)
    assert len({image_seed(seed, caption, n) for seed in (0, 1) for caption in ("a", "b") for n in range(50)}) == 200
    assert all(0 <= image_seed(0, "a cod", number) < 2**63 for number in range(100))


def test_image_key__is_a_file_name_and_changes_with_all_that_decides_the_image() -> None:
    names = {image_key("r", "a", 1), image_key("s", "a", 1), image_key("r", "b", 1), image_key("r", "a", 2),
             image_key("r", "a", 1, "picture"), image_key("r", "../../etc/“passwd”", 1)}  # fmt: skip
    assert len(names) == 6
    assert all(len(name) == 20 and name.isalnum() for name in names)


def test_wanted_images__captions_that_come_or_go_change_no_other_image() -> None:
    whole, fewer = keys(CAPTIONS), keys(CAPTIONS.slice(1))
    assert whole[3:] == fewer and len(set(whole)) == 9
    assert not set(whole) & set(keys(CAPTIONS, recipe="another"))
    assert not set(whole) & set(keys(CAPTIONS, seed=1))


def test_wanted_images__a_caption_of_two_concepts_is_drawn_once() -> None:
    shared = pa.table({"concept": ["cod", "fish"], "caption": ["a cod", "a cod"]})
    table = wanted_images(shared, 2, 0, "recipe", None)
    assert table["concept"].to_pylist() == ["cod", "cod"] and table["number"].to_pylist() == [0, 1]


def test_wanted_images__concepts_without_pictures_are_left_out() -> None:
    table = wanted_images(CAPTIONS, 2, 0, "recipe", {"cod": [("cod/1.jpg", "11"), ("cod/2.jpg", "22")]})
    assert set(table["concept"].to_pylist()) == {"cod"} and table.num_rows == 4
    assert set(table["picture"].to_pylist()) <= {"cod/1.jpg", "cod/2.jpg"}


def test_choose_picture__one_more_takes_only_its_share() -> None:
    pictures = [(f"{number}.jpg", f"checksum {number}") for number in range(9)]
    before, after = ([choose_picture(seed, some) for seed in range(900)] for some in (pictures[:8], pictures))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {pictures[8]} and 60 < len(moved) < 140
    assert set(before) == set(pictures[:8])


def test_plan_shards__takes_up_what_is_missing_in_new_shards() -> None:
    wanted = wanted_images(CAPTIONS, 3, 0, "recipe", None)
    made = wanted["key"].take(pa.array([1, 4])).combine_chunks()
    plan = plan_shards(wanted, made, first=12, chunk_rows=3)
    assert plan["key"].to_pylist() == [
        key for place, key in enumerate(wanted["key"].to_pylist()) if place not in (1, 4)
    ]
    assert {number: rows.tolist() for number, rows in shard_rows(plan).items()} == {
        12: [0, 1, 2],
        13: [3, 4, 5],
        14: [6],
    }


def test_plan_shards__nothing_is_missing() -> None:
    wanted = wanted_images(CAPTIONS, 3, 0, "recipe", None)
    plan = plan_shards(wanted, wanted["key"].combine_chunks(), first=3, chunk_rows=3)
    assert plan.num_rows == 0 and shard_rows(plan) == {}
    assert shard_rows(plan_shards(wanted.slice(0, 0), NONE, 0, 3)) == {}


def test_folder_name__spellings_of_a_concept_agree() -> None:
    assert folder_name("Fish & Chips") == folder_name("fish_chips") == folder_name("fish/chips ")
    assert folder_name("蟹 “crab”") == "蟹 crab"
