"""MMMU -> questions as LLaVA's drivers read them, with their answers, and the pictures as files.

Reads the data set's own folder: one folder per subject with ``<split>-*.parquet``, whose rows have ``id``,
``question``, ``options`` (a list written as text), ``answer``, ``question_type`` and ``image_1`` to ``image_7``. Where
the text says ``<image 1>``, that picture stands; a text that says it nowhere gets the first picture in front. The forms
of options and requests are those that MMMU's configuration for LLaVA-1.5 is taken to have; the official program shows
that model one picture at most.
"""

import argparse
import ast
import re
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.errors import UserError, exit_on_user_error
from llava.eval.answer_forms import ANSWER_BY_LETTER, LETTERS, SHORT_ANSWER
from llava.eval.eval_mmmu import MULTIPLE_CHOICE
from llava.eval.extras import import_extra
from llava.eval.records import write_json_lines

PLACE = re.compile(r"<image (\d)>")


def literal(text: Any) -> Any:
    """A list that is written as text, as a list; other text as it is."""
    return ast.literal_eval(text) if isinstance(text, str) and text.startswith("[") else text


def question_text(row: dict[str, Any], options: list[str]) -> str:
    """The question with its options and the request for the answer's form."""
    if row["question_type"] != MULTIPLE_CHOICE:
        return f"{row['question']}\n{SHORT_ANSWER}"
    listed = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{row['question']}\n{listed}\n{ANSWER_BY_LETTER['en']}"


def convert_row(row: dict[str, Any], image_folder: Path) -> dict[str, Any]:
    """A question record; its pictures are written. Raises UserError when the text shows a picture that is not there."""
    options = literal(row["options"])
    text = question_text(row, options)
    numbers = PLACE.findall(text)
    if not numbers:
        numbers, text = ["1"], f"<image 1>\n{text}"
    files = []
    for number in numbers:
        picture = row.get(f"image_{number}")
        if picture is None:
            raise UserError(f"{row['id']} shows <image {number}>, but has no image_{number}; get the data set again")
        files.append(f"{row['id']}_{number}.png")
        if not (image_folder / files[-1]).exists():
            with Image.open(BytesIO(picture["bytes"])) as image:
                image.convert("RGB").save(image_folder / files[-1])
    return {
        "question_id": row["id"],
        "image": files,
        "text": PLACE.sub(DEFAULT_IMAGE_TOKEN, text),
        "question_type": row["question_type"],
        "options": options,
        "answer": literal(row["answer"]),
    }


def convert(src: str, split: str, dst: str, image_folder: str) -> None:
    """Writes the questions of all subjects to ``dst``. Raises UserError when there are none."""
    pandas = import_extra("pandas", "parquet files are")
    import_extra("pyarrow", "parquet files are")
    files = sorted(Path(src).expanduser().glob(f"*/{split}-*.parquet"))
    if not files:
        raise UserError(f"{src} has no <subject>/{split}-*.parquet; give the folder of the MMMU data set")
    images = Path(image_folder).expanduser()
    images.mkdir(parents=True, exist_ok=True)
    rows = [row for file in files for row in pandas.read_parquet(file).to_dict("records")]
    write_json_lines(dst, (convert_row(row, images) for row in rows))
    print(f"{len(rows)} questions of {len(files)} files in {dst}")


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description="Turn MMMU into LLaVA's questions.")
    parser.add_argument("--src", type=str, required=True, help="folder of the data set, one folder per subject")
    parser.add_argument("--split", type=str, default="validation", help="default: validation")
    parser.add_argument("--dst", type=str, required=True, help="questions, JSON Lines")
    parser.add_argument("--image-folder", type=str, required=True, help="where the pictures go")
    args = parser.parse_args()
    convert(args.src, args.split, args.dst, args.image_folder)


if __name__ == "__main__":
    main()
