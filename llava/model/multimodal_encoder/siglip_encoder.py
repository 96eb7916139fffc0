"""SigLIP's vision transformer as LLaVA's eye (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training")."""

from collections.abc import Iterable

from torch import Tensor, nn
from transformers import PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from llava.model.multimodal_encoder.tower import VisionTower


class SiglipVisionTower(VisionTower):
    """A frozen SigLIP; arguments as for the base class.

    It has no class token: ``cls_patch``, and projectors that read class tokens, raise UserError. Hidden states are the
    blocks' outputs, before the final layer norm.
    """

    config_class = SiglipVisionConfig
    model_class = SiglipVisionModel
    class_tokens = 0

    def _hold(self, model: PreTrainedModel) -> None:
        super()._hold(model)
        if self.select_feature == "cls_patch":
            self._require_class_token("mm_vision_select_feature cls_patch")
        # Its processor squeezes a picture to a square. Ours resizes by the shorter side and crops, as for every tower:
        # a square picture comes out alike, and image_aspect_ratio decides about the others.
        side = self.image_size
        self.image_processor.size = {"shortest_edge": side}
        self.image_processor.crop_size = {"height": side, "width": side}

    def _embed(self, images: Tensor) -> Tensor:
        return self.vision_tower.vision_model.embeddings(images)

    def _blocks(self) -> Iterable[nn.Module]:
        return self.vision_tower.vision_model.encoder.layers
