"""Virtual environments of released rerank clients, for `test_clients.py`.

python tests/clients/build.py FOLDER
POLYRANK_TEST_CLIENTS=FOLDER pytest tests/clients
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {  # one environment each: they want each other's dependencies in other versions
    "cohere": ("cohere==7.3.1",),
    "dashscope": ("dashscope==2.0.2",),
    "haystack": (
        "haystack-ai==3.4.1",
        "cohere-haystack==11.0.0",
        "huggingface-api-haystack==3.1.0",
        "jina-haystack==2.0.1",
        "vllm-haystack==3.0.1",
    ),
    "infinity": ("infinity_client==0.0.78",),
    "langchain": (
        "langchain-cohere==0.6.0",
        "langchain-community==0.4.2",
        "langchain-voyageai==0.4.1",
        "dashscope==2.0.2",
        "infinity_client==0.0.78",
    ),
    "litellm": ("litellm==1.106.2",),
    "llamaindex": (
        "llama-index-postprocessor-cohere-rerank==0.10.0",
        "llama-index-postprocessor-dashscope-rerank==0.6.0",
        "llama-index-postprocessor-jinaai-rerank==0.6.0",
        "llama-index-postprocessor-siliconflow-rerank==0.5.0",
        "llama-index-postprocessor-tei-rerank==0.6.0",
        "llama-index-postprocessor-voyageai-rerank==0.6.0",
        "llama-index-postprocessor-xinference-rerank==0.5.0",
    ),
    "openai": ("openai==3.54.0",),
    "tei": ("tei-client==0.2.4",),
    "voyage": ("voyageai==0.5.0",),
}


def build(folder: Path) -> None:
    """Make what is not there yet, or was made of other packages."""
    for name, packages in PACKAGES.items():
        home, wanted = folder / name, "\n".join(packages)
        done = home / "packages.txt"
        if not done.exists() or done.read_text() != wanted:
            venv.create(home, with_pip=True, clear=True)
            install = [python(home), "-m", "pip", "install", "-q", "--no-compile", *packages]
            subprocess.run(install, check=True)
            done.write_text(wanted)


def python(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
