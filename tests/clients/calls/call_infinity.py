"""The client of infinity, at its prefix."""

import json
import sys

from infinity_client import AuthenticatedClient
from infinity_client.api.default import models, rerank
from infinity_client.models import RerankInput

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = AuthenticatedClient(base_url=f"{address}/infinity", token="good")
body = RerankInput(query=query, documents=documents, return_documents=True, model="tiny")
answer = rerank.sync(client=client, body=body)
assert models.sync(client=client).data[0].id == "tiny"
bad = AuthenticatedClient(base_url=f"{address}/infinity", token="bad")
refused = rerank.sync_detailed(client=bad, body=body)
empty = rerank.sync(client=client, body=RerankInput(query=query, documents=[]))
json.dump({
    "rankings": {"rerank": [[r.index, r.relevance_score] for r in answer.results]},
    "errors": {
        "key": [str(int(refused.status_code)), "401"],
        "empty": [type(empty).__name__, "HTTPValidationError"],
    },
}, sys.stdout)  # fmt: skip
