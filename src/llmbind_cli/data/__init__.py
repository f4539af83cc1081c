"""Training samples: readers, the dialogue builder, mixture and batches."""
