"""Published ImageNet weights for Model Garden's backbones: `task.init_checkpoint=imagenet`."""
