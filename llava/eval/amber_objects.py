"""Which objects a description of one of AMBER's pictures mentions, and which of them it makes up.

The rules are those of AMBER's official program; see :mod:`llava.eval.eval_amber` for its metrics and their source.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import eq

from llava.errors import UserError
from llava.eval.extras import import_extra

SIMILARITY = 0.8
Same = Callable[[str, str], bool]


@dataclass(frozen=True)
class Words:
    """How words are found and compared.

    nouns: the nouns of a text, in their base form.
    alike: whether two words mean the same.
    """

    nouns: Callable[[str], list[str]]
    alike: Same


def load_words() -> Words:
    """NLTK's nouns and spaCy's vectors, as in the official program. Raises UserError when their data is missing."""
    nltk, spacy = import_extra("nltk", "AMBER's nouns are"), import_extra("spacy", "AMBER's synonyms are")
    lemmatise = import_extra("nltk.stem", "AMBER's nouns are").WordNetLemmatizer().lemmatize
    try:
        vectors = spacy.load("en_core_web_lg")
        lemmatise(nltk.pos_tag(nltk.word_tokenize("words"))[0][0])
    except (OSError, LookupError) as error:
        raise UserError(
            "AMBER's descriptions need data of NLTK (python -m nltk.downloader punkt_tab wordnet "
            "averaged_perceptron_tagger_eng) and of spaCy (python -m spacy download en_core_web_lg) that is not here: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    return Words(
        nouns=lambda text: [
            lemmatise(word) for word, kind in nltk.pos_tag(nltk.word_tokenize(text)) if kind.startswith("NN")
        ],
        alike=lambda first, second: vectors(first).similarity(vectors(second)) > SIMILARITY,
    )


@dataclass(frozen=True)
class Vocabulary:
    """AMBER's objects: ``relation.json`` (words by object that mean it) and ``safe_words.txt`` (never counted)."""

    related: dict[str, list[str]]
    safe: frozenset[str]

    @property
    def objects(self) -> set[str]:
        """Every word that counts as mentioning an object."""
        return set(self.related) | {word for words in self.related.values() for word in words}

    def names(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """All words for a picture's objects with the object's place: related words first, then the objects."""
        related = [(word, place) for place, name in enumerate(objects) for word in self.related.get(name, [])]
        return related + [(name, place) for place, name in enumerate(objects)]


@dataclass(frozen=True)
class Description:
    """What one description mentions."""

    mentioned: int
    hallucinated: int
    covered: int
    present: int
    expected: int
    likely: int


def first_match(noun: str, names: Sequence[tuple[str, int]], same: Same) -> int | None:
    """The place of the first object that one of its words is the same as the noun."""
    return next((place for word, place in names if same(noun, word)), None)


def describe(
    response: str, truth: Sequence[str], likely: Sequence[str], vocabulary: Vocabulary, words: Words
) -> Description:
    """Counts one description's objects: ``truth`` are the picture's, ``likely`` those that models tend to make up."""
    present, made_up = vocabulary.names(truth), vocabulary.names(likely)
    covered: set[int | None] = set()
    expected: set[int | None] = set()
    hallucinated = 0
    nouns = [noun for noun in words.nouns(response) if noun in vocabulary.objects]
    for noun in nouns:
        if noun in vocabulary.safe:
            continue
        found = first_match(noun, present, eq)
        if found is None:
            expected |= {first_match(noun, made_up, same) for same in (eq, words.alike)}
            found = first_match(noun, present, words.alike)
            hallucinated += found is None
        covered.add(found)
    return Description(
        mentioned=len(nouns),
        hallucinated=hallucinated,
        covered=len(covered - {None}),
        present=len(truth),
        expected=len(expected - {None}),
        likely=len(likely),
    )
