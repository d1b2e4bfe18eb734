"""The SDK of OpenAI, as DashScope's pages use it for /reranks. It tries again."""

import openai
from common import address, documents, error, large, many, query, ranking, report, retried, rows

BODY = {"model": "qwen3-rerank", "query": query, "documents": documents}


def rank(key="good", **options):
    client = openai.OpenAI(api_key=key, base_url=f"{address}/compatible-api/v1")
    return rows(client.post("/reranks", body={**BODY, **options}, cast_to=object)["results"])


ranking("reranks", rank())
ranking("the best", rank(top_n=2), 2)
error("key", lambda: rank("bad"), "AuthenticationError", "Invalid API-key")
error("empty", lambda: rank(documents=[]), "BadRequestError", "must not be empty")
error("many", lambda: rank(documents=many), "BadRequestError", "at most 20")
error("large", lambda: rank(documents=large), "APIStatusError", "413")
retried("overload", rank)
report()
