"""The frozen models that carry out task calls: one generator for each modality."""
