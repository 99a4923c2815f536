"""The reduction before the covariance: fewer channels, by a 1×1 convolution or a linear map."""

from collections import OrderedDict

from timm.layers import LayerNorm2d
from torch import nn

__all__ = ["reduction_of"]


def reduction_of(kind: str, in_features: int, out_features: int) -> nn.Sequential:
    """The reduction of a map ``[B, C, H, W]`` → ``[B, R, H, W]``.

    - ``'conv'``: 1×1 convolution without bias, batch norm, ReLU, as in the covariance networks for images (iSQRT-COV,
      CVPR 2018).
    - ``'linear'``: the 1×1 convolution alone, with orthonormal rows. It commutes with the covariance:
      cov(WX) = W cov(X) Wᵀ.
    - ``'linear_norm'``: the linear map, then LayerNorm over the R channels of each position, as in Moment Probing (ICCV
      2023). The norm comes after the map because the tokens of a ViT have passed its final norm already: before the map
      it would change little; after it every token has the same length, so a few tokens of large norm cannot dominate
      the covariance. (The second-order transformer, arXiv 2104.10935, has the linear map alone.)

    Args:
        kind: one of ``pool_options.REDUCTIONS``.
        in_features: channels C of the incoming map.
        out_features: channels R.

    Returns:
        The layers, by the names ``conv``, ``norm`` and ``act``.
    """
    conv = nn.Conv2d(in_features, out_features, 1, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if kind == "conv":
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers.update(norm=nn.BatchNorm2d(out_features), act=nn.ReLU(inplace=True))
        return nn.Sequential(layers)
    nn.init.orthogonal_(conv.weight)
    if kind == "linear_norm":
        layers.update(norm=LayerNorm2d(out_features))
    return nn.Sequential(layers)
