"""Fetching without a registry: archives of all kinds made here, and what is said when one cannot be had."""

import hashlib
import io
import sys
import tarfile
import zipfile
from dataclasses import replace

import pytest

from llava.errors import UserError
from playground.photos import fetch
from playground.photos.fetch import Package, downloaded, unpacked

CONTENTS = {"top/keep.txt": b"kept", "top/deep/too.txt": b"also", "top/noise.wav": b"left", "other.txt": b"left"}


def tar_bytes(compression):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as tar:
        link = tarfile.TarInfo("./top/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "keep.txt"
        tar.addfile(link)
        for name, content in CONTENTS.items():
            entry = tarfile.TarInfo(f"./{name}" if compression == "xz" else name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def archive_bytes(suffix):
    if suffix == "whl":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in CONTENTS.items():
                archive.writestr(name, content)
        return stream.getvalue()
    if suffix == "tgz":
        return tar_bytes("gz")
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_bytes("xz")}
    members = (
        f"{name:<48}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2) for name, part in parts.items()
    )
    return b"!<arch>\n" + b"".join(members)


def package_of(content, suffix="whl", script=None):
    """A package whose registry is a Python script in the current folder."""
    file = f"thing.{suffix}"
    script = script or f"open({file!r}, 'wb').write(bytes.fromhex({content.hex()!r}))"
    digest = hashlib.sha256(content).hexdigest()
    return Package("thing", file, digest, (sys.executable, "-c", script), "top/", (".txt",))


@pytest.mark.parametrize("suffix", ["whl", "tgz", "deb"])
def test_what_we_take_is_unpacked_once(suffix, tmp_path):
    package = package_of(archive_bytes(suffix), suffix)
    folder = unpacked(package, tmp_path)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"keep.txt": b"kept", "deep/too.txt": b"also"}
    assert {path.name for path in (tmp_path / "downloads").iterdir()} == {package.file}
    assert unpacked(replace(package, command=("nowhere",)), tmp_path) == folder


def test_a_file_put_there_by_hand_is_taken(tmp_path):
    (tmp_path / "thing.whl").write_bytes(b"content")
    package = replace(package_of(b"content"), command=("nowhere",))
    assert downloaded(package, tmp_path).read_bytes() == b"content"


def test_another_file_is_refused(tmp_path):
    package = replace(package_of(b"content"), sha256="0" * 64)
    with pytest.raises(UserError, match=r"thing\.whl has sha256 ed7002b4.*another file than we know; delete it"):
        downloaded(package, tmp_path)


def test_a_registry_that_fails_is_asked_again(tmp_path):
    count = tmp_path / "count"
    script = f"""
from pathlib import Path
count = Path({str(count)!r})
tries = int(count.read_text()) if count.exists() else 0
count.write_text(str(tries + 1))
if tries == 2:
    Path("thing.whl").write_bytes(b"content")
else:
    Path("half").write_bytes(b"con")
    raise SystemExit(1)
"""
    assert downloaded(package_of(b"content", script=script), tmp_path / "downloads").read_bytes() == b"content"
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["thing.whl"]


def test_messages(tmp_path):
    package = package_of(b"content", script="raise SystemExit(1)")
    with pytest.raises(UserError, match=r"thing\.whl could not be fetched in 3 attempts; put thing\.whl \(sha256 ed70"):
        downloaded(package, tmp_path)
    with pytest.raises(UserError, match=r"no-such-tool is not installed, so thing\.whl cannot be fetched; put thing"):
        downloaded(replace(package, command=("no-such-tool",)), tmp_path)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "PARTS", {"thing": lambda cache: cache / "thing"})
    monkeypatch.setattr(sys, "argv", ["fetch", "--cache", str(tmp_path)])
    fetch.main()
    assert capsys.readouterr().out == f"thing={tmp_path / 'thing'}\n"
    monkeypatch.setattr(sys, "argv", ["fetch", "nothing"])
    with pytest.raises(SystemExit) as stopped:
        fetch.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: unknown part nothing; choose from thing\n"
