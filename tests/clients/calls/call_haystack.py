"""The rankers of Haystack. Without documents most of them ask no server."""

from functools import partial

from common import (
    address,
    count,
    documents,
    error,
    found,
    large,
    many,
    overload,
    query,
    ranking,
    report,
    retried,
)
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker

MAKE = {
    "cohere": lambda key, top_k: CohereRanker(
        model="m", api_key=key, api_base_url=address, top_k=top_k
    ),
    "jina": lambda key, top_k: JinaRanker(
        model="m", api_key=key, base_url=f"{address}/v1/rerank", top_k=top_k
    ),
    "tei": lambda key, top_k: HuggingFaceTEIRanker(url=address, token=key, top_k=top_k),
    "vllm": lambda key, top_k: VLLMRanker(
        model="m", api_key=key, api_base_url=f"{address}/v1", top_k=top_k
    ),
}
COMMON = ("API key is not valid", "at most 20", "at most 100000 bytes", "too many requests")
WORDS = {  # of a bad key, too many documents, too large a body, and of being overloaded
    "cohere": ("invalid api token", "at most 20", "at most 100000 bytes", None),  # it tries again
    "jina": COMMON,
    "tei": ("401", "422", "413", None),  # it tries again
    "vllm": COMMON,
}


def rank(name, key="good", documents=documents, top_k=count):
    ranker = MAKE[name](Secret.from_token(key), top_k)
    texts = [Document(content=text, id=str(i)) for i, text in enumerate(documents)]
    best = ranker.run(query=query, documents=texts)["documents"]
    return found((d.content, d.score) for d in best)


for name, (bad_key, too_many, too_large, overloaded) in WORDS.items():
    ranking(name, rank(name))
    ranking(f"{name}, the best", rank(name, top_k=2), 2)
    if name == "cohere":
        error("cohere empty", partial(rank, name, documents=[]), "must not be empty")
    else:
        assert rank(name, documents=[]) == []
    error(f"{name} key", partial(rank, name, "bad"), bad_key)
    error(f"{name} many", partial(rank, name, documents=many), too_many)
    error(f"{name} large", partial(rank, name, documents=large), too_large)
    if overloaded is None:
        retried(f"{name} overload", partial(rank, name))
    else:
        overload(f"{name} overload", partial(rank, name), overloaded)
report()
