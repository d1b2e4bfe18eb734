"""The SDK of DashScope: its old call, and its client."""

import json
import sys
from http import HTTPStatus

import dashscope

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
dashscope.base_http_api_url = f"{address}/api/v1"


def call(key, documents, **options):
    return dashscope.TextReRank.call(
        model="gte-rerank-v2", query=query, documents=documents, api_key=key, **options
    )


best = call("good", documents, top_n=2, return_documents=True)
assert best.status_code == HTTPStatus.OK, best
assert all(r["document"]["text"] == documents[r.index] for r in best.output.results)
refused, wrong = call("bad", documents), call("good", documents, top_n=0)
assert (refused.output, wrong.output) == (None, None)
json.dump({
    "rankings": {"call": [[r.index, r.relevance_score] for r in best.output.results]},
    "errors": {
        "key": [f"{refused.status_code} {refused.code} {refused.message}", "401 InvalidApiKey"],
        "range": [f"{wrong.status_code} {wrong.code}", "400 InvalidParameter"],
    },
}, sys.stdout)  # fmt: skip
