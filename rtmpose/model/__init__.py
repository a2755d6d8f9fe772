"""The network: from a checkpoint to an ONNX graph, and that graph in FP16 or INT8."""
