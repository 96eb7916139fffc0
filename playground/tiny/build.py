"""Build the data and the tiny parts that ``make demo`` trains with, or find them built; print where they are.

::

    python -m playground.tiny.build [--data-root playground/data] [--cache playground/tiny/.cache]
"""

import argparse
from pathlib import Path

from playground.tiny import clip, easy_vqa, language_model, tokenizer

CACHE = Path("playground/tiny/.cache")


def build(data_root: Path, cache: Path) -> dict[str, Path]:
    """All parts by name, in the order in which they depend on each other."""
    data = easy_vqa.build(data_root)
    tokenizer_folder = tokenizer.build(cache, data)
    return {
        "data": data,
        "tokenizer": tokenizer_folder,
        "clip": clip.build(cache, data, tokenizer_folder),
        "language_model": language_model.build(cache, data, tokenizer_folder),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, default=easy_vqa.DATA_ROOT, help="folder to put easy_vqa/ into")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder to put the parts into")
    args = parser.parse_args()
    for name, folder in build(args.data_root, args.cache).items():
        print(f"{name}={folder}")


if __name__ == "__main__":
    main()
