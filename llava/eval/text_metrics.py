"""How near texts come to reference texts: BLEU, METEOR, CIDEr, ROUGE-L and BERTScore, by well-known libraries.

BLEU (Papineni et al., ACL 2002), CIDEr-D (Vedantam et al., CVPR 2015), ROUGE-L (Lin, 2004; beta 1.2) and METEOR 1.5
(Denkowski and Lavie, 2014) are pycocoevalcap's, BERTScore (Zhang et al., ICLR 2020) is bert-score's. Texts are split
into words here, in lower case and without punctuation, as COCO's evaluation does with Java's PTB tokenizer; clitics
("n't") stay with their word, so figures may differ from COCO's in the third digit. METEOR needs Java, BERTScore a local
encoder.
"""

import re
import shutil
from collections.abc import Sequence
from types import ModuleType

from llava.errors import UserError
from llava.eval.extras import import_extra

WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:['’-]\w+)*")
Pairs = Sequence[tuple[str, Sequence[str]]]  # a text and its references, at least one


def words_of(text: str) -> str:
    """The words of a text, in lower case, with one blank between them."""
    return " ".join(WORD.findall(text.lower()))


def _coco(name: str) -> ModuleType:
    return import_extra(f"pycocoevalcap.{name}.{name}", "BLEU, METEOR, CIDEr and ROUGE-L are")


def _tables(pairs: Pairs) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """pycocoevalcap's form: references and texts by number."""
    if not pairs:
        raise UserError("there is no text to score; give at least one")
    references = {number: [words_of(reference) for reference in entry[1]] for number, entry in enumerate(pairs)}
    return references, {number: [words_of(entry[0])] for number, entry in enumerate(pairs)}


def bleu(pairs: Pairs) -> list[float]:
    """BLEU-1 to BLEU-4 over all texts together, from 0 to 1."""
    return list(_coco("bleu").Bleu(4).compute_score(*_tables(pairs), verbose=0)[0])


def cider(pairs: Pairs) -> list[float]:
    """CIDEr-D of each text, from 0 to 10; how rare words are is learned from all references."""
    return [float(value) for value in _coco("cider").Cider().compute_score(*_tables(pairs))[1]]


def rouge_l(pairs: Pairs) -> list[float]:
    """ROUGE-L of each text, from 0 to 1."""
    return [float(value) for value in _coco("rouge").Rouge().compute_score(*_tables(pairs))[1]]


def meteor(pairs: Pairs) -> float:
    """METEOR over all texts together, from 0 to 1. Raises UserError where there is no Java."""
    if shutil.which("java") is None:
        raise UserError("METEOR is computed by a Java program, and there is no java on PATH; install a Java runtime")
    return float(_coco("meteor").Meteor().compute_score(*_tables(pairs))[0])


def bertscore(pairs: Pairs, encoder: str, layers: int) -> list[float]:
    """BERTScore's F1 of each text by the hidden states of an encoder's given layer; no baseline is subtracted.

    Several references: the best counts. Raises UserError when the encoder cannot be loaded.
    """
    score = import_extra("bert_score", "BERTScore is").score
    texts, references = zip(*pairs, strict=True)
    try:
        return score(list(texts), [list(some) for some in references], model_type=encoder, num_layers=layers)[
            2
        ].tolist()
    except OSError as error:
        raise UserError(f"BERTScore's encoder {encoder} cannot be loaded ({error}); give a local folder") from error
