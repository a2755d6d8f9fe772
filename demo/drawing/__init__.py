"""Drawn people: a data set in COCO's layout, made from code and a seed only.

In the order of the data:

    shapes        outlines and colours
    body          proportions and pose -> skeleton in 3D
    outfit        colours and clothes
    camera        viewpoint, 3D -> pixels
    dress         skeleton, outfit, camera -> coloured parts and keypoints
    surroundings  background, objects, lighting, blur and noise
    scene         people in surroundings -> picture, keypoints with visibility, masks
    dataset       pictures -> files in COCO's layout

Drawn people are easier than real ones. They are mannequins made of convex parts, seen without perspective, mostly from
the front, the back or the side. Nobody lies down or does a handstand. At least half of each person is visible. Clothes
are close-fitting, and limbs have a darker outline. There are no crowds, mirrors, motion blur or lookalikes (posters,
statues).
"""
