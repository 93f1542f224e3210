"""Complete applications on the ordinary front doors."""
