"""CCRA for LLaVA: the vision-language projector of the paper, in torch and einops alone."""
