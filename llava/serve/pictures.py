"""Pictures from requests: counted, measured and decoded before a model sees them. No path is ever opened."""

import base64
import binascii
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from llava.errors import UserError

Image.init()  # registers all decoders, also those that PIL looks up late
# Those that need no other program and whose files say their size up front.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True)
class Limits:
    """What one request may hold.

    Attributes:
        images: pictures.
        pixels: of one picture, decoded.
        prompt_characters: of the whole prompt, read before it is tokenised.
    """

    images: int = 8
    pixels: int = 40_000_000
    prompt_characters: int = 1 << 18


def decode_pictures(encoded: list[str], limits: Limits) -> list[Image.Image]:
    """Base64 strings to RGB pictures. Raises UserError naming the first that is too many, too large or no picture."""
    if len(encoded) > limits.images:
        raise UserError(f"the request holds {len(encoded)} pictures; this worker takes at most {limits.images}")
    return [_decode(text, number, limits.pixels) for number, text in enumerate(encoded, start=1)]


def _decode(encoded: str, number: int, max_pixels: int) -> Image.Image:
    try:
        # The size stands in the file's head: a small file that unpacks to gigabytes is refused unread.
        with Image.open(BytesIO(base64.b64decode(encoded)), formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise UserError(
                    f"picture {number} has {picture.width} x {picture.height} pixels; send at most "
                    f"{max_pixels / 1e6:g} million"
                )
            return picture.convert("RGB")
    except (binascii.Error, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"picture {number} cannot be read ({error}); send the bytes of a PNG or JPEG in base64"
        ) from error
