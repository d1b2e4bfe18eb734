"""The network as an ONNX graph, and the sessions of ONNX Runtime that run it.

Microsoft's builds of ONNX Runtime keep a queue of events and look up a host for them, as soon as
they are imported and whatever is switched off later. Importing this room first keeps them from it.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
