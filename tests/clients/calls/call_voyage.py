"""The SDK of Voyage."""

import json
import sys

import voyageai
from voyageai.error import AuthenticationError, InvalidRequestError

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def rank(key, documents, **options):
    client = voyageai.Client(key, base_url=f"{address}/v1")
    answer = client.rerank(query, documents, model="rerank-2.5", **options)
    assert all(r.document == documents[r.index] for r in answer.results)
    return [[r.index, r.relevance_score] for r in answer.results]


def raised(key, documents):
    try:
        rank(key, documents)
    except (AuthenticationError, InvalidRequestError) as error:
        return f"{type(error).__name__} {error}"
    return "nothing"


json.dump({
    "rankings": {"top_k": rank("good", documents, top_k=2), "all": rank("good", documents)},
    "errors": {
        "key": [raised("bad", documents), "AuthenticationError"],
        "blank": [raised("good", []), "must not be empty"],
    },
}, sys.stdout)  # fmt: skip
