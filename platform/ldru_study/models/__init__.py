"""The models that a study can name; build them with `ldru_study.models.registry.build_model`.

Every model is called as ``model(tokens, lengths)``: tokens int64 [B, T], each string followed by
any symbols of the alphabet as padding, and lengths int64 [B], each in 1..T. It returns logits
[B, C], which do not depend on the padding.

Some can also read long strings piece by piece, in memory that does not grow with them: those with
a method ``stream``; see `ldru_study.models.registry.begin_stream`.

The file of a kind has its name and defines the class that its configuration is named after:
`GruConfig` of `ldru_study.spec.model` is built by `Gru` in ``gru.py``. Nothing else registers it,
and the contract tests find it by its configuration. The README shows a model added so.
"""
