"""The SDK of Voyage. It tries again where it is told how often, at moments of its own."""

import voyageai
from common import (
    address,
    documents,
    error,
    large,
    many,
    overload,
    query,
    ranking,
    report,
    retried,
    rows,
)


def rank(key="good", documents=documents, retries=0, **options):
    client = voyageai.Client(key, base_url=f"{address}/v1", max_retries=retries)
    answer = client.rerank(query, documents, model="rerank-2.5", **options)
    assert all(r.document == documents[r.index] for r in answer.results)
    return rows(answer.results)


ranking("all", rank())
ranking("the best", rank(top_k=2), 2)
error("key", lambda: rank("bad"), "AuthenticationError")
error("empty", lambda: rank(documents=[]), "InvalidRequestError", "must not be empty")
error("many", lambda: rank(documents=many), "InvalidRequestError", "at most 20")
error("large", lambda: rank(documents=large), "413")
overload("overload", rank, "RateLimitError")
retried("overload", lambda: rank(retries=3))
report()
