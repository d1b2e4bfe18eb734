"""A client of text-embeddings-inference, which asks for /info first.

It looks at no status, and takes errors for answers that it cannot read.
"""

from common import address, documents, error, large, many, overload, query, ranking, report, rows
from tei_client import HttpClient

client = HttpClient(address)


def use(key):
    for inner in (client.client, client.async_client):
        inner.headers["authorization"] = f"Bearer {key}"


def rank(documents=documents, **options):
    return rows(client.rerank(query, documents, **options).ranks, score="score")


use("good")
ranked = client.rerank(query, documents, return_text=True).ranks
assert all(r.text == documents[r.index] for r in ranked)
ranking("rerank", rank())
error("empty", lambda: rank([]), "ValidationError", "'error'")
error("many", lambda: rank(many), "ValidationError", "'error'")
error("large", lambda: rank(large), "JSONDecodeError")
overload("overload", rank, "ValidationError", "'error'")
use("bad")
error("key", rank, "JSONDecodeError")
report()
