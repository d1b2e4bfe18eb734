"""polyrank: multilingual, long-context reranking on your own machine."""
