"""RTMPose-t trained from scratch on drawn people.

    crops     pictures -> augmented training crops
    learner   crops -> network: losses, optimizer, averaged weights
    loop      rounds of crops, validation, saved state, checkpoint
"""
