"""The client of infinity, at its prefix. It does not try again."""

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
    rows,
)
from infinity_client import AuthenticatedClient
from infinity_client.api.default import models, rerank
from infinity_client.models import RerankInput

client = AuthenticatedClient(base_url=f"{address}/infinity", token="good")
bad = AuthenticatedClient(base_url=f"{address}/infinity", token="bad")


def call(client, documents=documents, **options):
    body = RerankInput(query=query, documents=documents, model="tiny", **options)
    answer = rerank.sync_detailed(client=client, body=body)
    return answer.parsed if answer.status_code == 200 else f"{answer.status_code} {answer.content}"


assert models.sync(client=client).data[0].id == "tiny"
with_texts = call(client, return_documents=True)
assert all(r.document == documents[r.index] for r in with_texts.results)
ranking("rerank", rows(with_texts.results))
ranking("the best", rows(call(client, top_n=2).results), 2)
error("key", lambda: call(bad), "401", "Unauthorized")
empty = rerank.sync(client=client, body=RerankInput(query=query, documents=[]))
error("empty", lambda: type(empty).__name__, "HTTPValidationError")
error("many", lambda: call(client, many), "422", "at most 20")
error("large", lambda: call(client, large), "413")
overload("overload", lambda: call(client), "429")
report()
