"""The rerankers of LlamaIndex. Without documents they ask no server.

Not all of them have an argument for the address, or for the key; see `VOYAGE` and `xinference`.
"""

from functools import partial

import dashscope
import requests
import voyageai
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
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.dashscope_rerank import DashScopeRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from llama_index.postprocessor.voyageai_rerank import VoyageAIRerank
from llama_index.postprocessor.xinference_rerank import XinferenceRerank

dashscope.base_http_api_url = f"{address}/api/v1"


def voyage(key, top_n):
    """It has no argument for the address; its client, which is private, does."""
    reranker = VoyageAIRerank(model="m", api_key=key, top_n=top_n)
    reranker._client = voyageai.Client(key, base_url=f"{address}/voyage/v1")
    return reranker


def xinference(key, top_n):
    """It has no argument for the key, and calls `requests.post`."""
    with_key = {"authorization": f"Bearer {key}"}
    requests.post = lambda headers, **rest: requests.request(
        "post", headers={**headers, **with_key}, **rest
    )
    return XinferenceRerank(base_url=address, model="m", top_n=top_n)


MAKE = {
    "cohere": lambda key, top_n: CohereRerank(
        api_key=key, base_url=address, model="m", top_n=top_n
    ),
    "dashscope": lambda key, top_n: DashScopeRerank(api_key=key, model="m", top_n=top_n),
    "jina": lambda key, top_n: JinaRerank(
        api_key=key, base_url=f"{address}/v1", model="m", top_n=top_n
    ),
    "siliconflow": lambda key, top_n: SiliconFlowRerank(
        api_key=key, base_url=f"{address}/v1/rerank", model="m", top_n=top_n
    ),
    "tei": lambda key, top_n: TextEmbeddingInference(
        auth_token=f"Bearer {key}", base_url=address, top_n=top_n
    ),
    "voyage": voyage,
    "xinference": xinference,
}
COMMON = ("API key is not valid", "at most 20", "at most 100000 bytes", "too many requests")
WORDS = {  # of a bad key, too many documents, too large a body, and of being overloaded
    "cohere": ("UnauthorizedError", "at most 20", "413", None),  # it tries again
    "dashscope": ("NoneType",) * 4,  # it looks at no status
    "jina": COMMON,
    "siliconflow": COMMON,
    "tei": (
        "JSONDecodeError",
        "AssertionError",
        "JSONDecodeError",
        "AssertionError",
    ),  # nor does it
    "voyage": ("AuthenticationError", "at most 20", "413", "RateLimitError"),
    "xinference": COMMON,
}


def rank(name, key="good", documents=documents, top_n=count):
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in documents]
    best = MAKE[name](key, top_n).postprocess_nodes(nodes, query_str=query)
    return found((node.text, node.score) for node in best)


for name, (bad_key, too_many, too_large, overloaded) in WORDS.items():
    ranking(name, rank(name))
    ranking(f"{name}, the best", rank(name, top_n=2), 2)
    assert rank(name, documents=[]) == []
    error(f"{name} key", partial(rank, name, "bad"), bad_key)
    error(f"{name} many", partial(rank, name, documents=many), too_many)
    error(f"{name} large", partial(rank, name, documents=large), too_large)
    if overloaded is None:
        retried(f"{name} overload", partial(rank, name))
    else:
        overload(f"{name} overload", partial(rank, name), overloaded)
report()
