"""The encoder with its top layers trained: classifier of a hierarchy, or regressor of several scales at once.

``backbone``
    The sentence encoder's parts.
``states``
    What its frozen lower layers give, computed once for each text and kept on disk.
``model``
    The trained part: top layers and a head (conditional softmaxes, or scales).
``losses``, ``training``
    How it learns; the same data, seed and machine give the same weights.
``crossfit``
    Out-of-fold predictions.
``search``
    Hyperparameters by successive halving.
``export``
    One OpenVINO graph from token ids to the answer.
"""
