"""TensorRT and TensorRT-RTX on an NVIDIA GPU."""
