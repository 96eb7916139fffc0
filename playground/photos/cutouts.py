"""Photo cut-outs with names: which of Tux Paint's stamps we use, what they are called, and what color they have.

A name may have several pictures. Some of them are never trained on (``Shelf.held_out``), so that a test can show other
pictures of known names. ``UNNAMED`` are held out whole: pictures of kinds that training never shows and questions never
name, only by their category.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

CATALOG: dict[str, dict[str, tuple[str, ...]]] = {
    "mammal": {
        "bear": ("bears/bear", "bears/european-bear"),
        "camel": ("camel/camel", "camel/dromedary"),
        "cow": ("bovines/cow", "bovines/cow_white"),
        "deer": ("deer/caribou", "deer/deer", "deer/doe", "deer/wapiti"),
        "dog": ("dogs/dingo", "dogs/dog"),
        "donkey": ("equines/donkey", "equines/donkey_eating"),
        "elephant": ("elephant",),
        "fox": ("dogs/fox",),
        "giraffe": ("giraffe",),
        "goat": ("bovines/goat", "bovines/mountaingoat"),
        "horse": ("equines/horse",),
        "lion": ("cats/lion", "cats/lion-2"),
        "mouse": ("rodents/mouse", "rodents/rat"),
        "pig": ("pig", "pig_golden", "pig_golden2"),
        "rabbit": ("rabbit_little", "rodents/rabbit", "rodents/rabbit-2"),
        "sheep": ("bovines/ram", "bovines/sheep", "bovines/sheep_lamb"),
        "tiger": ("cats/tiger", "cats/tiger_sumatran"),
        "whale": ("aquatic/orca", "aquatic/whale"),
        "zebra": ("equines/zebra",),
    },
    "bird": {
        "chicken": ("chicken_profile", "hen", "rooster"),
        "crow": ("crow", "blackbird"),
        "duck": ("drake", "duck"),
        "flamingo": ("pink_flamingo",),
        "gull": ("seagull", "silver-gull"),
        "heron": ("heron_greatblue", "heron_greatblue_flying"),
        "owl": ("owl",),
        "parrot": ("adelaide-rosella", "rainbow-lorikeet"),
        "penguin": ("little-penguin", "magellanic_penguin", "penguin"),
        "turkey": ("turkey",),
    },
    "fish": {
        "fish": ("bluegroper", "butterflyfish", "clownfish", "coraltrout", "dolphinfish", "moonwrasse", "stripedfish"),
    },
    "insect": {
        "fly": ("hoverfly",),
        "hornet": ("hornet",),
        "moth": ("xanthia",),
        "grasshopper": ("grasshopper",),
    },
    "fruit": {
        "apple": ("apple_fuji", "apple_granny_smith", "apple_green", "apple_red", "apple_sierra_beauty"),
        "apricot": ("Apricot_whole", "apricot"),
        "banana": ("banana",),
        "cherry": ("Cherry_Stella",),
        "kiwi": ("kiwi",),
        "lemon": ("lemon",),
        "orange": ("mandarine", "orange", "sliced_orange"),
        "pineapple": ("pineapple",),
        "strawberry": ("Strawberry2", "strawberry"),
    },
    "vegetable": {
        "broccoli": ("vegetables/broccoli",),
        "carrot": ("vegetables/carrot",),
        "garlic": ("vegetables/garlic", "vegetables/garlics"),
        "lettuce": ("vegetables/lettuce", "vegetables/redlettuce"),
        "onion": ("vegetables/onion",),
        "pepper": ("vegetables/chilepepper", "vegetables/pepper", "vegetables/yellowpepper"),
        "potato": ("vegetables/potato",),
        "pumpkin": ("vegetables/pumpkin_small",),
        "tomato": ("vegetables/tomato",),
    },
    "flower": {
        "flower": (
            *("adeenia", "anemone_red", "bolsom", "daffodil", "flower1", "flower10", "flower2", "flower3", "flower5"),
            *("flower6", "flower8", "flower9", "iris", "marigold", "pigface", "plastic/chuvanna_plastic_poo"),
            *("red-gazania", "rose", "yellow-flower"),
        ),
    },
    "vehicle": {
        "boat": ("ship/chineseJunk", "ship/walnutBoat"),
        "bus": ("masstransit/green_korean_bus",),
        "car": ("auto/beetle", "auto/sedan", "auto/sportscar2", "race/indycar"),
        "plane": ("flight/planes/747",),
        "truck": ("auto/truck", "emergency/firetruck", "garbagetruck"),
    },
    "tool": {
        "brush": ("tools/paintbrush_large",),
        "hammer": ("tools/hammer", "tools/mallet_metal"),
        "saw": ("tools/saw",),
        "wrench": ("tools/wrench", "tools/wrench_adjustable", "tools/wrench_plumbers"),
    },
    "instrument": {
        "drum": ("percussion/drum_tomtom_floor", "percussion/drumkit"),
        "guitar": (
            *("string/guitar2", "string/guitar_classical", "string/guitar_electric", "string/guitar_electric_bass"),
        ),
        "trumpet": ("brass/trumpet",),
        "violin": ("string/violin",),
    },
    "ball": {
        "ball": ("australian_rules_football", "basketball", "cricketball", "football", "soccer", "tennis_ball"),
    },
}
FOLDERS = {
    "mammal": "animals/mammals",
    "bird": "animals/birds",
    "fish": "animals/fish",
    "insect": "animals/insects",
    "fruit": "food/fruit",
    "vegetable": "food",
    "flower": "plants/flowers",
    "vehicle": "vehicles",
    "tool": "household",
    "instrument": "hobbies/music",
    "ball": "sports",
}
UNNAMED: dict[str, tuple[str, ...]] = {
    "mammal": ("badger", "bovines/yak", "hippopotamus", "rodents/squirrel", "bovines/gnu-baby"),
    "bird": ("gander", "ostrich", "pelican", "pigeon", "tucan"),
    "insect": ("mantis",),
    "fruit": ("pomegranate", "cherimoya"),
    "vegetable": ("vegetables/yam", "vegetables/corn"),
    "vehicle": ("construction/dumper", "cycle/pink_tricycle"),
    "instrument": ("string/cello",),
}
# Large enough for any scene, small enough to be scaled in a millisecond.
LONGEST_SIDE = 200
OPAQUE = 127  # alpha above it belongs to the thing, in masks too

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
BETWEEN_COLORS = "teal"  # green to some and blue to others, so never an answer
# A color is the thing's only when this share of its pixels has it and no other comes near.
DOMINANT_SHARE, RUNNER_UP_SHARE = 0.6, 0.3
PALETTE = (*COLORS, BETWEEN_COLORS)


@dataclass(frozen=True, eq=False)
class Cutout:
    """One picture of a thing: RGBA, trimmed to what is opaque. ``source`` tells it from all others."""

    name: str
    category: str
    source: str
    image: Image.Image

    @cached_property
    def color(self) -> str | None:
        return measured_color(self.image)


@dataclass(frozen=True)
class Shelf:
    """Cut-outs that training shows, and those that only one test tier shows."""

    known: tuple[Cutout, ...]
    held_out: tuple[Cutout, ...]


def load(stamps: Path, seed: int) -> Shelf:
    """Read the catalog's pictures. Of each name with several, ``seed`` holds out a third, at least one."""
    known: list[Cutout] = []
    held_out: list[Cutout] = []
    for category, names in CATALOG.items():
        for name, sources in names.items():
            pictures = [read(stamps, category, source, name) for source in sources]
            unseen = max(1, len(pictures) // 3) if len(pictures) > 1 else 0
            random.Random(f"{seed} {name}").shuffle(pictures)
            held_out += pictures[:unseen]
            known += pictures[unseen:]
    for category, sources in UNNAMED.items():
        held_out += [read(stamps, category, source, Path(source).name) for source in sources]
    return Shelf(tuple(known), tuple(held_out))


def read(stamps: Path, category: str, source: str, name: str) -> Cutout:
    source = f"{FOLDERS[category]}/{source}.png"
    with Image.open(stamps / source) as picture:
        return Cutout(name, category, source, trimmed(picture.convert("RGBA")))


def trimmed(picture: Image.Image) -> Image.Image:
    """Cut to the opaque part, then shrink to at most ``LONGEST_SIDE``."""
    picture = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > OPAQUE)).getbbox())
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def by_name(cutouts: Iterable[Cutout]) -> dict[str, dict[str, list[Cutout]]]:
    """Category, name -> pictures."""
    shelf: dict[str, dict[str, list[Cutout]]] = defaultdict(lambda: defaultdict(list))
    for cutout in cutouts:
        shelf[cutout.category][cutout.name].append(cutout)
    return shelf


