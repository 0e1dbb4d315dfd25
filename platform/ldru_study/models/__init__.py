"""The models that a study can name; build them with `ldru_study.models.registry.build_model`.

Every model is called as ``model(tokens, lengths)``: tokens int64 [B, T], each string followed by
any symbols of the alphabet as padding, and lengths int64 [B], each in 1..T. It returns logits
[B, C], which do not depend on the padding.

Some can also read long strings piece by piece, in memory that does not grow with them; see
`ldru_study.models.registry.begin_stream`.
"""
