"""Words to numbers, for a classifier that averages the embeddings of a text's words."""

import collections
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxame import checks

PADDING, UNKNOWN = 0, 1
_FIRST_WORD = 2
_WORD = re.compile(r"[^\W_]+")


def vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """Return the `size` most frequent words of `texts`, most frequent first, ties in alphabetical order.

    A word is a run of letters and digits, in lower case; each of its occurrences counts.

    Args:
      texts: the training texts.
      size: how many words to keep; fewer come back if the texts have fewer.

    Raises:
      ValueError: if `size` is not a positive integer or `texts` is not texts.
    """
    size = checks.count(size, "size")
    counts: collections.Counter[str] = collections.Counter()
    for text in _each(texts):
        counts.update(_words(text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:size]


def tokenize(texts: Sequence[str] | np.ndarray, words: Sequence[str], length: int) -> np.ndarray:
    """Return the ids of the first `length` words of every text.

    Args:
      texts: `[n]`.
      words: `[V]`, as from `vocabulary`; `words[i]` has the id `i + 2`.
      length: words per text; longer texts are cut, shorter ones padded at the end.

    Returns:
      int32 `[n, length]`: 0 is padding, 1 a word that is not in `words`. An embedding for it has `V + 2` rows.

    Raises:
      ValueError: if `length` is not a positive integer, a word is listed twice, or `texts` is not texts.
    """
    length = checks.count(length, "length")
    number = {word: index for index, word in enumerate(words, _FIRST_WORD)}
    checks.require(len(number) == len(words), "words without repeats", f"{len(words) - len(number)} repeats")
    ids = np.full((len(texts), length), PADDING, np.int32)
    for row, text in enumerate(_each(texts)):
        found = [number.get(word, UNKNOWN) for word in _words(text)[:length]]
        ids[row, : len(found)] = found
    return ids


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _each(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, each of which must be a string; one string is not a list of texts."""
    checks.require(not isinstance(texts, str), "a list of texts", "one string")
    for text in texts:
        checks.require(isinstance(text, str), "every text to be a string", type(text).__name__)
        yield text
