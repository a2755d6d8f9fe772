"""What an engine is worth: keypoint AP, agreement with another engine, throughput. Returns results, prints nothing."""
