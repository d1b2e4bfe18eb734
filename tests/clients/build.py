"""Virtual environments of released rerank clients, one each, for `test_clients.py`.

python tests/clients/build.py FOLDER
POLYRANK_TEST_CLIENTS=FOLDER pytest tests/clients
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {  # one environment each: they want each other's dependencies in other versions
    "cohere": "cohere==7.3.1",
    "dashscope": "dashscope==2.0.2",
    "infinity": "infinity_client==0.0.78",
    "litellm": "litellm==1.106.2",
    "openai": "openai==3.54.0",
    "tei": "tei-client==0.2.4",
    "voyage": "voyageai==0.5.0",
}


def build(folder: Path) -> None:
    """Make what is not there yet."""
    for name, package in PACKAGES.items():
        home = folder / name
        if not (home / "done").exists():
            venv.create(home, with_pip=True, clear=True)
            subprocess.run([python(home), "-m", "pip", "install", "-q", package], check=True)
            (home / "done").touch()


def python(home: Path) -> Path:
    """The interpreter of an environment."""
    return home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
