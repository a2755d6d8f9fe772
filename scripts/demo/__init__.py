"""Drawn people: a data set in COCO's layout and a network trained on it, all from our own code and a seed.

The way of the data, one file a step:

    shapes        outlines and colours, the vocabulary of the rest
    body          proportions and pose -> skeleton in space
    outfit        colours and clothes
    camera        where the camera stands -> pixels
    dress         skeleton, outfit, camera -> coloured parts and keypoints
    surroundings  background, things, light and lens
    scene         people in surroundings -> picture, keypoints with visibility, masks
    dataset       pictures -> files in COCO's layout
    crops         pictures -> augmented training crops
    learner       crops -> network: losses, optimiser, average weights
    training      rounds of crops, validation, state and checkpoint

Where it is easier than life: people are mannequins made of convex parts, seen by a camera without perspective, mostly
from the front, the back or the side; nobody lies down or stands on their hands; at least half of each person is
visible; clothes are close-fitting and limbs carry a darker outline; there are no crowds, no mirrors, no motion blur
and no lookalikes (posters, statues).
"""
