"""The SDK of Cohere, v2 and v1. It tries again, after the seconds of Retry-After."""

import asyncio

import cohere
from common import address, documents, error, large, many, query, ranking, report, retried, rows

v2 = cohere.ClientV2("good", base_url=address)
v1 = cohere.Client("good", base_url=address)
exact = cohere.Client("good", base_url=f"{address}/cohere")
GIVEN = {"model": "rerank-v3.5", "query": query, "documents": documents}


def rank(client, **options):
    return rows(client.rerank(**{**GIVEN, **options}).results)


async def rank_async():
    client = cohere.AsyncClientV2("good", base_url=address)
    return rows((await client.rerank(**GIVEN)).results)


ranking("v2", rank(v2))
ranking("v2, the best", rank(v2, top_n=2), 2)
ranking("v2, async", asyncio.run(rank_async()))
ranking("v1", rank(v1, top_n=2, return_documents=True), 2)
ranking("v1 to the letter", rank(exact))
ranking("v1 with objects", rank(v1, documents=[{"text": text} for text in documents]))
for name, client, bad in (
    ("v2", v2, cohere.ClientV2("bad", base_url=address)),
    ("v1 to the letter", exact, cohere.Client("bad", base_url=f"{address}/cohere")),
):
    error(f"{name} key", lambda bad=bad: rank(bad), "UnauthorizedError", "invalid api token")
    error(
        f"{name} empty",
        lambda client=client: rank(client, documents=[]),
        "BadRequestError",
        "list of documents must not be empty",
    )
    error(
        f"{name} many",
        lambda client=client: rank(client, documents=many),
        "BadRequestError",
        "at most 20, got 24",
    )
    error(f"{name} large", lambda client=client: rank(client, documents=large), "ApiError", "413")
    retried(f"{name} overload", lambda client=client: rank(client))
report()