def measured_color(picture: Image.Image) -> str | None:
    """The color of the opaque pixels of ``picture`` (RGBA), None if they do not agree on one."""
    pixels = np.asarray(picture.convert("RGBA"))
    opaque = pixels[pixels[..., 3] > OPAQUE][:, :3]
    shares = np.bincount(color_indices(opaque), minlength=len(PALETTE)) / len(opaque)
    best, runner_up = np.argsort(shares)[::-1][:2]
    clear = shares[best] >= DOMINANT_SHARE and shares[runner_up] <= RUNNER_UP_SHARE
    return PALETTE[best] if clear and PALETTE[best] in COLORS else None


def color_indices(pixels: np.ndarray) -> np.ndarray:
    """Index in ``PALETTE`` of each RGB pixel, [n, 3] uint8 -> [n]: by brightness and saturation, then by hue."""
    hsv = np.asarray(Image.fromarray(pixels[None]).convert("HSV"))[0].astype(float)
    hue, saturation, value = hsv[:, 0] * 360 / 255, hsv[:, 1] / 255, hsv[:, 2] / 255
    warm, rosy = hue < 50, (hue < 16) | (hue > 330)
    rules = (
        ("black", value < 0.24),
        ("white", (saturation < 0.2) & (value > 0.72)),
        ("gray", saturation < 0.18),
        ("brown", warm & (hue > 12) & ((value < 0.72) | (saturation < 0.5) & (value < 0.85))),
        ("pink", rosy & (saturation < 0.68) & (value > 0.7) | (hue > 285) & (hue <= 335) & (value > 0.6)),
        ("red", (hue < 14) | (hue > 335)),
        ("orange", hue < 40),
        ("yellow", hue < 70),
        ("green", hue < 150),
        ("teal", hue < 190),
        ("blue", hue < 255),
    )
    indices = np.full(len(pixels), PALETTE.index("purple"))
    for color, applies in reversed(rules):
        indices[applies] = PALETTE.index(color)
    return indices
