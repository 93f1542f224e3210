"""The job database: what is known of every job."""
