"""The SDK of OpenAI, as DashScope's pages use it for /reranks."""

import json
import sys

import openai

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
body = {"model": "qwen3-rerank", "query": query, "documents": documents, "top_n": 3}


def post(key, body):
    client = openai.OpenAI(api_key=key, base_url=f"{address}/compatible-api/v1", max_retries=0)
    return client.post("/reranks", body=body, cast_to=object)


def raised(key, body):
    try:
        post(key, body)
    except openai.APIStatusError as error:
        return f"{type(error).__name__} {error}"
    return "nothing"


results = post("good", body)["results"]
json.dump({
    "rankings": {"reranks": [[r["index"], r["relevance_score"]] for r in results]},
    "errors": {
        "key": [raised("bad", body), "AuthenticationError"],
        "empty": [raised("good", {**body, "documents": []}), "BadRequestError"],
    },
}, sys.stdout)  # fmt: skip
