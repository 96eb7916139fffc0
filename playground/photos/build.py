"""Build the data and fetch the pretrained parts of the photo study, or find them built; print where they are.

::

    python -m playground.photos.build [--scale mini] [--data-root playground/data] [--cache playground/photos/.cache]

Standard error gets what a guess without the picture would score on the data's tests.
"""

import argparse
import sys
from pathlib import Path

from llava.errors import exit_on_user_error
from playground.photos import align, dataset, dino, features, fetch, language_model, reader, smollm, stories


def build(scale: str, data_root: Path, cache: Path) -> dict[str, Path]:
    """All parts by name, in the order in which they depend on each other."""
    recipe = dataset.RECIPES[scale]
    data = dataset.build(data_root, cache, recipe)
    vision_tower = dino.build(cache)
    parts = {
        "data": data,
        "vision_tower": vision_tower,
        "language_model": language_model_of(scale, cache, data, recipe),
        "features": features.build(cache, data, vision_tower),
    }
    if scale != "gpu":
        parts["alignment"] = align.build(cache, data, vision_tower, parts["language_model"], parts["features"])
    return parts


def language_model_of(scale: str, cache: Path, data: Path, recipe: dataset.Recipe) -> Path:
    """The small ones have to be taught what a question is; the large one was, and learns the rest in stage 2."""
    if scale == "gpu":
        return smollm.build(cache)
    start = reader.build(cache, data, stories.build(cache), reader.RECIPES[scale])
    return language_model.build(cache, data, start, recipe, language_model.RECIPES[scale])


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--scale", choices=dataset.RECIPES, default="mini", help="how much data, how large a model")
    parser.add_argument("--data-root", type=Path, default=dataset.DATA_ROOT, help="folder to put photos/ into")
    parser.add_argument("--cache", type=Path, default=fetch.CACHE, help="folder to put the parts into")
    args = parser.parse_args()
    parts = build(args.scale, args.data_root, args.cache)
    print(dataset.guessing_table(parts["data"]), file=sys.stderr)
    for name, folder in parts.items():
        print(f"{name}={folder}")


if __name__ == "__main__":
    main()
