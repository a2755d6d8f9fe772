"""INT8: quantize a graph, calibrate its scales, equalize the channels of its activations."""
