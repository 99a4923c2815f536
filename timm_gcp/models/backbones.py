"""The names of the backbones that are registered when the package is imported."""

__all__ = ["BACKBONES"]

BACKBONES = (
    # Convolutional networks.
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet10t", "test_resnet", "resnet50d"),
    *("resnext50_32x4d", "seresnet50", "seresnext50_32x4d", "wide_resnet50_2", "resnest50d", "resnet50_clip_gap"),
    *("resnetv2_50", "resnetv2_50x1_bit", "alexnet", "vgg16_bn", "densenet121", "densenet201", "inception_v3"),
    *("regnety_016", "regnety_032", "regnety_160", "repvgg_a0", "mobileone_s1", "hgnetv2_b0"),
    *("efficientnet_b0", "efficientnet_b3", "efficientnet_b4", "efficientnet_lite0", "tf_efficientnet_lite0"),
    *("tf_efficientnet_lite1", "tf_efficientnet_lite2", "tf_efficientnet_lite3", "tf_efficientnet_lite4"),
    *("efficientnetv2_rw_t", "efficientnetv2_rw_s", "tf_efficientnetv2_b0", "tf_efficientnetv2_b3"),
    *("tf_efficientnetv2_s", "tf_efficientnetv2_m", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *("mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_conv_large"),
    *("convnext_atto", "convnext_nano", "convnext_tiny", "convnext_small", "convnext_base"),
    *("convnextv2_atto", "convnextv2_nano", "convnextv2_tiny", "convnextv2_base"),
    # Convolution and attention.
    *("mobilenetv4_hybrid_medium", "mobilenetv4_hybrid_large", "edgenext_small", "edgenext_base"),
    *("fastvit_t8", "fastvit_t12", "fastvit_s12", "fastvit_sa12", "fastvit_sa24", "fastvit_ma36", "fastvit_mci0"),
    *("tiny_vit_5m_224", "tiny_vit_11m_224", "tiny_vit_21m_224", "tiny_vit_21m_384"),
    *("caformer_s18", "caformer_s36", "coatnet_0_rw_224", "maxvit_nano_rw_256", "maxvit_tiny_tf_224"),
    # Transformers of several resolutions.
    *("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224"),
    *("swinv2_tiny_window8_256", "swinv2_small_window8_256", "swinv2_base_window8_256"),
    *("swinv2_base_window12to16_192to256", "davit_tiny", "davit_base", "mvitv2_tiny", "pvt_v2_b2"),
    *("hiera_tiny_224", "hiera_small_224", "hiera_small_abswin_256", "hiera_base_224", "hiera_large_224"),
    # Vision transformers that were trained with labels,
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"),
    *("vit_medium_patch16_reg4_gap_256", "deit3_small_patch16_224", "deit3_base_patch16_224"),
    # as DINOv2 and DINOv3,
    *("vit_small_patch14_dinov2", "vit_base_patch14_dinov2", "vit_large_patch14_dinov2"),
    *("vit_small_patch14_reg4_dinov2", "vit_base_patch14_reg4_dinov2", "vit_large_patch14_reg4_dinov2"),
    *("vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3", "vit_base_patch16_dinov3"),
    *("vit_large_patch16_dinov3", "vit_tiny_patch16_dinov3_qkvb", "vit_small_patch16_dinov3_qkvb"),
    "vit_base_patch16_dinov3_qkvb",
    # as CLIP, SigLIP, SigLIP 2 and the Perception Encoder, with texts,
    *("vit_base_patch32_clip_224", "vit_base_patch16_clip_224", "vit_large_patch14_clip_224"),
    *("vit_base_patch16_clip_quickgelu_224", "vit_large_patch14_clip_quickgelu_224"),
    *("vit_base_patch32_siglip_256", "vit_base_patch16_siglip_224", "vit_base_patch16_siglip_256"),
    *("vit_base_patch16_siglip_384", "vit_large_patch16_siglip_256", "vit_so400m_patch14_siglip_224"),
    *("vit_pe_core_tiny_patch16_384", "vit_pe_core_small_patch16_384", "vit_pe_core_base_patch16_224"),
    *("vit_pe_core_large_patch14_336", "vit_pe_spatial_base_patch16_512"),
    # and on masked images.
    *("eva02_tiny_patch14_224", "eva02_small_patch14_224", "eva02_base_patch14_224", "eva02_large_patch14_224"),
    *("eva02_tiny_patch14_336", "eva02_small_patch14_336", "eva02_base_patch14_448", "eva02_large_patch14_448"),
    *("eva02_base_patch16_clip_224", "beit_base_patch16_224", "beitv2_base_patch16_224", "beitv2_large_patch16_224"),
)
"""The names. One that the installed timm lacks is left out."""
