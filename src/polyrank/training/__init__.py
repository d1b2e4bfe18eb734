"""Train a reranker: data, mining, losses, the loop. Knows no command line and no evaluation."""
