"""What the trainings under tools/ share: optimizers, and states that a stopped one goes on from."""
