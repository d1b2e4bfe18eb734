"""Train a reranker: data, mining, losses, the loop. Knows no command line and no evaluation."""

import os

# Before PyTorch is imported: its threads wait asleep. Where they spin, a step is some 8 % faster
# on an idle machine, and three times slower as soon as another program needs a core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
