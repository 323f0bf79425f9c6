"""Detects objects in images with a trained detector, without a server.

    python export/predict.py --model=runs/cells --output_dir=found images/ more/*.png
    python export/predict.py --model=served/cells --output_dir=found \
        --annotations=cells/annotations/instances_val.json cells/images

It draws the detections into found/pictures and writes all of them to found/detections.json in
COCO's results format. With annotations it also measures the average precision, and writes
found/evaluation.html, a page on what the detector gets right and wrong.
"""

from absl import app, flags

from libra_tf.commands import predict

if __name__ == "__main__":
    flags.adopt_module_key_flags(predict)
    app.run(predict.main)
