"""litellm, which speaks for seven vendors."""

import json
import sys

import litellm

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
BASES = {
    "cohere/m": address,
    "jina_ai/m": address,
    "hosted_vllm/m": address,
    "infinity/m": f"{address}/infinity",
    "huggingface/m": address,
    "voyage/m": address,
    "dashscope/m": address,
}


def rank(model, key="good", **options):
    answer = litellm.rerank(
        model=model, query=query, documents=documents, api_base=BASES[model], api_key=key, **options
    )
    return [[r["index"], r["relevance_score"]] for r in answer.results]


def raised(model):
    try:
        rank(model, key="bad")
    except litellm.exceptions.APIError as error:
        return str(error)
    except litellm.exceptions.AuthenticationError as error:
        return f"401 {error}"
    return "nothing"


json.dump({
    "rankings": {model: rank(model, top_n=2) for model in BASES},
    "errors": {"key": [raised("cohere/m"), "401"]},
}, sys.stdout)  # fmt: skip
