"""Benchmark kit for RTMPose: data <- model <- engines <- evaluate <- report, each room knowing those before it."""
