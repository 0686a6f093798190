"""Word2Vec by gensim, the same for the same sentences."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def skip_gram(
    sentences: Sequence[Sequence[str]],
    dim: int,
    window: int,
    epochs: int,
    seed: int,
    negatives: int = 5,
    subsample: float = 1e-3,
    least: int = 1,
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the words, sorted, and their vectors, float32 [words, dim].

    Mikolov et al., "Distributed representations of words and phrases" (2013). One thread, since the
    order of several is not repeatable.

    Args:
        window: Words to either side at most.
        negatives: Words drawn per pair.
        subsample: Words above this share are left out at random.
        least: Words that occur less often have no vector.
    """
    from gensim.models import Word2Vec

    model = Word2Vec(
        vector_size=dim,
        window=window,
        min_count=least,
        sg=1,
        negative=negatives,
        sample=subsample,
        epochs=epochs,
        seed=seed,
        workers=1,
        sorted_vocab=1,
    )
    model.build_vocab(sentences)
    if not model.wv.key_to_index:
        return [], np.zeros((0, dim), np.float32)
    model.train(sentences, total_examples=model.corpus_count, epochs=epochs)
    words = sorted(model.wv.key_to_index)
    return words, np.stack([model.wv[word] for word in words])
