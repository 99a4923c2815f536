"""The mathematics: tensors in, tensors out. Knows neither ``nn.Module`` nor timm.

Notation, here and in every file of this room: ``x`` holds features, ``[..., C, M]`` (C channels at M positions);
``X̄ = X (I − 11ᵀ/M) / √M`` are the centred features; ``Σ = X̄ X̄ᵀ = V Λ Vᵀ`` is the covariance, ``s = √λ``; ``G`` is the
gradient of the loss with respect to the output.
"""
