"""The rerankers of LangChain. Without documents they ask no server."""

from functools import partial

import dashscope
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
from infinity_client import Client
from langchain_cohere import CohereRerank
from langchain_community.document_compressors import jina_rerank
from langchain_community.document_compressors.dashscope_rerank import DashScopeRerank
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_core.documents import Document
from langchain_voyageai import VoyageAIRerank

dashscope.base_http_api_url = f"{address}/api/v1"
jina_rerank.JINA_API_URL = f"{address}/v1/rerank"  # it has no argument for it


def infinity(key, top_n):
    headers = {"authorization": f"Bearer {key}"}
    client = Client(base_url=f"{address}/infinity", headers=headers)
    return InfinityRerank(client=client, model="m", top_n=top_n)


MAKE = {
    "cohere": lambda key, top_n: CohereRerank(
        base_url=address, cohere_api_key=key, model="m", top_n=top_n
    ),
    "dashscope": lambda key, top_n: DashScopeRerank(dashscope_api_key=key, top_n=top_n),
    "infinity": infinity,
    "jina": lambda key, top_n: jina_rerank.JinaRerank(jina_api_key=key, top_n=top_n),
    "voyage": lambda key, top_n: VoyageAIRerank(
        base_url=f"{address}/voyage/v1", api_key=key, model="m", top_k=top_n
    ),
}
WORDS = {  # of a bad key, of too many documents, and of being overloaded
    "cohere": ("UnauthorizedError", "at most 20", None),  # it tries again
    "dashscope": ("NoneType", "NoneType", "NoneType"),  # it looks at no status
    "infinity": ("NoneType", "KeyError", "NoneType"),  # nor does it
    "jina": ("the API key is not valid", "at most 20", "too many requests"),
    "voyage": ("AuthenticationError", "at most 20", "RateLimitError"),
}


def rank(name, key="good", documents=documents, top_n=count):
    texts = [Document(page_content=text) for text in documents]
    best = MAKE[name](key, top_n).compress_documents(texts, query)
    return found((d.page_content, d.metadata["relevance_score"]) for d in best)


for name, (bad_key, too_many, overloaded) in WORDS.items():
    ranking(name, rank(name))
    ranking(f"{name}, the best", rank(name, top_n=2), 2)
    assert rank(name, documents=[]) == []
    error(f"{name} key", partial(rank, name, "bad"), bad_key)
    error(f"{name} many", partial(rank, name, documents=many), too_many)
    error(f"{name} large", partial(rank, name, documents=large), "Error")
    if overloaded is None:
        retried(f"{name} overload", partial(rank, name))
    else:
        overload(f"{name} overload", partial(rank, name), overloaded)
report()
