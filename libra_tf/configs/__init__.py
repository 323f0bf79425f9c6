"""Model Garden configs and experiments of the Libra detectors."""
