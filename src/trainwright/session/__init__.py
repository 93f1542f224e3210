"""The parts of one run: what a Trainer has assembled, where the run stands, and what watches over its steps."""
