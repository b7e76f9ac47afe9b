"""Detection and instance segmentation on what was pretrained, through mmdetection.

mmdetection is optional (`extra` says what is missing): it is imported in functions alone. Here are
the data sets in COCO's format, the backbone as mmdetection wants it, and its configurations.
"""
