"""A client of text-embeddings-inference, which asks for /info first."""

import json
import sys

from tei_client import HttpClient

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = HttpClient(address)
for inner in (client.client, client.async_client):
    inner.headers["authorization"] = "Bearer good"
ranked = client.rerank(query, documents, return_text=True).ranks
assert all(r.text == documents[r.index] for r in ranked)
json.dump({"rankings": {"rerank": [[r.index, r.score] for r in ranked]}, "errors": {}}, sys.stdout)
