"""The table of concepts, and what a person makes of it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from curation.concepts.bank import BankFiles, Entry, print_of, read_table, write_csv

FOUND = [
    Entry('AC/DC "burger", spicy', origin="generated", round=2, model="m", seed=7),
    Entry("jalapeño", origin="expanded", round=1, parent="chili", model="m", seed=2**31 - 1, probability=0.25),
    Entry("bicycle", origin="expanded", round=1, parent="寿司", valid=False, reason="the checker says no"),
    Entry("寿司\u3000セット"),
    Entry("food", general=True),
]


@pytest.fixture
def files(tmp_path: Path) -> BankFiles:
    files = BankFiles(tmp_path)
    files.write(FOUND, [], by_hand=False)
    return files


def test_write__both_tables_say_the_same(files: BankFiles) -> None:
    assert pq.read_table(files.folder / "bank.parquet").to_pylist() == [vars(entry) for entry in FOUND]
    assert [vars(entry) for entry in read_table(files.table)][:3] == [vars(entry) for entry in FOUND][:3]
    assert files.valid(general=False) == ['AC/DC "burger", spicy', "jalapeño", "寿司\u3000セット"]
    assert files.valid(general=True) == ["food"]
    assert files.edited([]) is None


def test_edited__a_spreadsheet_that_only_saves_changes_nothing(files: BankFiles) -> None:
    text = files.table.read_text(encoding="utf-8-sig").replace("true", "TRUE").replace("\n", "\r\n")
    files.table.write_text(text, encoding="utf-8")
    assert files.edited([]) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [("false,the checker", "true,the checker"), ("jalapeño,false", "chipotle,false"), ("food,true", "food,false")],
)
def test_edited__a_changed_cell(files: BankFiles, old: str, new: str) -> None:
    text = files.table.read_text(encoding="utf-8-sig")
    assert old in text
    files.table.write_text(text.replace(old, new), encoding="utf-8-sig")
    edited = files.edited([])
    assert edited is not None and print_of(edited) != print_of(FOUND)
    assert all(entry.reason is None for entry in edited if entry.valid)
    files.write(edited, [], by_hand=True)
    assert files.edited([]) == edited  # it stays the person's
    assert files.table.read_text(encoding="utf-8-sig") == text.replace(old, new)


def test_edited__a_plain_list_is_a_table(files: BankFiles) -> None:
    files.table.write_text("concept\npaella\n\n=1+1 cake\n")
    edited = files.edited([])
    assert edited is not None
    assert [(entry.concept, entry.origin, entry.valid) for entry in edited] == [
        ("paella", "added", True), ("=1+1 cake", "added", True),
    ]  # fmt: skip


@pytest.mark.parametrize("mark", [";", "\t"])
def test_read_table__other_separators(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "bank.csv"
    path.write_text(f"concept{mark}valid\npasta, fresh{mark}no\n")
    entry = read_table(path)[0]
    assert (entry.concept, entry.valid, entry.reason) == ("pasta, fresh", False, "by hand")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concept,valid\na,maybe\n", r"line 2: valid is 'maybe', not true or false; correct it, or delete the file"),
        ("concept,valid\na,true\n,true\nA,false\n", r"line 3: no concept; line 4: 'A' stands in line 2 already"),
        ("concept\nfish, fried\nsoup,\n", r"line 2: more cells than the first line; put quotes .* comma; correct it"),
        ("name\na\n", "has no column `concept` in its first line"),
        ("", "has no column `concept`"),
    ],
)
def test_read_table__what_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bank.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"curation\.concepts: .*bank\.csv.*" + message):
        read_table(path)


def test_read_table__another_encoding(tmp_path: Path) -> None:
    (tmp_path / "bank.csv").write_bytes("concept\njalapeño\n".encode("latin-1"))
    with pytest.raises(ValueError, match="save it as CSV UTF-8"):
        read_table(tmp_path / "bank.csv")


def test_edited__a_second_round_is_added_once_and_can_be_taken_out(files: BankFiles) -> None:
    write_csv(files.table, FOUND[:2])
    gaps = [Entry("tofu burger", origin="gap", parent="burger"), Entry("Jalapeños", origin="gap")]
    edited = files.edited(gaps)
    assert edited is not None and [entry.concept for entry in edited][2:] == ["tofu burger"]
    files.write(edited, gaps, by_hand=True)
    assert files.edited(gaps) == edited == read_table(files.table)
    write_csv(files.table, edited[:2])
    assert files.edited(gaps) == edited[:2]


def test_write__a_kill_between_the_files_makes_no_edit(files: BankFiles) -> None:
    before = files.table.read_bytes()
    files.write(FOUND[:1], [], by_hand=False)
    after = files.table.read_bytes()
    for content in (before, after):  # written.json is announced first: either table may stand beside it
        files.table.write_bytes(content)
        assert files.edited([]) is None


def test_valid__before_the_stage_ran(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the 'concepts' stage first"):
        BankFiles(tmp_path).valid(general=False)


def test_taken_out__what_a_person_removed_stays_known(tmp_path: Path) -> None:
    files = BankFiles(tmp_path)
    files.write([Entry("soup"), Entry("grilled onions"), Entry("meal", general=True)], [], by_hand=False)
    assert files.taken_out() == []
    files.write([Entry("soup"), Entry("ramen")], [], by_hand=True)
    assert [(entry.concept, entry.valid) for entry in files.taken_out()] == [("grilled onions", False)]
