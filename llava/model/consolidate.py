"""``python -m llava.model.consolidate --src A --dst B``: a checkpoint again, upgraded if it is old, in float16."""

import argparse

from llava.errors import exit_on_user_error
from llava.model.utils import auto_upgrade, load_for_saving, save_whole


def consolidate_ckpt(src_path: str, dst_path: str, yes: bool = False) -> None:
    """Save model and tokenizer of ``src_path`` again in ``dst_path``."""
    auto_upgrade(src_path, yes)
    save_whole(load_for_saving(src_path), tokenizer_from=src_path, folder=dst_path)


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Save a checkpoint again in float16.")
    parser.add_argument("--src", type=str, required=True, help="checkpoint")
    parser.add_argument("--dst", type=str, required=True, help="new folder")
    parser.add_argument("--yes", action="store_true", help="upgrade an old config.json without asking")
    args = parser.parse_args()
    consolidate_ckpt(args.src, args.dst, args.yes)


if __name__ == "__main__":
    main()
