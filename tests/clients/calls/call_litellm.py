"""litellm, which speaks for seven vendors."""

import litellm
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

BASES = {
    "cohere/m": address,
    "jina_ai/m": address,
    "hosted_vllm/m": address,
    "infinity/m": f"{address}/infinity",
    "huggingface/m": address,
    "voyage/m": address,
    "dashscope/m": address,
}


def rank(model, key="good", documents=documents, **options):
    answer = litellm.rerank(
        model=model, query=query, documents=documents, api_base=BASES[model], api_key=key, **options
    )
    return rows(answer.results)


for model in BASES:
    ranking(model, rank(model))
    if model != "huggingface/m":  # where it forgets about top_n
        ranking(f"{model}, the best", rank(model, top_n=2), 2)
    error(f"{model} key", lambda model=model: rank(model, key="bad"), "AuthenticationError")
    error(f"{model} empty", lambda model=model: rank(model, documents=[]), "empty")
    error(f"{model} many", lambda model=model: rank(model, documents=many), "20")
    error(f"{model} large", lambda model=model: rank(model, documents=large), "100000 bytes")
    overload(f"{model} overload", lambda model=model: rank(model), "RateLimitError")
report()
