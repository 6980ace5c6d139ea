import io
import random
import tarfile
from pathlib import Path

import pytest

from datamodules.tars import TarScan

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
Member = tuple[str, bytes]


def write_tar(path: Path, members: list[Member], kind: str = "ustar") -> Path:
    with tarfile.open(path, "w", format=FORMATS[kind]) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def scan(path: Path) -> tuple[list[Member], str | None]:
    """Names and bytes of the members, and the damage."""
    with TarScan(path) as tar:
        places = list(tar.members())
        return [(name, path.read_bytes()[offset : offset + size]) for name, offset, size in places], tar.damage


def known(path: Path) -> list[Member]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar if info.isreg()]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", FORMATS)
def test_members__as_tarfile_reads_them(tmp_path: Path, kind: str, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "random.tar"
    with tarfile.open(
        path, "w", format=FORMATS[kind], pax_headers={"comment": "all"} if kind == "pax" else None
    ) as tar:
        for number in range(chance.randrange(40)):
            deep = "/".join("d" * chance.randrange(1, 60) for _ in range(chance.randrange(3)))
            letters = "abc.é日" if kind == "pax" else "abc."
            name = f"{deep}/{number}{''.join(chance.choices(letters, k=chance.randrange(1, 40)))}"
            info = tarfile.TarInfo(name.lstrip("/"))
            info.type = chance.choice([tarfile.REGTYPE] * 5 + [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
            info.linkname = "x" * chance.randrange(90) if info.issym() or info.islnk() else ""
            info.size = chance.choice([0, 1, 511, 512, 513, chance.randrange(40_000)]) if info.isreg() else 0
            info.mtime = chance.choice([0, 1.5]) if kind == "pax" else 0
            tar.addfile(info, io.BytesIO(chance.randbytes(info.size)))
    assert scan(path) == (known(path), None)


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_members__long_names(tmp_path: Path, kind: str) -> None:
    members = [("é" * 40 + "x" * 300 + ".jpg", b"one"), ("short.jpg", b"two"), ("d/" * 400 + "3.jpg", b"three")]
    assert scan(write_tar(tmp_path / "a.tar", members, kind)) == (members, None)


def test_members__ustar_prefix(tmp_path: Path) -> None:
    members = [("a" * 120 + "/" + "b" * 90, b"one")]
    assert scan(write_tar(tmp_path / "a.tar", members)) == (members, None)


def test_members__size_in_base_256(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"12345")], "gnu")
    with open(path, "r+b") as file:
        header = bytearray(file.read(512))
        header[124:136] = b"\x80" + (5).to_bytes(11, "big")
        file.seek(0)
        file.write(resealed(header))
    assert scan(path) == ([("a.jpg", b"12345")], None) == (known(path), None)


def resealed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_members__name_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("gr\xfc\xdfe.jpg"))
    assert scan(path) == ([("gr\\xfc\\xdfe.jpg", b"")], None)


@pytest.mark.parametrize("kind", FORMATS)
def test_members__every_cut_gives_what_is_whole(tmp_path: Path, kind: str) -> None:
    members = [(f"{number}{'n' * (90 if kind == 'ustar' else 200)}.jpg", bytes([number]) * 700) for number in range(3)]
    whole = write_tar(tmp_path / "whole.tar", members, kind).read_bytes()
    cut = tmp_path / "cut.tar"
    end = len(whole.rstrip(b"\0"))
    for length in range(0, end + 1, 100):
        cut.write_bytes(whole[:length])
        found, damage = scan(cut)
        assert found == members[: len(found)] and len(found) >= length // 3000
        assert damage is not None and damage.startswith("cut.tar is ") or "no closing blocks" in damage


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"PK\3\4" + bytes(2000), "is not a tar"),
        (b"short", "cut off inside a header"),
        (b"\x1f\x8b" + bytes(2000), "compressed"),
        (b"x" * 5000, "a header with the number"),
    ],
)
def test_members__what_is_no_tar(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    found, damage = scan(tmp_path / "a.tar")
    assert not found and damage is not None and message in damage


def test_members__sparse_files_end_the_scan(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("whole.jpg"))
        sparse = tarfile.TarInfo("sparse.jpg")
        sparse.pax_headers = {"GNU.sparse.major": "1"}
        tar.addfile(sparse)
    found, damage = scan(path)
    assert [name for name, _ in found] == ["whole.jpg"]
    assert damage is not None and "sparse" in damage


@pytest.mark.parametrize(
    "record", [b"9" * 5000 + b" path=x\n", b"5020 size=" + b"9" * 5009 + b"\n", b"-3 path=x\n", b"0 "]
)
def test_members__absurd_records_do_not_crash(tmp_path: Path, record: bytes) -> None:
    header = tarfile.TarInfo("records")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    body = record + bytes(-len(record) % 512)
    data = header.tobuf() + body + tarfile.TarInfo("a.jpg").tobuf() + bytes(1024)
    (tmp_path / "a.tar").write_bytes(data)
    found, damage = scan(tmp_path / "a.tar")
    assert found == [("a.jpg", b"")] or damage is not None


def test_members__a_size_beyond_all_files_is_a_cut(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("volume").tobuf())
    header[156:157], header[124:136] = b"V", b"\x80" + b"\xff" * 11
    (tmp_path / "a.tar").write_bytes(resealed(header) + bytes(1024))
    found, damage = scan(tmp_path / "a.tar")
    assert not found and damage is not None


def test_members__flipped_bits_never_crash(tmp_path: Path) -> None:
    members = [(f"{'n' * 150}{number}.jpg", bytes(600)) for number in range(4)]
    path, chance = tmp_path / "a.tar", random.Random(0)
    for kind in FORMATS:
        whole = write_tar(path, [(name[-60:], data) for name, data in members] if kind == "ustar" else members, kind)
        data = whole.read_bytes()
        for _ in range(100):
            flipped = bytearray(data)
            for _ in range(chance.choice((1, 3, 10))):
                flipped[chance.randrange(len(data) // 2)] = chance.choice((0, 48, 57, 255, chance.randrange(256)))
            path.write_bytes(flipped)
            with TarScan(path) as tar:
                assert all(0 < offset <= offset + size <= len(data) for _, offset, size in tar.members())
