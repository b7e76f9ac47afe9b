"""Detection and instance segmentation on what was pretrained, through mmdetection."""
