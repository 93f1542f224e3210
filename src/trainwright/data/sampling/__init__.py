"""The order of the data: which rows make up any step of a run."""
