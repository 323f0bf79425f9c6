"""What a detector gets right and wrong: numbers from ground truth and detections, and their page.

The numbers need only NumPy and pycocotools, so they are there for the results of any detector.
"""
