"""What one writes in an afternoon: FastAPI around sentence-transformers' CrossEncoder.

    python benchmarks/cross_encoder_server.py FOLDER PORT

The rival of `server_load.py`. Its requests run in FastAPI's threads, as they do without further
thought; `serial` as a third argument lets one in at a time.
"""

from __future__ import annotations

import sys
import threading
from contextlib import nullcontext
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import CrossEncoder


class Request(BaseModel):
    query: str
    documents: list[str]


def build(folder: str, serial: bool) -> FastAPI:
    app = FastAPI()
    model = CrossEncoder(folder, max_length=512, device="cpu")
    turn = threading.Lock() if serial else nullcontext()

    @app.post("/rerank")
    def rerank(request: Request) -> dict[str, Any]:
        pairs = [(request.query, document) for document in request.documents]
        with turn:
            scores = model.predict(pairs, show_progress_bar=False)
        rows = [{"index": i, "relevance_score": float(s)} for i, s in enumerate(scores)]
        return {"results": sorted(rows, key=lambda row: -row["relevance_score"])}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {}

    return app


if __name__ == "__main__":
    application = build(sys.argv[1], "serial" in sys.argv[3:])
    uvicorn.run(application, port=int(sys.argv[2]), log_level="warning")
