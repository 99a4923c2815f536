"""The mathematics: functions of tensors, without ``nn.Module`` and timm.

Notation in all files of this folder: ``x`` holds features, ``[..., C, M]`` (C channels at M positions);
``X̄ = X (I − 11ᵀ/M) / √M`` are the centred features; ``Σ = X̄ X̄ᵀ = V Λ Vᵀ`` is the covariance, ``s = √λ``; ``G`` is the
gradient of the loss with respect to the output.
"""
