"""Weights from elsewhere: PyTorch checkpoints of MMDetection and torchvision."""
