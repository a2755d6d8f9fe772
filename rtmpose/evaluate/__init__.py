"""Keypoint AP, agreement with another engine, and throughput. Returns results and prints nothing."""
