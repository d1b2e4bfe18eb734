"""The SDK of DashScope: its old call, also async, and its client, which alone tries again."""

import asyncio

import dashscope
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

BASE = f"{address}/api/v1"
dashscope.base_http_api_url = BASE
GIVEN = {"model": "gte-rerank-v2", "query": query, "documents": documents, "api_key": "good"}


def call(**options):
    return dashscope.TextReRank.call(**{**GIVEN, **options})


async def call_async():
    return await dashscope.AioTextReRank.call(**GIVEN)


def create(key="good", **options):
    given = {"model": "gte-rerank-v2", "query": query, "documents": documents, **options}
    return dashscope.Client(api_key=key, base_url=BASE).rerank.create(**given)


best = call(top_n=2, return_documents=True)
assert all(r["document"]["text"] == documents[r.index] for r in best.output.results)
ranking("call, the best", rows(best.output.results), 2)
ranking("call", rows(call().output.results))
ranking("async", rows(asyncio.run(call_async()).output.results))
ranking("client", rows(create().results))
ranking("client, the best", rows(create(top_n=2).results), 2)
# The old call raises nothing: what went wrong is in its answer.
assert call(api_key="bad").output is None
error("key", lambda: call(api_key="bad"), "401", "InvalidApiKey")
error("empty", lambda: call(documents=[]), "InputRequired")  # it does not ask the server
error("range", lambda: call(top_n=0), "400", "InvalidParameter")
error("many", lambda: call(documents=many), "400", "InvalidParameter", "at most 20")
error("large", lambda: call(documents=large), "413", "InvalidParameter")
overload("overload", call, "429", "Throttling.RateQuota")
error("client key", lambda: create("bad"), "InvalidApiKey")
error("client empty", lambda: create(documents=[]), "ValueError")
error("client many", lambda: create(documents=many), "InvalidParameter", "at most 20")
retried("client overload", lambda: rows(create().results))
report()
