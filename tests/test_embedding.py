"""Sentence encoders: vectors of length 1 in the order of the texts, and a collection that another process can open."""

import subprocess
import sys

import numpy as np
import pytest

from tunelab import models
from tunelab.embedding import CourseEmbedding, Embedder, HashedBigrams, TfidfSvd
from tunelab.store import open_client, open_collection

TEXTS = [
    "The ferry leaves at nine.",
    "渡船九点开。",
    "a",
    "How much is a ticket for two children and their grandmother?",
]


@pytest.fixture(scope="module")
def encoder():
    return models.load_embedder("travel-encoder")


def test_a_vector_is_of_length_one_and_does_not_depend_on_the_batch(encoder):
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, encoder.dim) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS[::-1], batch_size=2)[::-1], atol=1e-5)


def test_edges(encoder):
    assert encoder.encode([]).shape == (0, encoder.dim)
    for texts in (["", "ticket"], [""], ["\x00", "  "]):
        vectors = encoder.encode(texts)
        assert np.isfinite(vectors).all() and not vectors[0].any()
    long = encoder.encode(["ferry " * 100_000])
    np.testing.assert_allclose(np.linalg.norm(long), 1, rtol=1e-5)


@pytest.mark.parametrize("texts", ["one string", [None], [3], ["fine", b"bytes"]])
def test_what_is_no_list_of_texts_is_refused(encoder, texts):
    with pytest.raises(TypeError, match=r"list of texts|not a string"):
        encoder.encode(texts)
    with pytest.raises(TypeError, match=r"list of texts|not a string"):
        TfidfSvd(texts)


def test_an_unknown_pooling_is_refused(encoder):
    with pytest.raises(ValueError, match="'mean' or 'cls'"):
        Embedder("x", encoder.model, encoder.tokenizer, pooling="max")


def test_the_first_token_can_stand_for_the_text(encoder):
    first = Embedder("x", encoder.model, encoder.tokenizer, pooling="cls")
    assert not np.allclose(first.encode(TEXTS[:1]), encoder.encode(TEXTS[:1]), atol=1e-2)


def test_a_translation_is_nearer_than_another_sentence(encoder):
    english = ["I lost my umbrella on the bus.", "The soup is too salty.", "Is there a doctor in this village?"]
    chinese = ["我把雨伞丢在公交车上了。", "这汤太咸了。", "这个村里有大夫吗？"]
    closeness = encoder.encode(english) @ encoder.encode(chinese).T
    assert (closeness.argmax(1) == np.arange(3)).all()


def test_minilm_is_the_published_model_and_knows_synonyms():
    minilm = models.load_embedder("minilm")
    assert minilm.dim == 384
    lake, boat, tax = minilm.encode(["a trip on the lake", "going out in a rowing boat", "income tax law"])
    assert lake @ boat > lake @ tax + 0.1


def test_the_lexical_baseline_finds_words_and_nothing_else():
    texts = ["the ferry leaves at nine", "soup with fish", "opening hours of the museum", "渡船九点开"]
    baseline = TfidfSvd(texts)
    closeness = baseline.encode(["when does the ferry leave", "渡船几点"]) @ baseline.encode(texts).T
    assert closeness.argmax(1).tolist() == [0, 3]
    assert not baseline.encode(["ЖЖЖ"]).any()  # no known n-gram: no direction
    with pytest.raises(ValueError, match="at least two"):
        TfidfSvd(["one"])


REOPEN = """
import sys
import chromadb
from tunelab import embedding
collection = chromadb.PersistentClient(sys.argv[1]).get_collection("places")
print(collection.query(query_texts=["where can I eat soup?"], n_results=1)["ids"][0][0])
"""


def test_a_collection_is_opened_by_another_process_with_the_same_model(tmp_path):
    import chromadb

    client = chromadb.PersistentClient(str(tmp_path))
    space = {"hnsw": {"space": "cosine"}}
    places = client.create_collection(
        "places", embedding_function=CourseEmbedding("travel-encoder"), configuration=space
    )
    places.add(ids=["inn", "pier"], documents=["a restaurant with fish soup", "the ferry leaves from the pier"])
    assert places.configuration["hnsw"]["space"] == "cosine"
    client._system.stop()
    out = subprocess.run([sys.executable, "-c", REOPEN, str(tmp_path)], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "inn"


def test_a_collection_is_not_searched_with_another_model(tmp_path):
    # Chroma compares the names of embedding functions, and all models of the registry share one.
    client = open_client(tmp_path)
    places = open_collection(client, "places", CourseEmbedding("travel-encoder"))
    places.add(ids=["inn", "pier"], documents=["a restaurant with fish soup", "the ferry leaves from the pier"])
    with pytest.raises(
        ValueError, match=r"made with {'model': 'travel-encoder'}, and {'model': 'minilm'} would search it"
    ):
        open_collection(client, "places", CourseEmbedding("minilm"))
    with pytest.raises(ValueError, match="Embedding function conflict"):
        open_collection(client, "places", HashedBigrams())
    again = open_collection(client, "places", CourseEmbedding("travel-encoder"))
    assert again.query(query_texts=["where can I eat soup?"], n_results=1)["ids"] == [["inn"]]
    client.close()


def test_an_unknown_model_is_refused_before_the_first_text():
    with pytest.raises(ValueError, match="not in the registry"):
        CourseEmbedding("big-encoder")


def test_hashed_bigrams_need_no_model():
    code = (
        "import sys; from tunelab.embedding import HashedBigrams; "
        "print([v.tolist() for v in HashedBigrams(8)(['Ferry', '渡船'])], 'torch' in sys.modules)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    vectors = [vector.tolist() for vector in HashedBigrams(8)(["FERRY", "渡船"])]
    assert {run.stdout.strip() for run in runs} == {f"{vectors} False"}
    assert HashedBigrams.build_from_config(HashedBigrams(8).get_config()).dim == 8
