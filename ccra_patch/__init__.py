"""CCRA for LLaVA: a vision-language projector in which the question chooses vision layers and patches.

Needs torch and einops; knows nothing of llava, except in :mod:`ccra_patch.register`. Where to change what:

* :mod:`~ccra_patch.attention`: the equations of TokenImportance, LPWCA, LWCA and PWCA
* :mod:`~ccra_patch.integration`: how the steps go together; :mod:`~ccra_patch.removed`: what a missing one leaves
* :mod:`~ccra_patch.pai`: all of it as one module, and the maps it returns
* :mod:`~ccra_patch.projector`: the fusion with the selected layer
* :mod:`~ccra_patch.smoothing`: smoothing along depth
* :mod:`~ccra_patch.stack`, :mod:`~ccra_patch.lean`: the layer stack in two reads, and nothing else of its size
* :mod:`~ccra_patch.query`: which tokens are the question
* :mod:`~ccra_patch.settings`: flags and config keys
* :mod:`~ccra_patch.metrics`: how consistent the layers are (Table 2), ``python -m ccra_patch.analyze``
* :mod:`~ccra_patch.pointing`, :mod:`~ccra_patch.steering`: where CCRA looks, and by whose doing
* :mod:`~ccra_patch.picture`, :mod:`~ccra_patch.depth_picture`, :mod:`~ccra_patch.language_attention`: the paper's
  pictures (need matplotlib and pillow), ``python -m ccra_patch.draw``
* :mod:`~ccra_patch.baselines`: methods to compare with, one file each
* :mod:`~ccra_patch.studies`: the paper's comparisons as data, which ``python -m ccra_patch.sweep`` trains and evaluates

Shapes everywhere: B images, L vision layers, N patches, T query tokens, S tokens of a sequence, d vision width, D width
of the language model, h hidden width of the attentions.
"""

from ccra_patch.pai import AttentionMaps, PAIStack, num_attention_parameters
from ccra_patch.projector import CCRAProjector
from ccra_patch.query import QueryMarkers, select_query
from ccra_patch.settings import CCRASettings

__all__ = [
    "AttentionMaps",
    "CCRAProjector",
    "CCRASettings",
    "PAIStack",
    "QueryMarkers",
    "num_attention_parameters",
    "select_query",
]
