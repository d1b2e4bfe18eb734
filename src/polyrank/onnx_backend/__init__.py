"""The network as an ONNX graph. The graph is here; the engine that runs it is being built."""
