"""Images, persons and crops in; keypoints back into the image.

Everywhere in the kit, ``input_size`` is width and height of a crop in pixels. ``center`` (x, y) and ``scale`` (width,
height) are float32 (2,): the region of the image that is cropped, in image pixels. Of N persons with K keypoints each,
keypoints are float32 (N, K, 2), x and y, and scores float32 (N, K).
"""
