"""The names of the Libra experiments. Imports nothing, so that commands can read them quickly."""

# Descriptions by name. The functions are in `experiments`.
EXPERIMENTS = {
    "libra_retinanet_demo": "the built-in shapes, minutes on two CPU cores",
    "libra_fasterrcnn_demo": "the built-in shapes, minutes on two CPU cores",
    "libra_maskrcnn_demo": "the built-in shapes with masks, minutes on two CPU cores",
    "libra_retinanet_lite0": "a folder of your own images, from ImageNet weights, minutes on a CPU",
    "libra_fasterrcnn_lite0": "a folder of your own images, from ImageNet weights",
    "libra_retinanet_small": "a folder of your own images, minutes on two CPU cores",
    "libra_fasterrcnn_small": "a folder of your own images, a quarter of an hour on two CPU cores",
    "libra_maskrcnn_small": "a folder of your own images with masks, on two CPU cores",
    "libra_retinanet_resnetfpn_coco": "COCO, R-50-FPN, the published schedule",
    "libra_fasterrcnn_resnetfpn_coco": "COCO, R-50-FPN, the published schedule",
    "libra_fasterrcnn_resnextfpn_coco": "COCO, X-101-64x4d-FPN, the published schedule",
    "libra_fastrcnn_resnetfpn_coco": "COCO, R-50-FPN on given proposals, the published schedule",
    "libra_maskrcnn_resnetfpn_coco": "COCO, R-50-FPN with masks",
    "libra_cascadercnn_resnetfpn_coco": "COCO, R-50-FPN with three stages",
}
# Trained on the built-in shapes where no data set is named.
ON_SHAPES = ("libra_retinanet_demo", "libra_fasterrcnn_demo", "libra_maskrcnn_demo")
DEMO_EXPERIMENT = "libra_fasterrcnn_demo"
FOLDER_EXPERIMENT = "libra_retinanet_lite0"
