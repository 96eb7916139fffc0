"""Signs: a word on a plate, as one more cut-out, so that a question can ask what is written in the picture."""

import random

from PIL import Image, ImageDraw, ImageFont

from playground.photos.cutouts import Cutout

WORDS = ("stop", "open", "exit", "sale", "farm", "cafe", "taxi", "park", "shop", "milk", "book", "road")
# Plate and letters. Letters of three quarters of the plate's height: readable when the picture is shrunk to 98 pixels.
PLATES = (
    ((245, 245, 240), (20, 20, 25)),
    ((250, 205, 40), (25, 25, 25)),
    ((200, 25, 35), (250, 250, 250)),
    ((25, 70, 175), (250, 250, 250)),
    ((20, 125, 60), (250, 250, 250)),
    ((25, 25, 30), (245, 245, 245)),
)
LETTER_HEIGHT = 64
TILT = 8  # degrees, to either side


def sign(draw: random.Random) -> Cutout:
    """A sign with one of ``WORDS``. Its ``source`` is ``sign/<word>``: the word is what tells signs apart."""
    word = draw.choice(WORDS)
    plate, ink = draw.choice(PLATES)
    lettering = draw.choice((str.lower, str.upper, str.capitalize))(word)
    # Pillow carries this font, so that a sign looks alike on every machine.
    font = ImageFont.load_default(LETTER_HEIGHT)
    left, top, right, bottom = font.getbbox(lettering)
    margin = LETTER_HEIGHT // 5
    size = (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin)
    image = Image.new("RGBA", size, (*plate, 0))
    canvas = ImageDraw.Draw(image)
    canvas.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=margin // 2, fill=(*plate, 255))
    canvas.text((margin - left, margin - top), lettering, font=font, fill=(*ink, 255))
    tilted = image.rotate(draw.uniform(-TILT, TILT), Image.Resampling.BICUBIC, expand=True)
    return Cutout("sign", "sign", f"sign/{word}", tilted)
