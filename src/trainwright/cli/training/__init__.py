"""Commands about one run, from its file on."""
