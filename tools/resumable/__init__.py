"""What the trainings under tools/ share: optimizers, number formats, states to go on from."""
