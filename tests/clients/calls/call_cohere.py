"""The SDK of Cohere, v2 and v1."""

import json
import sys

import cohere

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
v2 = cohere.ClientV2("good", base_url=address)
v1 = cohere.Client("good", base_url=address)
exact = cohere.Client("good", base_url=f"{address}/cohere")


def rows(answer):
    return [[r.index, r.relevance_score] for r in answer.results]


def raised(client, documents):
    try:
        client.rerank(model="rerank-v3.5", query=query, documents=documents)
    except cohere.errors.UnauthorizedError as error:
        return f"Unauthorized {error.body}"
    except cohere.errors.BadRequestError as error:
        return f"BadRequest {error.body}"
    return "nothing"


given = {"model": "rerank-v3.5", "query": query, "documents": documents}
json.dump({
    "rankings": {
        "v2": rows(v2.rerank(**given, top_n=2)),
        "v1": rows(v1.rerank(**given, top_n=2, return_documents=True)),
        "v1 to the letter": rows(exact.rerank(**given)),
    },
    "errors": {
        "key": [raised(cohere.ClientV2("bad", base_url=address), documents), "invalid api token"],
        "empty": [raised(v2, []), "BadRequest"],
        "words": [raised(v2, []), "list of documents must not be empty"],
    },
}, sys.stdout)  # fmt: skip
