"""Where rows come from: files, folders, names of the hub, well-known datasets."""
