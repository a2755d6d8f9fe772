"""Images, persons and crops in; keypoints back into the image."""
