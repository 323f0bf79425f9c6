"""The names of the Libra experiments. Imports nothing, so that commands can read them quickly."""

# The functions are in `experiments`.
EXPERIMENTS = (
    "libra_retinanet_demo",
    "libra_fasterrcnn_demo",
    "libra_maskrcnn_demo",
    "libra_retinanet_lite0",
    "libra_fasterrcnn_lite0",
    "libra_retinanet_small",
    "libra_fasterrcnn_small",
    "libra_maskrcnn_small",
    "libra_retinanet_resnetfpn_coco",
    "libra_fasterrcnn_resnetfpn_coco",
    "libra_fasterrcnn_resnextfpn_coco",
    "libra_fastrcnn_resnetfpn_coco",
    "libra_maskrcnn_resnetfpn_coco",
    "libra_cascadercnn_resnetfpn_coco",
)
# Trained on the built-in shapes where no data set is named.
ON_SHAPES = ("libra_retinanet_demo", "libra_fasterrcnn_demo", "libra_maskrcnn_demo")
DEMO_EXPERIMENT = "libra_fasterrcnn_demo"
FOLDER_EXPERIMENT = "libra_retinanet_lite0"
