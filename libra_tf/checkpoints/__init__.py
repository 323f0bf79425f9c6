"""Imports PyTorch checkpoints of MMDetection and torchvision."""
