"""Trained peers and their ensemble as artefacts for serving.

| file | its one job |
|---|---|
| `exporting` | the public function |
| `arguments` | which peers make which artefact; what else may be given |
| `serving_model` | raw inputs -> probabilities, as one Keras model |
| `writers` | a serving model as a file of each format |
| `process` | the same in another Python process, under another backend |
| `card` | the model card and the labels |
| `readme` | the card as a page, for people and model hubs |
| `formats` | what each format needs, and which backends write it |
| `folder` | a folder that appears whole or not at all |
"""

from keras_smkd.export.exporting import export

__all__ = ["export"]
