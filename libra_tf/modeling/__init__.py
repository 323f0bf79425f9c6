"""Model Garden parts built on the Libra layers: decoder, backbone, sampler, losses, detectors."""
